"""How fast a cache is verified, beside what a user would run instead, on the same files in the same run.

    python benchmarks/bench_verify.py [--big 4x256] [--small 20000] [--small-bytes 20000] [--remembered 100000]

Files are read once before anything is timed, so that all contenders read from the page cache. Every figure of ours
is a whole `verify_cache`: scan, hashing, memory written. Each contender runs `--rounds` times; the best round counts.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

MB = 1_000_000
RSS_LIMIT = 200 * MB

# A process of its own, so that its peak memory is that of the verification alone.
WORKER = """
import resource, sys, time, orjson
from pathlib import Path
from hfassets.hub.verify import verify_cache
from hfassets.storage.state import StateDir
started = time.perf_counter()
report = verify_cache(Path(sys.argv[1]), state=StateDir(Path(sys.argv[2])), full=sys.argv[3] == "full")
seconds = time.perf_counter() - started
assert report.intact, report.faults[:3]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
counts = {"checked": report.checked, "remembered": report.remembered}
print(orjson.dumps({"seconds": seconds, "peak": peak, **counts}).decode())
"""


def main() -> int:
    """Run all three measurements; the exit code says whether every target was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--big", default="4x256", help="number and size in MB of the big files")
    parser.add_argument("--small", type=int, default=20_000, help="number of small files")
    parser.add_argument("--small-bytes", type=int, default=20_000, help="size of a small file")
    parser.add_argument("--remembered", type=int, default=100_000, help="number of files already verified")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts")
    parser.add_argument("--folder", type=Path, help="where to make the files (default: the temporary folder)")
    options = parser.parse_args()
    count, size = (int(word) for word in options.big.split("x"))
    cores = len(os.sched_getaffinity(0))
    table = Table("measured", "figure", "target", "ratio", "", title=f"hub verify, {cores} cores")
    verdicts: list[bool | None] = []

    def row(name: str, figure: str, target: str = "", ratio: float | None = None, met: bool | None = None) -> None:
        verdicts.append(met)
        verdict = "" if met is None else "[green]pass" if met else "[red]miss"
        table.add_row(name, figure, target, "" if ratio is None else f"{ratio:.2f}", verdict)

    with tempfile.TemporaryDirectory(prefix="bench-verify-", dir=options.folder) as folder:
        root = Path(folder)
        big(root / "big", count, size * MB, cores, options.rounds, row)
        shutil.rmtree(root / "big")
        small(root / "small", options.small, options.small_bytes, options.rounds, row)
        shutil.rmtree(root / "small")
        remembered(root / "remembered", options.remembered, row)
    Console(width=120).print(table)
    return 1 if False in verdicts else 0


Row = Callable[..., None]


