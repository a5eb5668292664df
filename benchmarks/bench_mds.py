"""MDS: each stage beside what a user would pick instead, on the same files, in one run.

    python benchmarks/bench_mds.py [--megabytes 400] [--rounds 3]

Writer: rows of 1,024 tokens against mosaicml-streaming's MDSWriter. End to end: JSON lines (sources and texts of the
installed packages, each once) to chunked MDS in one go with two processes, and by the three stages for comparison,
against json, `encode_batch`, lists and MDSWriter in one loop, and against gigatoken alone on the same texts; in one go
from 10^6 to 10^9 tokens, by repetition. Chunking: tokens/s of one core. Index: 10,000 shards merged. Aims: writer at
least 5 times, end to end at least 20 times and 0.6 of gigatoken, the same speed and memory whatever the size, chunking
50 Mtok/s, index under 5 s.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import orjson

from hfassets.demo.hub_model import write_tokenizer
from hfassets.mds.columns import column
from hfassets.mds.index import write_merged
from hfassets.mds.tokenize import encoded_arrays
from hfassets.mds.writer import MdsWriter
from hfassets.tokens.chunking import Specials, chunked
from hfassets.tokens.ragged import Ragged
from hfassets.tokens.rules import ChunkRule

RULE = ChunkRule(1024, minimum=800, skip=500, backfill=True, duplicates=False, add_eos=True)

LIBRARY = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import streaming
"""

OURS = """
import re, sys, time
from pathlib import Path
from hfassets.mds.chunk import Chunking
from hfassets.mds.fused import FusedChunking
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files
from hfassets.mds.stage import StageRun, make_stage
from hfassets.mds.tokenize import Tokenization
from hfassets.mds.upstream import upstream
from hfassets.storage.state import StateDir
from hfassets.tokens.engine import Engine, TokenizerSource
from benchmarks.bench_mds import RULE

def main():
    root, source, tokenizer = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    state = StateDir(root / "state")
    run = StageRun(state, workers=2)
    began = time.perf_counter()
    make_stage(from_files(source, Target(root / "text", state, cut=Cut(int(sys.argv[4])))).stage(), run)
    text = time.perf_counter()
    found = TokenizerSource.read(tokenizer)
    make_stage(Tokenization(root / "tokens", upstream(root / "text"), found, tokenizer).stage(), run)
    tokens = time.perf_counter()
    specials = Engine(found, "tokenizers").specials
    made = make_stage(Chunking(root / "chunks", upstream(root / "tokens"), RULE, specials).stage(), run)
    end = time.perf_counter()
    target = Target(root / "none", StateDir(root / "other"), cut=Cut(int(sys.argv[4])))
    fused = FusedChunking(root / "fused", from_files(source, target), found, tokenizer, RULE)
    once = make_stage(fused.stage(), run)
    print(time.perf_counter() - end, once.account["tokens_in"], text - began, tokens - text, end - tokens)

if __name__ == "__main__":
    main()
"""

THEIRS = (
    LIBRARY
    + """
import json, sys, time
from pathlib import Path
import numpy as np
from tokenizers import Tokenizer
root, source, tokenizer = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
began = time.perf_counter()
tokenizer = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
count = 0
def rows():
    for path in sorted(source.iterdir()):
        with path.open() as lines:
            for line in lines:
                yield json.loads(line)
def batches():
    batch = []
    for row in rows():
        batch.append(row)
        if len(batch) == 1000:
            yield batch
            batch = []
    yield batch
with streaming.MDSWriter(columns={"input_ids": "ndarray:uint32", "id": "str"}, out=str(root), compression=None) as out:
    for batch in batches():
        found = tokenizer.encode_batch([row["text"] for row in batch], add_special_tokens=False)
        for row, encoded in zip(batch, found):
            ids = encoded.ids
            count += len(ids)
            ids.append(0)
            pieces = [ids[start:start + 1024] for start in range(0, len(ids), 1024)]
            if len(pieces) > 1 and len(pieces[-1]) < 800:
                if len(pieces[-1]) < 500:
                    pieces.pop()
                else:
                    moved = 800 - len(pieces[-1])
                    pieces[-1] = pieces[-2][-moved:] + pieces[-1]
                    pieces[-2] = pieces[-2][:-moved]
            for piece in pieces:
                out.write({"input_ids": np.array(piece, dtype=np.uint32), "id": row["id"]})
print(time.perf_counter() - began, count)
"""
)

ONCE = """
import re, resource, sys, time
from pathlib import Path
from hfassets.mds.fused import FusedChunking
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files
from hfassets.mds.stage import StageRun, make_stage
from hfassets.storage.state import StateDir
from hfassets.tokens.engine import TokenizerSource
from benchmarks.bench_mds import RULE

def main():
    root, source, tokenizer = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    state = StateDir(root / "state")
    began = time.perf_counter()
    target = Target(root / "none", state, cut=Cut(64_000_000))
    fused = FusedChunking(root / "fused", from_files(source, target), TokenizerSource.read(tokenizer), tokenizer, RULE)
    once = make_stage(fused.stage(), StageRun(state, workers=2))
    seconds = time.perf_counter() - began
    print(seconds, once.account["tokens_in"], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)

if __name__ == "__main__":
    main()
"""

