"""All that knows the inside of the `datasets` library; imported only by functions that need it (2 s).

Invariant: what is built here is what the library's Hub route would build for the same repo, config and commit (same
builder class, config, URLs, cache folder), with each `hf://` URL read from the local snapshot and no connection opened.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import builder as library_builder
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.features.features import require_storage_embed
from datasets.load import configure_builder_class, import_main_class
from datasets.naming import camelcase_to_snakecase, filenames_for_dataset_split
from datasets.table import embed_table_storage
from datasets.utils._filelock import FileLock
from huggingface_hub import constants as hub_constants

from hfassets.errors import DataError, IntegrityError
from hfassets.hub.names import check_path
from hfassets.progress import Note, Progress, ProgressCallback

_ONE_AT_A_TIME = threading.RLock()
LIBRARY_VERSION: str = datasets.__version__


def make_builder(resolved: Any, repo_id: str, commit: str, cache_dir: Path) -> Any:
    """The builder that `load_dataset(repo_id, config, revision=commit, cache_dir=cache_dir)` would make."""
    base = f"hf://datasets/{repo_id}@{commit}"
    resolved.builder_config.data_files = DataFilesDict(
        {
            split: DataFilesList([f"{base}/{path}" for path in paths], [(repo_id, commit)] * len(paths))
            for split, paths in resolved.data_files.items()
        }
    )
    dataset_name = camelcase_to_snakecase(repo_id.rpartition("/")[2])
    main_class = import_main_class(f"datasets.packaged_modules.{resolved.module}.{resolved.module}")
    builder_class = configure_builder_class(
        main_class, builder_configs=[resolved.builder_config], default_config_name=None, dataset_name=dataset_name
    )
    builder = builder_class(
        cache_dir=str(cache_dir),
        dataset_name=dataset_name,
        config_name=resolved.name,
        hash=commit,
        info=resolved.info,
        base_path=base,
        repo_id=repo_id,
    )
    if builder.config_id != resolved.name:
        raise DataError(f"{repo_id}: config {resolved.name!r} would be cached as {builder.config_id!r}; not supported")
    return builder


class SnapshotDownloads(datasets.DownloadManager):  # type: ignore[misc]
    """A download manager that takes the repo's URLs from a snapshot folder and refuses every other."""

    def __init__(self, base: str, snapshot: Path, **keywords: Any) -> None:
        super().__init__(base_path=base, **keywords)
        self._snapshot = snapshot

    def _download_batched(self, url_or_filenames: list[str], download_config: Any) -> list[str]:
        return [self._download_single(url, download_config=download_config) for url in url_or_filenames]

    def _download_single(self, url_or_filename: str, download_config: Any) -> str:
        url = str(url_or_filename)
        prefix = f"{self._base_path}/"
        if not url.startswith(prefix):
            if "://" in url.partition("::")[0]:
                raise DataError(f"{url} is not part of the snapshot; preparing opens no connection")
            return str(super()._download_single(url, download_config=download_config))
        path = check_path(url.removeprefix(prefix))
        local = self._snapshot / path
        if not local.is_file():
            raise DataError(f"{path} is not in the snapshot {self._snapshot}; run `hfassets hub download` again")
        downloaded = super()._download_single(str(local), download_config=download_config)
        # The library names this origin when a cast fails, and asks the Hub about origins that are hf:// URLs.
        downloaded.set_origin(path)
        return downloaded  # type: ignore[no-any-return]


def download_and_prepare(
    builder: Any, snapshot: Path, output: Path, num_proc: int | None, errors: Path, progress: ProgressCallback
) -> None:
    """Prepare `builder` into the folder `output`; the library's own error lines go to the file `errors`."""
    configuration = datasets.DownloadConfig(cache_dir=builder._cache_downloaded_dir, use_etag=False, num_proc=1)
    downloads = SnapshotDownloads(
        builder.base_path,
        snapshot,
        dataset_name=builder.dataset_name,
        download_config=configuration,
        data_dir=builder.config.data_dir,
        record_checksums=builder._record_checksums,
    )
    task = f"{builder.repo_id}:{builder.config.name}"
    with offline(), quiet(errors), _media_unopened(), _rows_reported(task, progress):
        builder.download_and_prepare(
            output_dir=str(output),
            download_mode=datasets.DownloadMode.REUSE_CACHE_IF_EXISTS,
            dl_manager=downloads,
            num_proc=num_proc,
        )


