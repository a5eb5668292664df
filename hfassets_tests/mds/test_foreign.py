"""An MDS that somebody else has written, as a source of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hfassets.catalog.load import load_catalog
from hfassets.catalog.lock import Lock, RecipePartition, RepoLock, partitions
from hfassets.errors import DataError, PartialFailureError
from hfassets.mds.documents import Columns
from hfassets.mds.from_catalog import Recipes
from hfassets.mds.index import write_merged
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_folder
from hfassets.mds.reader import MdsReader
from hfassets.mds.stage import StageOutput, StageRun, make_stage
from hfassets.storage.state import StateDir
from hfassets_tests.mds.pipeline import corpus

TEXTS = [row["text"] or "x" for row in corpus(400)]


@dataclass
class Foreign:
    """Where one lies, and how it is converted."""

    root: Path
    streaming: Any

    def write(self, columns: dict[str, str], rows: Sequence[Any], **given: Any) -> None:
        """By the unmodified MDSWriter, in small shards."""
        out = self.root / "foreign" / given.pop("below", "")
        with self.streaming.MDSWriter(columns=columns, out=str(out), size_limit=40_000, **given) as writer:
            for row in rows:
                writer.write(row)

    def convert(self, name: str = "text", **given: Any) -> StageOutput:
        """As text."""
        state = StateDir(self.root / "state")
        target = Target(self.root / name, state, cut=Cut(30_000), **given)
        return make_stage(from_folder(self.root / "foreign", target).stage(), StageRun(state, workers=2))

    def texts(self) -> list[tuple[str, str]]:
        """Ids and texts of what was made."""
        return [(one["id"], one["text"]) for one in MdsReader(self.root / "text")]


@pytest.fixture
def foreign(tmp_path: Path, streaming: Any) -> Foreign:
    """A place for one."""
    return Foreign(tmp_path, streaming)


@pytest.mark.parametrize("compression", [None, "zstd:3"])
def test_its_samples_are_the_documents(foreign: Foreign, compression: str | None) -> None:
    """Every one, in order, in some parts; an id that is a number is written as text, other columns are left."""
    rows = [{"text": text, "id": number, "len": len(text)} for number, text in enumerate(TEXTS)]
    columns = {"text": "str", "id": "int", "len": "int"}
    foreign.write(columns, rows, compression=compression, hashes=["sha1"])
    made = foreign.convert()
    assert foreign.texts() == [(str(number), text) for number, text in enumerate(TEXTS)]
    assert made.account["rows_read"] == len(TEXTS) and made.parts_made > 2
    assert foreign.convert().reused


def test_folders_of_them_are_one_source(foreign: Foreign) -> None:
    """Under an index over all; ids that are not there are made of the shard and the row."""
    for number in range(3):
        foreign.write({"body": "str"}, [{"body": text} for text in TEXTS[number::3]], below=f"d{number}")
    write_merged(foreign.root / "foreign")
    foreign.convert(columns=Columns("body"))
    found = foreign.texts()
    assert [text for _, text in found] == [text for number in range(3) for text in TEXTS[number::3]]
    assert len({name for name, _ in found}) == len(found) and found[0][0] == "d0/shard.00000.mds#0"


def test_what_is_wrong_with_it_is_one_line(foreign: Foreign) -> None:
    """No column for the text, with those that it has; a shard that is cut; one that is gone."""
    foreign.write(
        {"input_ids": "ndarray:uint16", "id": "str"}, [{"input_ids": np.arange(40, dtype=np.uint16), "id": "a"}]
    )
    with pytest.raises(PartialFailureError, match="no column 'text' for the text; there are id, input_ids"):
        foreign.convert()
    shard = foreign.root / "foreign/shard.00000.mds"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(PartialFailureError, match=r"shard\.00000\.mds") as failure:
        foreign.convert("other")
    assert "\n" not in str(failure.value)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard\.00000\.mds: the index names it, and it is not there"):
        foreign.convert("third")


def test_a_recipe_names_it(foreign: Foreign) -> None:
    """In the catalog, as any other source."""
    foreign.write({"text": "str", "id": "str"}, [{"text": text, "id": f"n{n}"} for n, text in enumerate(TEXTS)])
    file = foreign.root / "catalog.yaml"
    file.write_text("mds:\n  - name: old\n    source: {mds: foreign}\n    tokenizer: org/tok\n")
    catalog = load_catalog(file)
    lock = RepoLock(
        repo="org/tok",
        repo_type="model",
        revision="main",
        commit="a" * 40,
        configs=(),
        default_config=None,
        synced_at="",
    )
    recipe = next(one for one in partitions(catalog, Lock((lock,))) if isinstance(one, RecipePartition))
    made = Recipes(catalog).make_text(recipe)
    assert made.account["documents_train"] == len(TEXTS) and made.root.name.startswith("foreign-")