GIGATOKEN = """
import sys, time
from pathlib import Path
import gigatoken, orjson
tokenizer = gigatoken.Tokenizer.from_json((Path(sys.argv[2]) / "tokenizer.json").read_bytes())
texts = [
    orjson.loads(line)["text"].encode()
    for path in sorted(Path(sys.argv[1]).iterdir()) for line in path.read_bytes().splitlines()
]
began = time.perf_counter()
count = 0
for start in range(0, len(texts), 20000):
    count += len(tokenizer.encode_batch(texts[start:start + 20000]).layout.content.data)
print(time.perf_counter() - began, count)
"""


def write_source(folder: Path, megabytes: int) -> None:
    """JSON lines of real documents in eight files: what the installed packages have of readable text."""
    folder.mkdir(parents=True)
    endings = (".py", ".pyi", ".txt", ".md", ".rst", ".h", ".hpp", ".js", ".css", ".html")
    files = sorted(path for path in Path(sys.prefix).rglob("*") if path.suffix in endings and path.is_file())
    random.Random(0).shuffle(files)
    size, limit = 0, megabytes * 1_000_000
    outs = [(folder / f"f{number}.jsonl").open("wb") for number in range(8)]
    for number, path in enumerate(files):
        text = path.read_text(errors="replace")
        if 200 < len(text) < 200_000 and size < limit:
            size += outs[8 * size // limit].write(orjson.dumps({"id": f"d{number}", "text": text}) + b"\n")
    for out in outs:
        out.close()


def run(code: str, *words: object) -> list[float]:
    """The numbers that a script in a process of its own prints."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(code)
        script.flush()
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run(
            [sys.executable, script.name, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return [float(one) for one in done.stdout.split()]


def bench_writer(root: Path, rounds: int) -> float:
    """Ratio of the two writers on rows of 1,024 tokens."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import streaming

    # Or one of the two writers now and then pays for a look at the hundred thousands of objects that torch brought.
    gc.freeze()
    count = 40_000
    tokens = np.random.default_rng(0).integers(0, 50_000, count * 1024).astype(np.uint16)
    rows = Ragged(tokens, np.arange(count + 1, dtype=np.int64) * 1024)
    names = [f"document-{number}" for number in range(count)]
    schema = {"input_ids": "ndarray:uint16", "id": "str"}
    ratios = []
    for number in range(rounds):
        began = time.perf_counter()
        with MdsWriter(root / f"ours{number}", schema) as ours:
            for start in range(0, count, 8000):
                some = rows.take(start, start + 8000)
                ids = [name.encode() for name in names[start : start + 8000]]
                ours.write_encoded({"input_ids": encoded_arrays(column(schema["input_ids"]), some), "id": ids})
        middle = time.perf_counter()
        with streaming.MDSWriter(columns=schema, out=str(root / f"theirs{number}")) as theirs:
            for name, row in zip(names, tokens.reshape(count, 1024), strict=True):
                theirs.write({"id": name, "input_ids": row})
        end = time.perf_counter()
        speeds = [count * 1024 / seconds / 1e6 for seconds in (middle - began, end - middle)]
        print(f"writer, round {number + 1}: ours {speeds[0]:,.0f} Mtok/s; MDSWriter {speeds[1]:,.0f} Mtok/s")
        ratios.append(speeds[0] / speeds[1])
        same = all(
            (root / f"ours{number}" / path.name).read_bytes() == path.read_bytes()
            for path in (root / f"theirs{number}").iterdir()
        )
        if not same:
            sys.exit("the two writers wrote different bytes")
        shutil.rmtree(root / f"ours{number}")
        shutil.rmtree(root / f"theirs{number}")
    return statistics.median(ratios)


def bench_chunking() -> dict[str, float]:
    """Mtok/s of one core by mode, on documents of 700 tokens on average."""
    choose = np.random.default_rng(0)
    lengths = np.clip(choose.lognormal(6, 1, 60_000).astype(np.int64), 1, 20_000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    documents = Ragged(choose.integers(2, 50_000, offsets[-1]).astype(np.uint16), offsets)
    found = {}
    for rule in (RULE, ChunkRule(1024, "concat"), ChunkRule(1024, "best_fit", add_eos=True)):
        began = time.perf_counter()
        chunked(documents, rule, Specials(eos=0))
        found[rule.mode] = offsets[-1] / (time.perf_counter() - began) / 1e6
    return found


def bench_index(root: Path) -> float:
    """Seconds to merge the indexes of 10,000 shards in 1,000 folders."""
    with MdsWriter(root / "one", {"x": "int"}, size_limit=260) as writer:
        while writer.samples < 10:
            writer.write({"x": writer.samples})
    shards = json.loads((root / "one/index.json").read_text())
    shards["shards"] = [
        {**shards["shards"][0], "raw_data": {**shards["shards"][0]["raw_data"], "basename": f"shard.{one:05}.mds"}}
        for one in range(10)
    ]
    for number in range(1000):
        folder = root / "many" / f"{number % 10}" / f"{number:04}"
        folder.mkdir(parents=True)
        (folder / "index.json").write_text(json.dumps(shards))
    began = time.perf_counter()
    found = write_merged(root / "many")
    if len(found) != 10_000:
        sys.exit(f"{len(found)} shards were merged")
    return time.perf_counter() - began


def bench_sizes(root: Path, tokenizer: Path) -> bool:
    """Whether 10^9 tokens are made as fast as 10^7, in no more memory than 10^8; prints all from 10^6 on.

    Text that comes again is not tokenized as other text is, so gigatoken alone has no place beside it.
    """
    rates, peaks = [], []
    for megabytes in (0, 3, 30, 300, 3000):
        folder = root / f"source-{megabytes}"
        repeat_source(folder, root / "source", megabytes * 1_000_000)
        seconds, tokens, peak = run(ONCE, root / "sized", folder, tokenizer)
        shutil.rmtree(root / "sized")
        shutil.rmtree(folder)
        if not megabytes:
            start = seconds
            print(f"one document: {start:.2f} s, which is what it costs to begin")
            continue
        rates.append(tokens / (seconds - start))
        peaks.append(peak)
        print(
            f"{tokens:,.0f} tokens in {seconds:.2f} s: {tokens / seconds / 1e6:,.1f} Mtok/s, "
            f"{rates[-1] / 1e6:,.1f} once begun; at most {peak / 1e6:,.0f} MB a process"
        )
    return rates[-1] >= 0.9 * max(rates) and peaks[-1] < 1.2 * peaks[-2]


def repeat_source(folder: Path, source: Path, size: int) -> None:
    """So many bytes of a source, one line at least; when there are not enough, its files come again by other names."""
    folder.mkdir()
    number = 0
    while size > 0 or not number:
        for path in sorted(source.iterdir()):
            target = folder / f"f{number:04}.jsonl"
            if path.stat().st_size <= size:
                target.hardlink_to(path)
            elif size > 0 or not number:
                with path.open("rb") as lines, target.open("wb") as some:
                    while some.tell() < max(1, size):
                        some.write(next(lines))
            size -= path.stat().st_size
            number += 1


def main() -> int:
    """Run all, print the table; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-mds-")))
        writer = bench_writer(root, options.rounds)
        chunking = bench_chunking()
        index = bench_index(root)
        write_tokenizer_to(root / "tokenizer")
        write_source(root / "source", options.megabytes)
        size = sum(path.stat().st_size for path in (root / "source").iterdir())
        ratios: list[float] = []
        alone: list[float] = []
        for number in range(options.rounds):
            work = root / f"round-{number}"
            ours = run(OURS, work / "ours", root / "source", root / "tokenizer", size // 8)
            theirs = run(THEIRS, work / "theirs", root / "source", root / "tokenizer")
            fast = run(GIGATOKEN, root / "source", root / "tokenizer")
            told = [f"{size / one[0] / 1e6:,.1f} MB/s" for one in (ours, theirs, fast)]
            stages = ", ".join(f"{one:.2f} s" for one in ours[2:])
            print(
                f"end to end, round {number + 1}: ours {told[0]} ({stages}); json, encode_batch, MDSWriter {told[1]};"
            )
            print(f"  gigatoken alone {told[2]}")
            ratios.append(theirs[0] / ours[0])
            alone.append(fast[0] / ours[0])
            if ours[1] != theirs[1]:
                sys.exit(f"{ours[1]:,} and {theirs[1]:,} tokens")
            shutil.rmtree(work)
        flat = bench_sizes(root, root / "tokenizer")
    end, share = statistics.median(ratios), statistics.median(alone)
    print(f"writer: {writer:.1f} times MDSWriter, the same bytes (aim: 5)")
    print(f"chunking: {', '.join(f'{mode} {speed:,.0f} Mtok/s' for mode, speed in chunking.items())} (aim: 50)")
    print(f"index of 10,000 shards: {index:.2f} s (aim: 5)")
    print(f"end to end: {end:.1f} times (aim: 20), {share:.2f} of gigatoken alone (aim: 0.6)")
    print(f"as fast at 10^9 tokens as at fewer, in the same memory: {'yes' if flat else 'NO'}")
    fine = writer >= 5 and min(chunking.values()) >= 50 and index < 5 and end >= 20 and share >= 0.6 and flat
    return 0 if fine else 1


def write_tokenizer_to(folder: Path) -> None:
    """The sample Hub's tokenizer in a folder."""
    folder.mkdir()
    write_tokenizer(folder)


if __name__ == "__main__":
    sys.exit(main())