def prepare_local(
    folder: Path, config: str | None, cache_dir: Path, num_proc: int | None, errors: Path, progress: ProgressCallback
) -> tuple[Path, tuple[Path, ...]]:
    """The Arrow files of a folder's data, as `load_dataset(folder, config)` makes and finds them, and what they are of.

    Raises what the library raises.
    """
    with offline(), quiet(errors), _media_unopened(), _rows_reported(folder.name, progress):
        builder = datasets.load_dataset_builder(str(folder), config, cache_dir=str(cache_dir))
        builder.download_and_prepare(num_proc=num_proc)
        return Path(builder.cache_dir), tuple(
            Path(str(path)) for paths in (builder.config.data_files or {}).values() for path in paths
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared folder as it lies on disk. `files`: all of it; `arrow`: the Arrow files of each split with the rows
    that were counted in them, in order.
    """

    rows: Mapping[str, int]
    features: str
    files: tuple[Path, ...]
    arrow: Mapping[str, tuple[tuple[Path, int], ...]]


def read_prepared(folder: Path) -> Prepared:
    """Count what a prepared folder holds; raises IntegrityError where it is not what its `dataset_info.json` says."""
    try:
        info = datasets.DatasetInfo.from_directory(str(folder))
        rows: dict[str, int] = {}
        arrow: dict[str, tuple[tuple[Path, int], ...]] = {}
        files: list[Path] = [folder / datasets.config.DATASET_INFO_FILENAME]
        for name, split in (info.splits or {}).items():
            paths = filenames_for_dataset_split(
                str(folder), info.dataset_name, name, filetype_suffix="arrow", shard_lengths=split.shard_lengths
            )
            arrow[str(name)] = tuple((Path(path), _arrow_rows(Path(path))) for path in paths)
            rows[str(name)] = sum(count for _, count in arrow[str(name)])
            files += [Path(path) for path in paths]
            if rows[str(name)] != split.num_examples:
                raise IntegrityError(f"{folder}: {rows[str(name)]:,} rows of {name}, {split.num_examples:,} recorded")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{folder} is not a whole prepared dataset: {first_line(error, folder)}") from error
    return Prepared(rows, str(info.features), tuple(files), arrow)


def _arrow_rows(path: Path) -> int:
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        return sum(batch.num_rows for batch in batches)


def library_lock(folder: Path) -> Any:
    """The lock that the library's builders hold while they write `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}_builder.lock")


def first_line(error: BaseException, root: Path | None = None) -> str:
    """The first line of what an error says, shortened, with paths below `root` relative to it."""
    text = str(error) if root is None else str(error).replace(f"{root}/", "").replace(str(root), "the repo")
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return first if len(first) <= 300 else f"{first[:297]}..."


def is_offline() -> bool:
    """Whether the library was told not to connect."""
    return bool(datasets.config.HF_HUB_OFFLINE)


def is_stream(dataset: Any) -> bool:
    """Whether a dataset is read as it comes, so that its rows are not counted."""
    return isinstance(dataset, datasets.IterableDataset)


def undecoded(dataset: Any) -> Any:
    """The dataset with images, audio and video left as bytes or paths, which needs no decoder installed."""
    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, (datasets.Image, datasets.Audio, datasets.Video)):
            kind = type(feature)
            dataset = dataset.cast_column(name, kind(decode=False))
    return dataset


def has_media(schema: Any) -> bool:
    """Whether rows can refer to files: images, audio, video."""
    return bool(require_storage_embed(dict(datasets.Features.from_arrow_schema(schema))))


def with_media(table: Any) -> Any:
    """The rows with the content of the local files that they refer to, and the files' names; raises OSError."""
    return embed_table_storage(table, remote_files=False)


def features_of(schema: Any) -> dict[str, Any]:
    """The features of Arrow rows, as `datasets` writes them down."""
    found: dict[str, Any] = datasets.Features.from_arrow_schema(schema).to_dict()
    return found


