"""Resolve one config the way the `datasets` library does, against a skeleton of the repo.

Invariant: the library sees only names, the card, and archives that are at hand; what it answers with is a file of the
repo, or the config is refused.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import orjson
import yaml
from datasets.data_files import DataFilesDict, get_data_patterns, sanitize_patterns
from datasets.load import LocalDatasetModuleFactory
from datasets.packaged_modules import _ALL_ALLOWED_EXTENSIONS
from datasets.utils.metadata import MetadataConfigs
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from huggingface_hub import DatasetCardData

from hfassets.errors import DataError
from hfassets.hub.configs import UNKNOWN_MODULE, Card, declared_paths, refuse_script, skeleton, unknown_config
from hfassets.hub.library import first_line, offline, quiet
from hfassets.hub.names import check_path


@dataclass(frozen=True, slots=True)
class Resolved:
    """One config as the library sees it; `builder_config` and `info` are its own objects (None: not known yet)."""

    name: str
    data_files: Mapping[str, tuple[str, ...]]
    module: str
    is_default: bool
    builder_config: Any
    info: Any


def resolve(
    repo_id: str,
    names: Sequence[str],
    card: Card,
    config: str | None,
    archive: Callable[[str], Path | None] | None = None,
) -> Resolved:
    """Resolve one config of a repo that has the files `names`; raises DataError in one line.

    `archive` (path in the repo -> local file) says that the files are at hand: zips are looked into.
    """
    refuse_script(repo_id, names)
    default = _default_name(repo_id, card)
    name = config or default or ("default" if not card.names else None)
    if name is None:
        raise DataError(f"{repo_id} has several configs and no default; name one of {', '.join(card.names[:10])}")
    known = card.names or ("default",)
    if config is None and not card.names:
        name = "default"
    if name not in known:
        raise unknown_config(repo_id, name, known)
    is_default = name == (default or (known[0] if len(known) == 1 else None))
    with (
        offline(),
        quiet(),
        _walked_once(),
        skeleton(_relevant(names, card, name), _reduced(card, name), archive) as root,
    ):
        try:
            try:
                module = _module(root)
            except Exception:
                # The library infers the format of all configs from the first one's files. Where those are not there
                # (a broken config, a partial snapshot, an archive not at hand), this config's own files decide.
                if card.names[:1] in ((), (name,)):
                    raise
                (root / "README.md").write_bytes(_reduced(card, name, alone=True)["README.md"])
                module = _module(root)
            parameters = module.builder_configs_parameters.builder_configs
            builder_config = next(entry for entry in parameters if entry.name == name)
            builder_config._resolve_data_files(str(root), datasets.DownloadConfig())
            files, kind = builder_config.data_files, module.module_path.rpartition(".")[2]
            info = module.dataset_infos.get(name) if module.dataset_infos else None
        except Exception as error:
            files = _matched_archives(names, card, name, root) if archive is None else None
            if files is None:
                raise DataError(f"{repo_id}: config {name!r}: {_unresolved(error, card, name, root)}") from error
            builder_config, info, kind = None, None, UNKNOWN_MODULE
        data_files = {str(split): tuple(_in_repo(path, root) for path in paths) for split, paths in files.items()}
    if not any(data_files.values()):
        raise DataError(f"{repo_id}: config {name!r}: {_unresolved(FileNotFoundError(), card, name, Path('/'))}")
    return Resolved(name, data_files, kind, is_default, builder_config, info)


@contextmanager
def _walked_once() -> Iterator[None]:
    """Let the library's dozens of globs share one walk of a folder: a skeleton does not change."""
    original = LocalFileSystem.find
    LocalFileSystem.find = functools.cache(original)
    try:
        yield
    finally:
        LocalFileSystem.find = original


def _module(root: Path) -> Any:
    return LocalDatasetModuleFactory(str(root)).get_module()


def _reduced(card: Card, name: str, *, alone: bool = False) -> dict[str, bytes]:
    """Metadata files for the skeleton: the wanted config and, unless `alone`, the first one, from whose files the
    library infers the format of all."""
    contents: dict[str, bytes] = {}
    wanted = {name} if alone else {*card.names[:1], name}
    kept = [entry for entry in card.configs if entry["config_name"] in wanted]
    document: dict[str, Any] = {}
    if kept:
        document["configs"] = kept
    infos = [entry for entry in card.infos if entry.get("config_name", "default") == name]
    if infos:
        document["dataset_info"] = infos
    if document:
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        contents["README.md"] = f"---\n{text}---\n".encode()
    if card.legacy is not None:
        contents["dataset_infos.json"] = card.legacy
    return contents


def _relevant(names: Sequence[str], card: Card, name: str) -> Sequence[str]:
    """The names that the patterns of the kept configs can match: those with the literal beginning of one of them."""
    beginnings: set[str] = set()
    kept = {*card.names[:1], name}
    for entry in card.configs:
        if entry["config_name"] in kept:
            folder = f"{entry['data_dir']}/" if entry.get("data_dir") else ""
            if not entry.get("data_files"):
                return names
            beginnings |= {
                re.split(r"[*?\[\]{}!\\]", start + pattern)[0]
                for pattern in declared_paths(entry)
                for start in ("", folder)
            }
    if not beginnings or any(beginning.startswith(".") or "//" in beginning for beginning in beginnings):
        return names
    return [path for path in names if path.startswith(tuple(beginnings))]


@functools.lru_cache(maxsize=4)
def _default_name(repo_id: str, card: Card) -> str | None:
    try:
        configs = MetadataConfigs.from_dataset_card_data(DatasetCardData(configs=list(card.configs)))
        default = configs.get_default_config_name()
    except Exception as error:
        raise DataError(f"{repo_id}: the card's `configs` are not valid: {first_line(error, Path('/'))}") from error
    if default is None:
        legacy = orjson.loads(card.legacy) if card.legacy else {}
        infos = {"default"} if len(legacy) == 1 else set(legacy)
        infos |= {entry.get("config_name", "default") for entry in card.infos}
        default = infos.pop() if len(infos) == 1 else None
    return None if default is None else str(default)


def _matched_archives(names: Sequence[str], card: Card, name: str, root: Path) -> Any:
    """Everything a config's patterns match, where only the inside of an absent zip could tell its format; else None."""
    if not any(path.endswith(".zip") for path in names):
        return None
    entry = next((entry for entry in card.configs if entry["config_name"] == name), {})
    with suppress(FileNotFoundError, ValueError):
        base = root / (entry.get("data_dir") or "")
        patterns = entry.get("data_files")
        split_patterns = sanitize_patterns(patterns) if patterns is not None else get_data_patterns(str(base))
        files = DataFilesDict.from_patterns(
            split_patterns, base_path=str(base), allowed_extensions=_ALL_ALLOWED_EXTENSIONS
        )
        if any(path.endswith(".zip") for paths in files.values() for path in paths):
            return files
    return None


def _unresolved(error: Exception, card: Card, name: str, root: Path) -> str:
    if isinstance(error, FileNotFoundError):
        entry = next((entry for entry in card.configs if entry["config_name"] == name), {})
        patterns = ", ".join(declared_paths(entry)) or "a known data format"
        return f"no data files: nothing in the repo matches {patterns}"
    return first_line(error, root)


def _in_repo(path: str, root: Path) -> str:
    return check_path(Path(path).relative_to(root).as_posix())
