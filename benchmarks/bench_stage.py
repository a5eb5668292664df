"""Staging beside what a user would pick instead, on the same trees, in one run.

    python -m benchmarks.bench_stage [--rounds 5] [--gigabytes 5] [--files 100000] [--folder DIR]

Large files: 20 of one size. Small ones: 10 kB each, 1,000 a folder. Against `cp -r`, `rsync -a` and `xargs -P2 cp`;
ours is the whole command, with two processes, hashing on and off. Sources lie in the page cache for all. Targets of the
small files are new each time and removed in the end: ext4 looks long after each inode that was just deleted before it
gives out one. Aims: without hashes never slower than the best of them, with hashes 0.8 of it; what is there already is
seen in less than a second per 100,000 files.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HFASSETS = str(Path(sys.executable).with_name("hfassets"))
XARGS = """\
set -euo pipefail
mkdir "$2" && cd "$1"
find . -type d -print0 | (cd "$2" && xargs -0 mkdir -p)
find . -type f -print0 | xargs -0 -P2 -n "$3" cp --parents -t "$2"
"""


def write_large(folder: Path, size: int) -> None:
    """20 files of `size` bytes in all."""
    folder.mkdir()
    block = random.Random(1).randbytes(1 << 20)
    for number in range(20):
        with (folder / f"shard_{number:02}.bin").open("wb") as file:
            for part in range(size // 20 >> 20):
                file.write(bytes([number, part % 256]) + block[2:])


def write_small(folder: Path, count: int) -> None:
    """Files of 10 kB."""
    data = random.Random(2).randbytes(110_000)
    for number in range(count):
        below = folder / f"{number // 1000:03}"
        if number % 1000 == 0:
            below.mkdir(parents=True)
        (below / f"{number:06}.bin").write_bytes(data[number % 100_000 :][:10_000])


def ours(*options: str) -> Callable[[Path, Path], list[str]]:
    """The command with two processes."""
    return lambda source, to: [HFASSETS, "stage", "--from", str(source), "--to", str(to), "--workers", "2", *options]


def contestants(each: int) -> dict[str, Callable[[Path, Path], list[str]]]:
    """Commands by name; `each`: files that `xargs` gives to one `cp`."""
    return {
        "cp -r": lambda source, to: ["cp", "-r", str(source), str(to)],
        "rsync -a": lambda source, to: ["rsync", "-a", f"{source}/", f"{to}/"],
        "xargs -P2 cp": lambda source, to: ["bash", "-c", XARGS, "xargs", str(source), str(to), str(each)],
        "stage --no-hash": ours("--no-hash"),
        "stage": ours(),
    }


def timed(command: list[str], source: Path | None = None) -> float:
    """Seconds of a command; what was written before is on disk when it begins, and the source and as much memory again
    are at hand.

    A virtual machine gives its host back what is free, and what was not read for seconds, and gets it again page by
    page, which takes longer than the copy: whoever comes after a pause would pay for it.
    """
    os.sync()
    if source is not None:
        files = [path for path in source.rglob("*") if path.is_file()]
        np.ones(sum(path.stat().st_size for path in files), dtype=np.uint8)
        buffer = bytearray(1 << 20)
        for path in files:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def bench(source: Path, folder: Path, each: int, rounds: int, *, keep: bool) -> tuple[float, float]:
    """What `ratios` says of the contestants' median seconds; printed as well of the fastest rounds.

    They take turns, in a random order each round. The disk is still busy with what was written before, and the kernel
    makes a writer wait once a fifth of the memory waits to be written: single rounds say little.
    """
    commands, turns = contestants(each), random.Random(rounds)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in turns.sample([*commands], len(commands)):
            target = folder / f"{source.name}-{number}-{name.replace(' ', '')}"
            seconds[name].append(timed(commands[name](source, target), source))
            if not keep:
                shutil.rmtree(target)
        print(
            f"{source.name}: " + "  ".join(f"{name} {found[-1]:.2f} s" for name, found in seconds.items()), flush=True
        )
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    for said, found in (("medians", medians), ("fastest", {name: min(found) for name, found in seconds.items()})):
        plain, hashed = ratios(found)
        print(f"{source.name}, {said}: {plain:.2f} of the best without hashes, {hashed:.2f} with them", flush=True)
    return ratios(medians)


def ratios(seconds: dict[str, float]) -> tuple[float, float]:
    """The best of the others' time through ours, without hashes and with them."""
    best = min(found for name, found in seconds.items() if not name.startswith("stage"))
    return best / seconds["stage --no-hash"], best / seconds["stage"]


def main() -> int:
    """Run it; 1 if an aim was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    given = parser.parse_args()
    missed = []
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_large(folder / "large", int(given.gigabytes * 1e9))
        write_small(folder / "small", given.files)
        for source, each, keep in ((folder / "large", 1, False), (folder / "small", 64, True)):
            plain, hashed = bench(source, folder, each, given.rounds, keep=keep)
            missed += [source.name] if plain < 1 or hashed < 0.8 else []
        target = folder / "again"
        timed(ours()(folder / "small", target))
        again = statistics.median(timed(ours()(folder / "small", target)) for _ in range(5))
        print(f"again: {given.files:,} files seen in {again:.2f} s (aim: 1 s per 100,000)")
        missed += ["again"] if again > given.files / 100_000 else []
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
