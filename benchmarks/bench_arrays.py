"""Parts on a job array: what a part costs beyond its work, on a cluster of two nodes on this machine.

    python -m benchmarks.bench_arrays [--parts 10000] [--real 200]

No-op parts through arrays of `ArrayPool`: overhead a part and submissions (aims: 20 ms, 20). Then parts of real work (a
second or so of hashing each) beside the local pool on the same cores (aim: 0.9 of its throughput).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.array_parts import work
from hfassets.arrays import ArrayPool
from hfassets.parts import LocalPool, Plan
from hfassets.parts import run as run_parts
from hfassets.slurm.resources import parse_resources
from hfassets.slurm.settings import parse_settings
from hfassets_tests.cluster import Cluster


def plan(count: int, rounds: int) -> Plan:
    """So many parts of so much work."""
    names = [{"name": f"p{number:06}"} for number in range(count)]
    return Plan("bench", 1, {}, {}, names, {"rounds": rounds})


def timed(backend: ArrayPool | LocalPool, made: Plan, root: Path) -> float:
    """Seconds to make all parts."""
    began = time.perf_counter()
    run_parts(made, work, backend, root)
    return time.perf_counter() - began


def main() -> int:
    """Run all, print the table; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--real", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-arrays-") as folder:
        root = Path(folder)
        with Cluster(root / "cluster", accounting=False) as cluster:
            os.environ.update(cluster.environment, PYTHONPATH=str(Path(__file__).parent.parent))
            settings = parse_settings({"export": ["PYTHONPATH"]}, root)
            request = parse_resources({"cpus": "1", "memory": "400M", "time": "01:00:00"}, "")
            said: list[str] = []
            pool = ArrayPool(settings, request, max_tasks=4, part_seconds=0.02, say=said.append)
            seconds = timed(pool, plan(options.parts, 0), root / "many")
            overhead, submissions = seconds / options.parts, len(said)
            print(f"{options.parts:,} parts of nothing: {1e3 * overhead:.1f} ms a part, {submissions} submissions")
            # A machine of two cores: as many tasks. That parts take so long is said for there to be two of them.
            pool = ArrayPool(settings, request, max_tasks=2, part_seconds=6.0, say=said.append)
            arrays = timed(pool, plan(options.real, 400), root / "real")
            local = timed(LocalPool(2), plan(options.real, 400), root / "local")
            print(f"{options.real} parts of work: {arrays:.1f} s, local pool {local:.1f} s: {local / arrays:.2f} of it")
    return 0 if overhead < 0.02 and submissions <= 20 and local / arrays >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
