"""Packed Parquet: JSON lines to rows of tokens beside what a user would write, on the same files, in one run.

    python benchmarks/bench_packed.py [--megabytes 150] [--rounds 3]

Ours with two processes, in `concat` (rows equal to theirs but for their last one, which theirs drops) and `best_fit`,
against `tokenizers` (`encode_batch`), Python lists and pyarrow. Best-fit alone: pieces/s of one core. Memory: the
largest process, for a quarter of the text and for all. Aims: 15 times, 10^6 pieces/s, memory flat.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.bench_mds import repeat_source, run, write_source, write_tokenizer_to
from hfassets.tokens.packing import best_fit

SIZE = 1024

OURS = """
import resource, sys, time
from pathlib import Path
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files
from hfassets.mds.stage import StageRun, make_stage
from hfassets.packed.stage import Packing
from hfassets.storage.state import StateDir
from hfassets.tokens.engine import TokenizerSource

def main():
    root, source, tokenizer, mode = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    state = StateDir(root / "state")
    began = time.perf_counter()
    found = from_files(source, Target(root / "out", state, cut=Cut(int(sys.argv[5]))))
    packing = Packing(root / "out", found, TokenizerSource.read(tokenizer), tokenizer, SIZE, mode)
    made = make_stage(packing.stage(), StageRun(state, 2))
    seconds = time.perf_counter() - began
    print(seconds, made.account["tokens_in"], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)

if __name__ == "__main__":
    main()
""".replace("SIZE", str(SIZE))

THEIRS = """
import json, sys, time
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer
root, source, tokenizer = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
root.mkdir(parents=True)
began = time.perf_counter()
tokenizer = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
fixed = pa.list_(pa.int32(), SIZE)
schema = pa.schema([("input_ids", fixed), ("attention_mask", fixed), ("labels", fixed)])
count, held = 0, []
with pq.ParquetWriter(root / "shard_0000.parquet", schema, compression="snappy") as writer:
    for path in sorted(source.iterdir()):
        with path.open() as lines:
            texts = [json.loads(line)["text"] for line in lines]
        for start in range(0, len(texts), 1000):
            for encoded in tokenizer.encode_batch(texts[start:start + 1000], add_special_tokens=False):
                count += len(encoded.ids)
                held += [*encoded.ids, 0]
            rows = [held[one:one + SIZE] for one in range(0, len(held) - SIZE + 1, SIZE)]
            held = held[len(rows) * SIZE:]
            columns = [rows, [[1] * SIZE for _ in rows], [[*row[1:], -100] for row in rows]]
            writer.write_table(pa.table([pa.array(one, fixed) for one in columns], schema=schema))
print(time.perf_counter() - began, count)
""".replace("SIZE", str(SIZE))


def bench_best_fit() -> float:
    """Pieces/s of one core: as many lengths as documents have."""
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 1, 2_000_000).astype(np.int64), 1, 8192)
    began = time.perf_counter()
    best_fit(lengths, 8192)
    return len(lengths) / (time.perf_counter() - began)


def same_rows(ours: Path, theirs: Path) -> bool:
    """Whether all rows of theirs are the first ones of ours."""
    columns = ["input_ids", "attention_mask", "labels"]
    found = pq.read_table(ours / "shard_0000.parquet", columns=columns)
    expected = pq.read_table(theirs / "shard_0000.parquet", columns=columns)
    return found.slice(0, len(expected)).equals(expected) and 0 <= len(found) - len(expected) <= 1


def main() -> int:
    """Run all, print the table; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-packed-")))
        write_tokenizer_to(root / "tokenizer")
        write_source(root / "source", options.megabytes)
        size = sum(path.stat().st_size for path in (root / "source").iterdir())
        ratios, equal = [], True
        for number in range(options.rounds):
            work = root / f"round-{number}"
            # One part, as theirs has none: with more, the tail of each is padded.
            whole = run(OURS, work / "whole", root / "source", root / "tokenizer", "concat", 1 << 40)
            ours = run(OURS, work / "ours", root / "source", root / "tokenizer", "best_fit", size // 8)
            theirs = run(THEIRS, work / "theirs", root / "source", root / "tokenizer")
            equal = equal and whole[1] == theirs[1] and same_rows(work / "whole/out", work / "theirs")
            ratios.append(theirs[0] / ours[0])
            told = [f"{theirs[1] / one[0] / 1e6:,.1f} Mtok/s" for one in (ours, whole, theirs)]
            print(f"round {number + 1}: best_fit {told[0]}, concat in one part {told[1]}; tokenizers, lists {told[2]}")
            shutil.rmtree(work)
        repeat_source(root / "much", root / "source", 8 * size)
        few = run(OURS, root / "few", root / "source", root / "tokenizer", "best_fit", size // 8)
        many = run(OURS, root / "many", root / "much", root / "tokenizer", "best_fit", size // 8)
    faster, pieces = statistics.median(ratios), bench_best_fit()
    print(f"the same rows: {'yes' if equal else 'NO'}; {faster:.1f} times (aim: 15)")
    print(f"best-fit: {pieces / 1e6:.2f} million pieces/s a core (aim: 1)")
    told = [f"{one[2] / 1e6:,.0f} MB for {one[1]:,.0f} tokens" for one in (few, many)]
    print(f"a process has at most {', '.join(told)}")
    return 0 if equal and faster >= 15 and pieces >= 1e6 and many[2] < 1.2 * few[2] else 1


if __name__ == "__main__":
    sys.exit(main())