def big(root: Path, count: int, size: int, cores: int, rounds: int, row: Row) -> None:
    """A few big files: ours beside openssl and sha256sum on all cores."""
    files = [add_blob(root / "hub", f"big/{number}.bin", number, size) for number in range(count)]
    warm(files)
    total, names = count * size, b"\0".join(os.fsencode(file) for file in files)

    def piped(*command: str) -> float:
        started = time.perf_counter()
        each = ["xargs", "-0", "-P", str(cores), "-n", "1", *command]
        subprocess.run(each, input=names, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started

    rounds_of: dict[str, list[float]] = {"ours": [], "openssl": [], "sha256sum": []}
    peak = 0
    for _ in range(rounds):  # in turns, so that a noisy moment hits all alike
        told = verify(root, "full")
        rounds_of["ours"].append(told["seconds"])
        peak = max(peak, int(told["peak"]))
        rounds_of["openssl"].append(piped("openssl", "dgst", "-sha256"))
        rounds_of["sha256sum"].append(piped("sha256sum"))
    best = {name: total / min(seconds) for name, seconds in rounds_of.items()}
    ideal = openssl_speed(cores)
    ours = best["ours"]
    row(f"ours, {count} files of {size // MB} MB in the page cache", rate(ours))
    row(f"openssl speed -multi {cores} -evp sha256", rate(ideal), "ours ≥ 0.70", ours / ideal, ours >= 0.7 * ideal)
    openssl = best["openssl"]
    row(f"xargs -P {cores} openssl dgst -sha256", rate(openssl), "ours ≥ 1.00", ours / openssl, ours >= openssl)
    summed = best["sha256sum"]
    row(f"xargs -P {cores} sha256sum", rate(summed), "ours ≥ 3.00", ours / summed, ours >= 3 * summed)
    row("peak resident memory", f"{peak / MB:.0f} MB", "< 200 MB", None, peak < RSS_LIMIT)


def small(root: Path, count: int, size: int, rounds: int, row: Row) -> None:
    """Many small files, each a blob of its own."""
    warm([add_blob(root / "hub", f"small/{number // 1000}/{number}.txt", number, size) for number in range(count)])
    runs = [verify(root, "full") for _ in range(rounds)]
    assert all(told["checked"] == count for told in runs)
    speed = count / min(told["seconds"] for told in runs)
    peak = max(told["peak"] for told in runs)
    target = 20_000
    row(f"{count:,} files of {size:,} bytes", f"{speed:,.0f} files/s", f"≥ {target:,}", speed / target, speed >= target)
    row("peak resident memory", f"{peak / MB:.0f} MB", "< 200 MB", None, peak < RSS_LIMIT)


def remembered(root: Path, count: int, row: Row) -> None:
    """A second look at files that were verified before: one stat each."""
    for number in range(count):
        add_blob(root / "hub", f"many/{number // 1000}/{number}.txt", number, 100)
    first, again = verify(root, "known"), verify(root, "known")
    assert (first["checked"], again["checked"], again["remembered"]) == (count, 0, count)
    row(f"re-check of {count:,} verified files", f"{again['seconds']:.2f} s", "< 5 s", None, again["seconds"] < 5)
    row("peak resident memory", f"{again['peak'] / MB:.0f} MB", "< 200 MB", None, again["peak"] < RSS_LIMIT)


def add_blob(hub: Path, path: str, seed: int, size: int) -> Path:
    """One file of a cache as huggingface_hub leaves it: blob and relative link."""
    repo = hub / "datasets--bench--files"
    block = hashlib.shake_128(seed.to_bytes(8, "little")).digest(min(size, MB))
    digest, left = hashlib.sha256(usedforsecurity=False), size
    folder = repo / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{seed}.incomplete"
    with temporary.open("wb") as file:
        while left:
            part = block[:left]
            digest.update(part)
            file.write(part)
            left -= len(part)
    blob = folder / digest.hexdigest()
    temporary.rename(blob)
    pointer = repo / "snapshots" / ("a" * 40) / path
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    return blob


def warm(files: list[Path]) -> None:
    """Bring files into the page cache."""
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 20):
                pass


def verify(root: Path, mode: str) -> dict[str, float]:
    """One `verify_cache` in a process of its own: seconds without the start of Python, peak bytes, counts."""
    command = [sys.executable, "-c", WORKER, str(root / "hub"), str(root / "state"), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    told: dict[str, float] = orjson.loads(done.stdout)
    return told


def openssl_speed(cores: int) -> float:
    """Bytes/s of openssl's own benchmark on blocks of 16 KiB, all cores."""
    command = ["openssl", "speed", "-seconds", "2", "-bytes", "16384", "-multi", str(cores), "-evp", "sha256"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.findall(r"^sha256\s+([0-9.]+)k", done.stdout, re.MULTILINE | re.IGNORECASE)
    return float(found[-1]) * 1000


def rate(speed: float) -> str:
    """Bytes/s for people."""
    return f"{speed / 1e9:.2f} GB/s"


if __name__ == "__main__":
    raise SystemExit(main())
