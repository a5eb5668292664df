"""Which configs a dataset repo has and which of its files each one needs, by the `datasets` library's own rules.

Invariant: nothing here opens a connection or a data file. The library resolves patterns against a *skeleton*: a
temporary folder with an empty file for each name of the tree listing, and the card reduced to the config in question.
Names that a card could use to reach out of the repo (URLs, absolute paths, `..`) are refused before the library
sees them.

Source of the rules: datasets 5.0, `load.py` (`LocalDatasetModuleFactory` and `HubDatasetModuleFactory` are symmetric).
"""

from __future__ import annotations

import difflib
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from hfassets.errors import DataError
from hfassets.hub.listing import Listing

METADATA_FILES = ("README.md", ".huggingface.yaml", "dataset_infos.json")
"""The files that say which configs there are; they are part of every snapshot."""

UNKNOWN_MODULE = ""
"""`ConfigFiles.module` where only the inside of an archive can tell the format."""


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """One config: its data files per split as paths in the repo, and the library module that reads them.

    `module` is `parquet`, `json`, `imagefolder` …, or `UNKNOWN_MODULE`. `is_default` says that `load_dataset` without
    a config name takes this one.
    """

    name: str
    data_files: Mapping[str, tuple[str, ...]]
    module: str
    is_default: bool

    def needed(self, listing: Listing) -> Listing:
        """The files of `listing` that preparing this config takes: its data files and the repo's metadata files."""
        return listing.select(
            [*METADATA_FILES, *(path for paths in self.data_files.values() for path in paths)],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """What the metadata files declare: `configs` and `infos` as the YAML has them, `legacy` = dataset_infos.json.

    `names`: the declared configs, in order; empty when there are none. Equal only to itself, so that it can be a key.
    """

    names: tuple[str, ...]
    configs: tuple[Mapping[str, Any], ...]
    infos: tuple[Mapping[str, Any], ...]
    legacy: bytes | None


def list_configs(listing: Listing, metadata: Mapping[str, bytes]) -> tuple[str, ...]:
    """Names of all configs, in the card's order; a repo whose card declares none has one, `default`.

    `metadata` holds the bytes of those of `METADATA_FILES` that the repo has. Raises DataError for script datasets,
    unreadable cards and repos without data.
    """
    refuse_script(listing.repo_id, [file.path for file in listing.files])
    names = read_card(listing.repo_id, metadata).names
    return names or (config_files(listing, metadata, None).name,)


def config_files(
    listing: Listing,
    metadata: Mapping[str, bytes],
    config: str | None,
    *,
    archive: Callable[[str], Path | None] | None = None,
) -> ConfigFiles:
    """The files that `config` (None: the default one) needs. Raises DataError, in one line, where the library fails.

    `archive` gives the local file of a zip archive of the repo, None where it is not there. Without it the format of
    zipped data stays `UNKNOWN_MODULE`, and everything the patterns match is counted as needed.
    """
    from hfassets.hub.resolution import resolve

    card = read_card(listing.repo_id, metadata)
    resolved = resolve(listing.repo_id, [file.path for file in listing.files], card, config, archive)
    return ConfigFiles(resolved.name, resolved.data_files, resolved.module, resolved.is_default)


def refuse_script(repo_id: str, names: Iterable[str]) -> None:
    """Raise DataError for a repo with a loading script, which `datasets` no longer runs."""
    script = f"{repo_id.rpartition('/')[2]}.py"
    if script in names:
        raise DataError(
            f"{repo_id} is a script dataset ({script}), which datasets no longer loads; "
            "the revision refs/convert/parquet often does: add --revision refs/convert/parquet"
        )


def unknown_config(repo_id: str, config: str, names: Iterable[str]) -> DataError:
    """The error for a config that the repo does not have, with the nearest names first."""
    known = list(names)
    near = difflib.get_close_matches(config, known, n=3, cutoff=0.5)
    shown = near or known[:10]
    rest = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return DataError(f"{repo_id} has no config {config!r}; it has {', '.join(shown)}{rest}")


def read_card(repo_id: str, metadata: Mapping[str, bytes]) -> Card:
    """Read what the metadata files declare; raises DataError for YAML or JSON that cannot be read."""
    return _read_card(repo_id, *(metadata.get(name) for name in METADATA_FILES))


# A card of 10,000 configs takes seconds to parse, and each of its configs asks for it.
@functools.lru_cache(maxsize=4)
def _read_card(repo_id: str, readme: bytes | None, standalone: bytes | None, legacy: bytes | None) -> Card:
    configs, infos = _read_yaml(repo_id, readme or b"", standalone or b"")
    if legacy is not None:
        try:
            if not isinstance(orjson.loads(legacy), dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise DataError(f"{repo_id}: dataset_infos.json cannot be read ({error})") from error
    return Card(tuple(dict.fromkeys(entry["config_name"] for entry in configs)), configs, infos, legacy)


_Entries = tuple[Mapping[str, Any], ...]


def _read_yaml(repo_id: str, readme: bytes, standalone: bytes) -> tuple[_Entries, _Entries]:
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    document: dict[str, Any] = {}
    block = REGEX_YAML_BLOCK.search(_decoded(repo_id, "README.md", readme))
    for name, text in (
        ("README.md", block.group(2) if block else ""),
        (".huggingface.yaml", _decoded(repo_id, ".huggingface.yaml", standalone)),
    ):
        document.update(_yaml_mapping(repo_id, name, text))
    configs = document.get("configs") or []
    if not isinstance(configs, list) or not all(isinstance(entry, dict) for entry in configs):
        raise DataError(f"{repo_id}: `configs` in the card is not a list of mappings")
    for entry in configs:
        if not isinstance(entry.get("config_name"), str):
            raise DataError(f"{repo_id}: an entry of `configs` in the card has no config_name: {str(entry)[:80]}")
        _refuse_outside(repo_id, entry)
    infos = document.get("dataset_info") or []
    if isinstance(infos, dict):
        infos = [infos]
    if not isinstance(infos, list) or not all(isinstance(entry, dict) for entry in infos):
        raise DataError(f"{repo_id}: `dataset_info` in the card is not a list of mappings")
    return tuple(configs), tuple(infos)


def _decoded(repo_id: str, name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{repo_id}: {name} is not UTF-8 (byte {error.start})") from error


def _yaml_mapping(repo_id: str, name: str, text: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are the safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1} of its YAML" if mark else ""
        problem = getattr(error, "problem", None) or "malformed"
        raise DataError(f"{repo_id}: {name} cannot be read{where}: {problem}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise DataError(f"{repo_id}: the YAML of {name} is not a mapping")
    return document


def _refuse_outside(repo_id: str, entry: Mapping[str, Any]) -> None:
    for pattern in declared_paths(entry):
        if "://" in pattern or "::" in pattern or pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
            raise DataError(
                f"{repo_id}: config {entry['config_name']!r} names data outside the repo ({pattern!r}); "
                "only paths inside the repo can be loaded"
            )


def declared_paths(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The patterns and folder that a config of the card names."""
    return (*_strings(entry.get("data_files")), *_strings(entry.get("data_dir")))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(value.get("path"))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


@contextmanager
def skeleton(
    names: Iterable[str], contents: Mapping[str, bytes], archive: Callable[[str], Path | None] | None
) -> Iterator[Path]:
    """A temporary folder with `names` as empty files, `contents` with their bytes, and archives at hand as links."""
    with tempfile.TemporaryDirectory(prefix="hfassets-") as temporary:
        root = Path(temporary).resolve()
        folders: set[Path] = set()
        for name in names:
            path = root / name
            if path.parent not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(path.parent)
            local = archive(name) if archive and name.endswith(".zip") else None
            if local is not None:
                path.symlink_to(local)
            elif name not in METADATA_FILES:
                path.touch()
        for name, data in contents.items():
            (root / name).write_bytes(data)
        yield root
