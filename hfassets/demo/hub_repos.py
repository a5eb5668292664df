"""What writes each sample repo: the columns, file names and metadata of the real one, at a small size."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard

from hfassets.demo.hub_corpus import documented, modules, passages

Writer = Callable[[Path], None]
Rows = Sequence[Mapping[str, Any]]

_MANUAL = "https://docs.python.org/3/library/"
_MIT = "MIT"


def write_readme(folder: Path, metadata: Mapping[str, Any] | None, text: str) -> None:
    """README.md, with its YAML block when there is metadata."""
    head = f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False)}---\n\n" if metadata else ""
    (folder / "README.md").write_text(f"{head}# {text}\n\nTexts from the Python standard library.\n", encoding="utf-8")


def _identifier(*parts: object) -> str:
    """A UUID-like id that follows from its parts."""
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def _parquet(path: Path, rows: Rows, schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="snappy", row_group_size=1000)


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _gzipped(path: Path, data: bytes) -> None:
    _write(path, gzip.compress(data, compresslevel=6, mtime=0))


def _split(rows: Rows, *shares: float) -> list[Rows]:
    """Consecutive parts of the rows with the given shares; the last takes the rest."""
    ends = [round(len(rows) * sum(shares[: index + 1])) for index in range(len(shares) - 1)]
    return [rows[start:end] for start, end in itertools.pairwise([0, *ends, len(rows)])]


_DUORC = pa.schema([
    ("plot_id", pa.string()), ("plot", pa.string()), ("title", pa.string()), ("question_id", pa.string()),
    ("question", pa.string()), ("answers", pa.list_(pa.string())), ("no_answer", pa.bool_()),
])  # fmt: skip


def _duorc_rows(config: str) -> Iterator[dict[str, Any]]:
    """SelfRC asks with the name of a thing, ParaphraseRC with its module; what takes no argument has no answer."""
    for number, item in enumerate(documented()):
        first = item.docstring.partition("\n")[0]
        asked = f"what does `{item.name}` do?" if config == "SelfRC" else f"in {item.module.name}, what is this for?"
        no_answer = number % 23 == 22
        yield {
            "plot_id": f"/m/{_identifier(item.module.name)[:8]}",
            "plot": item.module.source[:3000] if config == "SelfRC" else item.docstring,
            "title": item.module.name,
            "question_id": _identifier(config, item.module.name, item.name, number),
            "question": asked.capitalize(),
            "answers": [] if no_answer else [first],
            "no_answer": no_answer,
        }


def write_duorc(folder: Path) -> None:
    """Two configs of Parquet with their features and split sizes in the card, as the real one."""
    features = [
        {"name": field.name, "sequence": "string"} if field.name == "answers"
        else {"name": field.name, "dtype": str(field.type)}
        for field in _DUORC
    ]  # fmt: skip
    infos, configs = [], []
    for config in ("ParaphraseRC", "SelfRC"):
        rows = list(_duorc_rows(config))
        splits = dict(zip(("train", "validation", "test"), _split(rows, 0.7, 0.15, 0.15), strict=True))
        for split, part in splits.items():
            shards = _split(part, 0.5, 0.5) if split == "train" else [part]
            for number, shard in enumerate(shards):
                _parquet(folder / config / f"{split}-{number:05}-of-{len(shards):05}.parquet", shard, _DUORC)
        sizes = [
            {"name": split, "num_bytes": len(_json_lines(part)), "num_examples": len(part)}
            for split, part in splits.items()
        ]
        download = sum(path.stat().st_size for path in (folder / config).iterdir())
        total = sum(len(_json_lines(part)) for part in splits.values())
        infos.append({"config_name": config, "features": features, "splits": sizes, "download_size": download,
                      "dataset_size": total})  # fmt: skip
        files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
        configs.append({"config_name": config, "data_files": files})
    card = {"language": ["en"], "license": ["mit"], "pretty_name": "DuoRC", "dataset_info": infos, "configs": configs}
    write_readme(folder, card, "DuoRC")


def _c4_rows() -> list[dict[str, Any]]:
    return [
        {
            "text": text,
            "timestamp": f"2019-04-{number % 28 + 1:02}T{number % 24:02}:{number % 60:02}:00Z",
            "url": f"{_MANUAL}{module.name}.html#{number}",
        }
        for number, (module, text) in enumerate(passages())
    ]


def write_c4(folder: Path) -> None:
    """Gzipped JSONL shards of train and validation, one config."""
    train, validation = _split(_c4_rows(), 0.95, 0.05)
    for number, shard in enumerate(_split(train, 0.25, 0.25, 0.25, 0.25)):
        _gzipped(folder / "en" / f"c4-train.{number:05}-of-00004.json.gz", _json_lines(shard))
    _gzipped(folder / "en" / "c4-validation.00000-of-00001.json.gz", _json_lines(validation))
    files = [{"split": split, "path": f"en/c4-{split}.*.json.gz"} for split in ("train", "validation")]
    card = {"license": ["odc-by"], "language": ["en"], "configs": [{"config_name": "en", "data_files": files}]}
    write_readme(folder, card, "C4")


def write_slimpajama(folder: Path) -> None:
    """JSONL in zstd; the folders name the splits, the card has no configs."""
    rows = [
        {"text": text, "meta": {"redpajama_set_name": "RedPajamaGithub" if number % 2 else "RedPajamaC4"}}
        for number, (_, text) in enumerate(passages()[:1200])
    ]
    compressor = zstandard.ZstdCompressor(level=3)
    for split, part in zip(("train", "validation", "test"), _split(rows, 0.8, 0.1, 0.1), strict=True):
        for number, shard in enumerate(_split(part, 0.5, 0.5)):
            path = folder / split / "chunk1" / f"example_{split}_{number}.jsonl.zst"
            _write(path, compressor.compress(_json_lines(shard)))
    write_readme(folder, {"language": ["en"], "task_categories": ["text-generation"]}, "SlimPajama")


def png(width: int, height: int, seed: str) -> bytes:
    """An RGB picture of stripes whose colours follow from the seed (PNG specification, third edition)."""
    digest = hashlib.sha256(seed.encode()).digest()
    lines = bytearray()
    for y in range(height):
        lines.append(0)
        for x in range(width):
            stripe = digest[(x * digest[0] + y * digest[1]) // 97 % 29 :]
            lines += bytes((stripe[0], stripe[1], (x * 2 + y) & 255))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(lines), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write_docci(folder: Path) -> None:
    """Images within Parquet, with the features that `datasets` keeps in the schema."""
    features = {
        "image": {"_type": "Image"},
        "example_id": {"dtype": "string", "_type": "Value"},
        "description": {"dtype": "string", "_type": "Value"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), ("example_id", pa.string()), ("description", pa.string())],
        metadata={"huggingface": orjson.dumps({"info": {"features": features}})},
    )
    rows = [
        {
            "image": {"bytes": png(96, 64, item.name), "path": f"train_{number:05}.png"},
            "example_id": f"train_{number:05}",
            "description": item.docstring,
        }
        for number, item in enumerate(documented()[:160])
    ]
    train, test = _split(rows, 0.75, 0.25)
    _parquet(folder / "data" / "train-00000-of-00001.parquet", train, schema)
    _parquet(folder / "data" / "test-00000-of-00001.parquet", test, schema)
    files = [{"split": split, "path": f"data/{split}-*"} for split in ("train", "test")]
    card = {"license": "cc-by-4.0", "configs": [{"config_name": "default", "data_files": files}]}
    write_readme(folder, card, "DOCCI")


def write_beans(folder: Path) -> None:
    """An image folder with a metadata.jsonl a split."""
    labels = ("angular_leaf_spot", "bean_rust", "healthy")
    for split, count in (("train", 60), ("validation", 15), ("test", 15)):
        lines = []
        for number in range(count):
            name = f"{labels[number % 3]}/{split}_{number}.png"
            _write(folder / split / name, png(64, 64, f"{split}{number}"))
            lines.append({"file_name": name, "labels": number % 3, "disease": labels[number % 3]})
        _write(folder / split / "metadata.jsonl", _json_lines(lines))
    write_readme(folder, {"license": "mit", "task_categories": ["image-classification"]}, "Beans")


def write_tinystories(folder: Path) -> None:
    """Parquet without a word of metadata."""
    rows = [{"text": item.docstring} for item in documented()]
    schema = pa.schema([("text", pa.string())])
    train, validation = _split(rows, 0.9, 0.1)
    for number, shard in enumerate(_split(train, 0.5, 0.5)):
        _parquet(folder / "data" / f"train-{number:05}-of-00002.parquet", shard, schema)
    _parquet(folder / "data" / "validation-00000-of-00001.parquet", validation, schema)
    write_readme(folder, None, "TinyStories")


def write_stack_smol(folder: Path) -> None:
    """Many small files: one of JSON lines a module."""
    for module in modules():
        lines = module.source.splitlines()
        row = {
            "content": module.source[:4000],
            "avg_line_length": sum(map(len, lines)) / len(lines),
            "max_line_length": max(map(len, lines)),
            "licenses": [_MIT],
            "repository_name": "python/cpython",
            "path": f"Lib/{module.path}",
            "size": len(module.source),
            "lang": "Python",
        }
        _write(folder / "data" / "python" / f"{module.name}.json", _json_lines([row]))
    write_readme(folder, {"language": ["code"], "task_categories": ["text-generation"]}, "The Stack smol xs")


def write_fineweb(folder: Path, megabytes: int) -> None:
    """One Parquet file of at least so many MB, stored plainly, so that its size is as asked whatever the texts."""
    text, integer, real = pa.string(), pa.int64(), pa.float64()
    schema = pa.schema([
        ("text", text), ("id", text), ("dump", text), ("url", text), ("file_path", text), ("language", text),
        ("language_score", real), ("token_count", integer), ("score", real), ("int_score", integer),
    ])  # fmt: skip
    path = folder / "sample" / "10BT" / "000_00000.parquet"
    path.parent.mkdir(parents=True)
    numbers = itertools.count()
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        while file.tell() < megabytes * 1_000_000:
            rows = [
                {
                    "text": passage,
                    "id": f"<urn:uuid:{_identifier(number := next(numbers))}>",
                    "dump": "CC-MAIN-2024-10",
                    "url": f"{_MANUAL}{module.name}.html",
                    "file_path": f"s3://commoncrawl/crawl-data/{number}.warc.gz",
                    "language": "en",
                    "language_score": 0.9,
                    "token_count": len(passage) // 4,
                    "score": 3.0,
                    "int_score": 3,
                }
                for module, passage in passages()[:1000]
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    files = [{"split": "train", "path": "sample/10BT/*"}]
    card = {"license": "odc-by", "configs": [{"config_name": "sample-10BT", "data_files": files}]}
    write_readme(folder, card, "FineWeb-Edu")


def write_starcoder(folder: Path) -> None:
    """Source code in one folder a language."""
    text = pa.string()
    schema = pa.schema([
        ("max_stars_repo_path", text), ("max_stars_repo_name", text), ("max_stars_count", pa.int64()), ("id", text),
        ("content", text),
    ])  # fmt: skip
    rows = [
        {"max_stars_repo_path": module.path, "max_stars_repo_name": "python/cpython", "max_stars_count": number,
         "id": str(number), "content": module.source[:8000]}
        for number, module in enumerate(modules())
    ]  # fmt: skip
    for number, shard in enumerate(_split(rows, 0.5, 0.5)):
        _parquet(folder / "python" / f"train-{number:05}-of-00002.parquet", shard, schema)
    _parquet(folder / "javascript" / "train-00000-of-00001.parquet", rows[:50], schema)
    write_readme(folder, {"license": "other", "extra_gated_prompt": "Terms of use"}, "StarCoder training data")


def _apps_rows() -> list[dict[str, Any]]:
    return [
        {"problem_id": number, "question": item.docstring, "solutions": orjson.dumps([item.name]).decode(),
         "input_output": "{}", "difficulty": "interview", "url": f"{_MANUAL}{item.module.name}.html",
         "starter_code": ""}
        for number, item in enumerate(documented()[:400])
    ]  # fmt: skip


def write_apps_script(folder: Path) -> None:
    """A loading script and the data that only it can read."""
    for split, rows in zip(("train", "test"), _split(_apps_rows(), 0.5, 0.5), strict=True):
        _write(folder / f"{split}.jsonl", _json_lines(rows))
    script = '"""APPS."""\nimport datasets\n\n\nclass APPS(datasets.GeneratorBasedBuilder):\n    pass\n'
    _write(folder / "apps.py", script.encode())
    write_readme(folder, {"license": ["mit"], "pretty_name": "APPS"}, "APPS")


def write_apps_parquet(folder: Path) -> None:
    """The Parquet conversion that the Hub keeps on a branch of its own."""
    rows = _apps_rows()
    schema = pa.schema([(name, pa.int64() if name == "problem_id" else pa.string()) for name in rows[0]])
    for split, part in zip(("train", "test"), _split(rows, 0.5, 0.5), strict=True):
        _parquet(folder / "all" / split / "0000.parquet", part, schema)


def _gsm8k(folder: Path, configs: Sequence[str], count: int) -> None:
    schema = pa.schema([("question", pa.string()), ("answer", pa.string())])
    for config in configs:
        how = "How many arguments does it take, and why?" if config == "socratic" else "How many arguments?"
        rows = [
            {"question": f"{item.docstring}\n{how}", "answer": f"`{item.name}` says so.\n#### {item.arguments}"}
            for item in documented()[:count]
        ]
        for split, part in zip(("train", "test"), _split(rows, 0.85, 0.15), strict=True):
            _parquet(folder / config / f"{split}-00000-of-00001.parquet", part, schema)
    described = [
        {"config_name": config, "data_files": [{"split": s, "path": f"{config}/{s}-*"} for s in ("train", "test")]}
        for config in configs
    ]
    write_readme(folder, {"license": ["mit"], "configs": described}, "GSM8K")


def write_gsm8k_first(folder: Path) -> None:
    """The first state: one config, fewer rows."""
    _gsm8k(folder, ["main"], 600)


def write_gsm8k_second(folder: Path) -> None:
    """The second state: two configs, more rows."""
    _gsm8k(folder, ["main", "socratic"], 800)


def write_arc(folder: Path) -> None:
    """ARC-Easy is sound; the card promises files for ARC-Challenge that nobody uploaded."""
    choices = pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])
    schema = pa.schema([
        ("id", pa.string()), ("question", pa.string()), ("choices", choices), ("answerKey", pa.string()),
    ])  # fmt: skip
    rows = [
        {"id": f"Mercury_{number}", "question": item.docstring, "answerKey": "BA"[item.is_class],
         "choices": {"text": ["a class", "a function"], "label": ["A", "B"]}}
        for number, item in enumerate(documented()[:500])
    ]  # fmt: skip
    for split, part in zip(("train", "test"), _split(rows, 0.6, 0.4), strict=True):
        _parquet(folder / "ARC-Easy" / f"{split}-00000-of-00001.parquet", part, schema)
    configs = [
        {"config_name": name, "data_files": [{"split": s, "path": f"{name}/{s}-*"} for s in ("train", "test")]}
        for name in ("ARC-Easy", "ARC-Challenge")
    ]
    write_readme(folder, {"license": ["cc-by-sa-4.0"], "configs": configs}, "AI2 ARC")