def prepared_configs(repo_id: str, cache_dir: Path | None) -> tuple[str, ...]:
    """Configs of a repo that lie prepared in a `datasets` cache, by name."""
    owner, _, name = repo_id.rpartition("/")
    folder = "___".join(filter(None, (owner, camelcase_to_snakecase(name))))
    root = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / folder
    found = root.glob(f"*/*/*/{datasets.config.DATASET_INFO_FILENAME}")
    return tuple(sorted({path.parts[-4] for path in found if not path.parts[-2].startswith(".")}))


@contextmanager
def shown_as_notes(progress: ProgressCallback) -> Iterator[None]:
    """Pass the library's warnings on as notes, and keep its bars off the terminal."""
    with _logged_to(_NoteHandler(progress)):
        yield


class _NoteHandler(logging.Handler):
    def __init__(self, progress: ProgressCallback) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress(Note(record.getMessage().strip().partition("\n")[0], "warning"))


@contextmanager
def offline() -> Iterator[None]:
    """Make the library and its Hub client refuse connections; threads take turns, since these settings are global."""
    with _ONE_AT_A_TIME:
        before = datasets.config.HF_HUB_OFFLINE, hub_constants.HF_HUB_OFFLINE
        datasets.config.HF_HUB_OFFLINE = hub_constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            datasets.config.HF_HUB_OFFLINE, hub_constants.HF_HUB_OFFLINE = before


@contextmanager
def quiet(errors: Path | None = None) -> Iterator[None]:
    """Keep the library's bars and log lines off the terminal; its errors are appended to the file `errors`."""
    handler = logging.FileHandler(errors, delay=True, encoding="utf-8") if errors else logging.NullHandler()
    handler.setLevel(logging.ERROR)
    with _logged_to(handler):
        yield


@contextmanager
def _logged_to(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("datasets")
    before, level, propagate = list(logger.handlers), logger.level, logger.propagate
    disabled = datasets.are_progress_bars_disabled()
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(handler.level)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        handler.close()
        logger.handlers, logger.propagate = before, propagate
        logger.setLevel(level)
        if not disabled:
            datasets.enable_progress_bars()


@contextmanager
def _media_unopened() -> Iterator[None]:
    """Let images and audio that are paths or encoded bytes pass without the packages that could decode them.

    The library asks for Pillow or torchcodec before it looks at the value; the results are the same.
    """
    kinds = (datasets.Image, datasets.Audio)
    originals = [kind.encode_example for kind in kinds]
    for kind, original in zip(kinds, originals, strict=True):
        kind.encode_example = functools.partialmethod(_encode_unopened, original)
    try:
        yield
    finally:
        for kind, original in zip(kinds, originals, strict=True):
            kind.encode_example = original


def _encode_unopened(feature: Any, original: Any, value: Any) -> Any:
    if isinstance(value, str | Path):
        return {"bytes": None, "path": str(value if isinstance(value, str) else value.absolute())}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value, "path": None}
    if isinstance(value, dict) and not {"array", "sampling_rate"} & value.keys():
        path, data = value.get("path"), value.get("bytes")
        if path is not None and Path(path).is_file():
            return {"bytes": None, "path": path}
        if data is not None or path is not None:
            return {"bytes": data, "path": path}
    return original(feature, value)


@contextmanager
def _rows_reported(task: str, progress: ProgressCallback) -> Iterator[None]:
    """Turn the bar that the library's builder shows for each split into progress of rows."""
    original = library_builder.hf_tqdm

    class Rows:
        def __init__(self, *_: Any, total: int | None = None, desc: str = "", **__: Any) -> None:
            self._task, self._done, self._total = f"{task}: {desc}", 0, total or None

        def __enter__(self) -> Rows:
            return self

        def __exit__(self, *_: object) -> None:
            progress(Progress(self._task, self._done, self._total, "rows"))

        def update(self, rows: int = 1) -> None:
            self._done += rows
            progress(Progress(self._task, self._done, self._total, "rows"))

    library_builder.hf_tqdm = Rows
    try:
        yield
    finally:
        library_builder.hf_tqdm = original
