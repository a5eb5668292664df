"""A teacher's files: of the Hub, pinned and proven, or a folder here; and whether it speaks of the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from hfassets.errors import DataError
from hfassets.hub.acquire import commit_listing
from hfassets.hub.download import resolve_revision
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient
from hfassets.mds.inputs import hashed_files
from hfassets.progress import ProgressCallback, silent
from hfassets.sources.cached import cached_path, fetch_sources
from hfassets.storage.state import StateDir
from hfassets.tokens.engine import CONFIG_FILES, TOKENIZER_FILE
from hfassets.tokens.vocabulary import Vocabulary

CONFIG = "config.json"
_MORE = ("generation_config.json", TOKENIZER_FILE, *CONFIG_FILES)
WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class TeacherModel:
    """A model's folder. `identity`: repo and commit, or name, size and SHA-256 of each file that counts."""

    name: str
    path: Path
    identity: Any
    config: Mapping[str, Any]

    @property
    def head(self) -> int | None:
        """Tokens that it can say; None when its config does not tell."""
        return _number(self.config, "vocab_size")

    @property
    def max_positions(self) -> int | None:
        """The longest row that it has learnt to read; None when its config does not tell."""
        return _number(self.config, "max_position_embeddings") or _number(self.config, "n_positions")

    @property
    def reads_on(self) -> bool:
        """Whether it can read longer rows, badly: by rotary positions; others have none behind their limit."""
        return any(name.startswith("rope") for name in self.config)

    @property
    def files(self) -> dict[str, int]:
        """Its files by name, with their sizes in bytes."""
        return {path.name: path.stat().st_size for path in sorted(self.path.iterdir()) if path.is_file()}

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """That of the tokenizer beside it; None when there is none that the tokenizers library reads."""
        from tokenizers import Tokenizer

        path = self.path / TOKENIZER_FILE
        if not path.exists():
            return None
        try:
            return Vocabulary.of(Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True))
        except Exception as error:
            # The library raises plain Exception for whatever is wrong with the file.
            raise DataError(f"{path}: not a tokenizer.json that can be read: {error}") from error


def local_teacher(path: Path, state: StateDir, progress: ProgressCallback = silent) -> TeacherModel:
    """The model of a folder; raises DataError when there is none."""
    config = _config(path)
    weights = sorted(path.glob(f"*{WEIGHTS}"))
    if not weights:
        raise DataError(f"{path}: no *{WEIGHTS} in it; weights in other forms are not read, they can hold programs")
    files = hashed_files(path, [path / CONFIG, *weights], state, progress)
    return TeacherModel(path.name, path, [[file.path, file.size, file.hash] for file in files], config)


def hub_teacher(
    client: HubClient,
    repo: RepoCache,
    revision: str,
    state: StateDir,
    progress: ProgressCallback = silent,
) -> TeacherModel:
    """The model of a repo: its files are fetched into the Hub cache, each proven. Raises DataError, HubError."""
    commit = resolve_revision(client, repo, revision)
    memory = VerifyMemory.open(state, repo)
    listing = commit_listing(client, repo, commit, state, progress)
    # Weights in folders are the same ones for other programs.
    there = [file.path for file in listing.files if "/" not in file.path]
    weights = [path for path in there if path.endswith((WEIGHTS, f"{WEIGHTS}.index.json"))]
    if CONFIG not in there or not any(path.endswith(WEIGHTS) for path in weights):
        raise DataError(f"{repo.repo_id} has no {CONFIG} with *{WEIGHTS}; choose a model that has")
    wanted = listing.select([CONFIG, *weights, *(path for path in _MORE if path in there)])
    if any(cached_path(repo, commit, listing, file, memory) is None for file in wanted.files):
        fetch_sources(client, repo, wanted, memory, progress)
    path = repo.snapshot(commit)
    return TeacherModel(repo.repo_id, path, {"repo": repo.repo_id, "commit": commit}, _config(path))


def check_vocabulary(whose: str, words: Vocabulary | None, teacher: TeacherModel) -> str:
    """What was compared; raises DataError when the teacher's tokens are not those of the student. `whose`: for people,
    as in «the rows of x»; `words`: the student's, None when nobody knows.
    """
    head, own = teacher.head, teacher.vocabulary
    if words is None:
        return "the rows do not say whose tokens they are: their ids alone are held against the teacher's"
    if own is not None and own.sha256 != words.sha256:
        same = "as many, under other ids" if own.tokens == words.tokens else f"{own.tokens:,} tokens"
        raise DataError(
            f"{teacher.name} has another vocabulary ({same}) than {whose} ({words.tokens:,} tokens): "
            "a teacher must have the student's tokenizer"
        )
    if head is not None and (head < words.size or (own is None and head != words.size)):
        hint = (
            f"; lay its {TOKENIZER_FILE} beside it if that is its padding" if own is None and head > words.size else ""
        )
        raise DataError(
            f"{teacher.name} says {head:,} tokens, the tokenizer of {whose} has {words.size:,}: a "
            f"teacher must have the student's tokenizer{hint}"
        )
    return "the same tokens, by their SHA-256" if own is not None else "as many tokens; the teacher has no tokenizer"


def _config(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads((path / CONFIG).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no {CONFIG} in it, so no model of transformers") from None
    except ValueError as error:
        raise DataError(f"{path / CONFIG}: {error}") from None
    return found if isinstance(found, dict) else {}


def _number(config: Mapping[str, Any], name: str) -> int | None:
    """A number of the config, or of its part about text."""
    text = config.get("text_config")
    for one in (config, text if isinstance(text, dict) else {}):
        if isinstance(one.get(name), int):
            return int(one[name])
    return None
