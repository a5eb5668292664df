"""Drawing to a target, mixing by share, taking from long documents: exact, reproducible, without copies."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfassets.errors import DataError, PartialFailureError, UsageError
from hfassets.mds.draw import Survey, threshold
from hfassets.mds.extend import Domain, Extension
from hfassets.mds.sample import Member, Sampling, by_share, make_sampling, training_tokens
from hfassets.mds.stage import StageOutput, find_stage, make_stage
from hfassets.mds.upstream import upstream
from hfassets.mds.verify import verify_mds
from hfassets.tokens.rules import ChunkRule
from hfassets_tests.mds.pipeline import Pipeline, samples, tree


def surveys(parts: list[list[tuple[int, int]]]) -> list[Survey]:
    """From (priority, tokens) of each document."""
    return [
        Survey(
            np.array([one for one, _ in part], dtype=np.uint64),
            np.array([tokens for _, tokens in part], dtype=np.int64),
            np.ones(len(part), dtype=np.int64),
        )
        for part in parts
    ]


priorities = st.integers(0, 3) | st.integers(0, 2**64 - 1) | st.integers(2**48, 2**48 + 9)


@given(st.lists(st.lists(st.tuples(priorities, st.integers(1, 50)), max_size=8), min_size=1, max_size=4), st.data())
def test_a_target_is_met_within_one_document(parts: list[list[tuple[int, int]]], data: Any) -> None:
    """Never more than asked for, and no document that is left would still fit; before the first one that was too large,
    documents are taken in the order of their priorities."""
    found = surveys(parts)
    total = sum(tokens for part in parts for _, tokens in part)
    if not total:
        return
    target = data.draw(st.integers(1, total))
    stop = threshold([partial(lambda one: one, survey) for survey in found], target)
    taken = [stop.takes(survey, number) for number, survey in enumerate(found)]
    got = sum(int(survey.tokens[ones].sum()) for survey, ones in zip(found, taken, strict=True))
    left = [parts[number][place][1] for number, ones in enumerate(taken) for place in np.flatnonzero(~ones).tolist()]
    assert got <= target and all(tokens > target - got for tokens in left)
    order = sorted(
        (priority, number, place) for number, part in enumerate(parts) for place, (priority, _) in enumerate(part)
    )
    flags = [bool(taken[number][place]) for _, number, place in order]
    first_left = flags.index(False) if False in flags else len(flags)
    prefix = sum(parts[number][place][1] for _, number, place in order[:first_left])
    assert first_left == len(flags) or prefix + parts[order[first_left][1]][order[first_left][2]][1] > target


def draw(made: Pipeline, root: Path, tokens: int | None, **given: Any) -> StageOutput:
    """A sample of the chunks."""
    source = made.root / "chunks"
    found = find_stage(source)
    assert found is not None
    member = Member("chunks", source, found.fingerprint, tokens)
    return make_sampling(Sampling(root, [member], given.pop("seed", 7), **given), made.run)


def test_without_a_target_all_is_linked(made: Pipeline, tmp_path: Path, streaming: Any) -> None:
    """Both sides, no bytes twice on disk; again nothing is done."""
    output = draw(made, tmp_path / "whole", None)
    shard = next((tmp_path / "whole/train").glob("*/shard.00000.mds"))
    assert shard.stat().st_nlink >= 2
    whole = samples(made.root / "chunks")
    sides = {side: samples(tmp_path / "whole" / side) for side in ("train", "validation")}
    assert sum(map(len, sides.values())) == len(whole)
    assert not {one["id"] for one in sides["train"]} & {one["id"] for one in sides["validation"]}
    assert output.account["tokens_train"] == training_tokens(made.root / "chunks")
    dataset = streaming.StreamingDataset(local=str(tmp_path / "whole"), split="train", batch_size=1)
    assert len(dataset) == len(sides["train"])
    assert draw(made, tmp_path / "whole", None).reused
    assert not verify_mds(tmp_path / "whole").faults


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0, 2.3])
def test_a_target_is_met_down_and_up(made: Pipeline, tmp_path: Path, share: float) -> None:
    """Whole documents over all parts; up by whole repeats and a part; the validation side stays whole."""
    total = training_tokens(made.root / "chunks")
    target = int(total * share)
    output = draw(made, tmp_path / "some", target)
    rows = samples(tmp_path / "some/train")
    got = sum(len(one["input_ids"]) for one in rows)
    assert got == output.account["tokens_train"]
    assert 0 <= target - got < 50
    pieces: dict[tuple[str, int], int] = {}
    for one in rows:
        pieces[one["id"], one["offset"]] = pieces.get((one["id"], one["offset"]), 0) + 1
    of: dict[str, set[int]] = {}
    for (document, _), times in pieces.items():
        of.setdefault(document, set()).add(times)
    assert all(len(times) == 1 for times in of.values())
    assert {next(iter(times)) for times in of.values()} <= {int(share), int(share) + 1}
    if share == 0.05:
        assert len({path.parent.name for path in (tmp_path / "some/train").glob("*/index.json")}) > 5
    assert output.account["rows_validation"] == draw(made, tmp_path / "all", None).account["rows_validation"]


def test_a_draw_follows_from_its_seed(made: Pipeline, tmp_path: Path) -> None:
    """The same seed, the same bytes with more workers; another seed, others; by force the same again."""
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    draw(made, first, 50_000)
    draw(replace(made, workers=3), again, 50_000)
    draw(made, other, 50_000, seed=8)
    assert tree(first) == tree(again) != tree(other)


def test_a_mixture_has_its_shares(made: Pipeline, tmp_path: Path, streaming: Any) -> None:
    """Within a thousandth, one index a side over all members, each in a folder of its name."""
    draw(made, tmp_path / "other", None)
    members = []
    for name, root in (("chunks", made.root / "chunks"), ("other", tmp_path / "other")):
        found = find_stage(root)
        assert found is not None
        members.append(Member(name, root, found.fingerprint))
    shares = {"chunks": 0.7, "other": 0.3}
    there = {member.name: training_tokens(member.root) for member in members}
    asked = by_share(members, shares, there, 300_001)
    assert sum(member.tokens or 0 for member in asked) == 300_001
    output = make_sampling(Sampling(tmp_path / "mix", asked, 7, "training_mds", nested=True), made.run)
    for one in output.details["members"]:
        assert abs(one["share_got"] - shares[one["name"]]) < 0.001
        assert 0 <= one["asked"] - one["got"] < 50
    assert {path.name for path in (tmp_path / "mix/train").iterdir()} == {"chunks", "other", "index.json"}
    dataset = streaming.StreamingDataset(local=str(tmp_path / "mix"), split="train", batch_size=1)
    assert sum(len(dataset[place]["input_ids"]) for place in range(len(dataset))) == sum(
        one["got"] for one in output.details["members"]
    )
    most = by_share(members, shares, there, None)
    assert all((member.tokens or 0) <= there[member.name] for member in most)
    with pytest.raises(UsageError, match="have to be positive and add up to 1"):
        by_share(members, {"chunks": 0.7, "other": 0.7}, there, None)


def test_members_of_other_columns_are_refused(made: Pipeline, tmp_path: Path) -> None:
    """Said with their columns before anything is written; a folder of somebody else stays."""
    made.chunks(ChunkRule(128, "concat"), "concat")
    members = []
    for name in ("chunks", "concat"):
        found = find_stage(made.root / name)
        assert found is not None
        members.append(Member(name, made.root / name, found.fingerprint))
    with pytest.raises(DataError, match="concat has id, input_ids, spans: chunk them by one rule"):
        make_sampling(Sampling(tmp_path / "mix", members), made.run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(DataError, match="was not written by hfassets"):
        draw(made, tmp_path / "mine", None)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".parts")] == ["mine"]


def test_long_documents_make_long_rows(made: Pipeline, tmp_path: Path) -> None:
    """Only documents that are long enough, to the budget of each bucket, none of the validation side."""
    domain = Domain("docs", upstream(made.root / "tokens"), 1.0)
    buckets = {512: 0.5, 1024: 0.5}
    extension = Extension(tmp_path / "long", [domain], 60_000, ChunkRule(512), made.engine.specials, buckets, seed=3)
    output = make_stage(extension.stage(), made.run)
    lengths = {one["id"]: one["len"] for one in samples(made.root / "tokens")}
    validation = {one["id"] for part in (made.root / "tokens").glob("part_*/validation") for one in samples(part)}
    rows = samples(tmp_path / "long")
    taken = {one["id"] for one in rows}
    assert not taken & validation and all(lengths[one] >= 512 for one in taken)
    for least, most in ((512, 1024), (1024, 1 << 40)):
        got = sum(lengths[one] for one in taken if least <= lengths[one] < most)
        assert 30_000 - 512 < got <= 30_000
    assert output.account["tokens_in"] == sum(lengths[one] for one in taken)
    assert max(len(one["input_ids"]) for one in rows) == 512
    with pytest.raises(DataError, match=r"docs, documents of from 10,000,000 tokens: 60,000 tokens are asked for"):
        replace(extension, buckets={10_000_000: 1.0}).stage()
    with pytest.raises(UsageError, match="shares of the buckets"):
        replace(extension, buckets={512: 0.9}).stage()


def test_a_missing_shard_is_said(made: Pipeline, tmp_path: Path) -> None:
    """Nothing is published then."""
    import shutil

    shutil.copytree(made.root / "chunks", tmp_path / "chunks")
    found = find_stage(tmp_path / "chunks")
    assert found is not None
    next((tmp_path / "chunks").glob("part_*/train/*.mds")).unlink()
    member = Member("chunks", tmp_path / "chunks", found.fingerprint)
    with pytest.raises(PartialFailureError, match="the index names it, and it is not there"):
        make_sampling(Sampling(tmp_path / "some", [member]), made.run)
    assert not (tmp_path / "some").exists()
