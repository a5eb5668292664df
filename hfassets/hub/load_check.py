"""`hfassets hub test-load`: load what was prepared the way a user would, and show what came.

Invariant: what is shown was read from the dataset that the call gave; a config that does not load is an error of that
config, never of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from hfassets.errors import DataError, UsageError
from hfassets.progress import Note, ProgressCallback, silent

Method = Literal["builder_load", "default"]

SAMPLE_ROWS = 3
SHOWN_COLUMNS = 5
_SPLIT = re.compile(r"^(?P<name>[^\[\]]+)(?:\[(?P<start>-?\d*):(?P<end>-?\d*)\])?$")
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load. `configs` empty = all; `split` is a name or `name[a:b]` in rows; None = all splits.

    `builder_load` takes what is prepared and fails when nothing is; `default` is `load_dataset`, which prepares it.
    """

    repo_id: str
    configs: tuple[str, ...] = ()
    split: str | None = "train"
    cache_dir: Path | None = None
    method: Method = "builder_load"
    streaming: bool = False
    num_proc: int | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """What one split of a config gave. `rows` None: streamed, so not counted. `columns`: the first five of them."""

    config: str
    split: str
    rows: int | None
    columns: tuple[str, ...]
    more_columns: int
    features: str
    samples: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """All that loaded, and the configs that did not with the reason in one line."""

    repo_id: str
    loaded: tuple[LoadedConfig, ...]
    failures: tuple[tuple[str, str], ...]


def check_load(request: LoadRequest, progress: ProgressCallback = silent) -> LoadReport:
    """Load each config. Raises UsageError for a split that cannot be one, DataError when configs cannot be told."""
    wanted = _parse_split(request.split)
    if request.streaming and min(wanted.start or 0, wanted.end or 0) < 0:
        raise UsageError(f"--split {request.split}: a stream has no end to count back from; give positive numbers")
    from hfassets.hub import library

    loaded: list[LoadedConfig] = []
    failures: list[tuple[str, str]] = []
    with library.shown_as_notes(progress):
        for config in request.configs or _all_configs(request):
            try:
                for name, dataset in _load(request, config, wanted, progress).items():
                    loaded.append(_describe(config, name, dataset))
            except Exception as error:
                line = library.first_line(error)
                failures.append((config, line if isinstance(error, DataError) else f"{type(error).__name__}: {line}"))
                progress(Note(f"{request.repo_id}:{config} does not load: {failures[-1][1]}", "warning"))
    return LoadReport(request.repo_id, tuple(loaded), tuple(failures))


@dataclass(frozen=True, slots=True)
class _Split:
    name: str | None
    start: int | None = None
    end: int | None = None

    @property
    def text(self) -> str | None:
        if self.start is None and self.end is None:
            return self.name
        start, end = ("" if value is None else value for value in (self.start, self.end))
        return f"{self.name}[{start}:{end}]"


def _parse_split(text: str | None) -> _Split:
    if not text:
        return _Split(None)
    match = _SPLIT.match(text.strip())
    if match is None:
        raise UsageError(f"--split {text!r} is no split; it looks like train or train[0:100]")
    start, end = (int(value) if value else None for value in match.group("start", "end"))
    return _Split(match["name"], start, end)


def _all_configs(request: LoadRequest) -> Sequence[str]:
    import datasets

    from hfassets.hub import library

    try:
        names = datasets.get_dataset_config_names(request.repo_id, revision=request.revision)
    except Exception as error:
        raise DataError(f"the configs of {request.repo_id} cannot be told: {library.first_line(error)}") from error
    # Offline the library answers from its cache, whose one "config" is only the placeholder for whatever is there.
    prepared = library.prepared_configs(request.repo_id, request.cache_dir) if library.is_offline() else ()
    return list(prepared or names)


def _load(request: LoadRequest, config: str, split: _Split, progress: ProgressCallback) -> Mapping[str, Any]:
    import datasets

    cache = None if request.cache_dir is None else str(request.cache_dir)
    keywords: dict[str, Any]
    if request.streaming:
        keywords = {"cache_dir": cache, "revision": request.revision, "streaming": True}
        found = datasets.load_dataset(request.repo_id, config, **keywords)
        return {name: _streamed_slice(stream, split) for name, stream in _chosen(found, split).items()}
    if request.method == "default":
        keywords = {"cache_dir": cache, "revision": request.revision, "num_proc": request.num_proc}
        found = datasets.load_dataset(request.repo_id, config, split=split.text, **keywords)
    else:
        found = _prepared_builder(request, config, cache, progress).as_dataset(split.text)
    return dict(found) if isinstance(found, dict) else {split.text or "": found}


def _prepared_builder(request: LoadRequest, config: str, cache: str | None, progress: ProgressCallback) -> Any:
    """The builder of what is prepared: at the revision named, else the newest, else the last that was prepared."""
    import datasets

    info = datasets.config.DATASET_INFO_FILENAME
    builder = datasets.load_dataset_builder(request.repo_id, config, cache_dir=cache, revision=request.revision)
    folder = Path(builder.cache_dir)
    if (folder / info).is_file():
        return builder
    others = [path.parent for path in folder.parent.glob(f"*/{info}") if not path.parent.name.startswith(".")]
    if request.revision is None and others:
        last = max(others, key=lambda path: path.stat().st_mtime)
        progress(Note(f"{request.repo_id}:{config}: {folder.name} is not prepared; loading {last.name}", "warning"))
        return datasets.load_dataset_builder(request.repo_id, config, cache_dir=cache, revision=last.name)
    raise DataError(
        f"not prepared in {folder}; run `hfassets hub download --dataset-name {request.repo_id} "
        f"--subset-name {config} --cache-dir …` first, or use --method default"
    )


def _chosen(found: Mapping[str, Any], split: _Split) -> Mapping[str, Any]:
    if split.name is None:
        return found
    if split.name not in found:
        raise DataError(f"it has no split {split.name!r}; it has {', '.join(found)}")
    return {split.text or split.name: found[split.name]}


def _streamed_slice(stream: Any, split: _Split) -> Any:
    start, end = split.start or 0, split.end
    if start:
        stream = stream.skip(start)
    return stream if end is None else stream.take(max(0, end - start))


def _describe(config: str, split: str, dataset: Any) -> LoadedConfig:
    from hfassets.hub import library

    rows = None if library.is_stream(dataset) else dataset.num_rows
    raw = library.undecoded(dataset)
    samples = tuple(
        {name: _shown(value) for name, value in islice(row.items(), SHOWN_COLUMNS)}
        for row in islice(iter(raw), SAMPLE_ROWS)
    )
    columns = tuple(dataset.column_names or (samples[0] if samples else ()))
    return LoadedConfig(
        config=config,
        split=split,
        rows=rows,
        columns=columns[:SHOWN_COLUMNS],
        more_columns=max(0, len(columns) - SHOWN_COLUMNS),
        features=str(dataset.features),
        samples=samples,
    )


def _shown(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        value = {**value, "bytes": f"<{len(value['bytes']):,} bytes>"}
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
