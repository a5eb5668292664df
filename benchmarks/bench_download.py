"""Download from loopback: `fetch_snapshot`, hashing and fsync included, beside `huggingface_hub.snapshot_download`.

    python benchmarks/bench_download.py [--large 3] [--megabytes 300] [--small 500] [--rounds 3] [--workers 8]

Both fetch the same repo from the same sample Hub (a process of its own), each run in a new process into an empty
cache; the runs alternate. Aim: not slower than the library, which neither hashes nor syncs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

REPO = "bench/mixed"

OURS = """
import sys, time
from pathlib import Path
from hfassets.hub.layout import RepoCache
from hfassets.hub.memory import VerifyMemory
from hfassets.hub.session import HubClient, hub_options
from hfassets.hub.snapshot import fetch_snapshot, plan_snapshot
from hfassets.storage import StateDir
cache, state, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
began = time.perf_counter()
repo = RepoCache(cache, "bench/mixed")
with HubClient(hub_options()) as client:
    memory = VerifyMemory.open(StateDir(state), repo)
    listing = client.list_files(repo.repo_id, client.resolve_commit(repo.repo_id))
    fetch_snapshot(client, plan_snapshot(listing, repo, memory), repo, memory, workers=workers, revision="main")
print(time.perf_counter() - began)
"""

THEIRS = """
import sys, time
from huggingface_hub import snapshot_download
began = time.perf_counter()
snapshot_download("bench/mixed", repo_type="dataset", cache_dir=sys.argv[1], max_workers=int(sys.argv[3]))
print(time.perf_counter() - began)
"""


def serve(folder: Path, large: int, megabytes: int, small: int, stack: ExitStack) -> str:
    """Start the sample Hub with the repo as a process; its address."""
    code = (
        "import os, sys, threading\n"
        "from pathlib import Path\n"
        "from hfassets.demo.hub_server import SampleHub\n"
        "root, large, size, small = Path(sys.argv[1]), *map(int, sys.argv[2:])\n"
        "files = {}\n"
        "for index in range(large):\n"
        "    path = root / f'{index}.bin'\n"
        "    path.write_bytes(os.urandom(1_000_000) * size)\n"
        "    with path.open('r+b') as file: file.write(index.to_bytes(8, 'big'))\n"
        "    files[f'data/large-{index}.parquet'] = path\n"
        "files |= {f'data/small-{index:04}.json': os.urandom(20_000) for index in range(small)}\n"
        "with SampleHub(root / 'hub') as hub:\n"
        f"    hub.add_repo({REPO!r}, files)\n"
        "    print(hub.url, flush=True)\n"
        "    threading.Event().wait()\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(large), str(megabytes), str(small)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    stack.callback(server.wait)
    stack.callback(server.kill)
    assert server.stdout is not None
    return server.stdout.readline().strip()


def run(code: str, folder: Path, workers: int, url: str) -> float:
    """Seconds of one download into an empty cache, as the process itself measures them (imports excluded)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    env = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    os.sync()
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "cache"), str(folder / "state"), str(workers)],
        env=env, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--small", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to download to")
    options = parser.parse_args()
    size = options.large * options.megabytes * 1_000_000 + options.small * 20_000
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        (folder / "server").mkdir()
        url = serve(folder / "server", options.large, options.megabytes, options.small, stack)
        times: dict[str, list[float]] = {"hfassets": [], "huggingface_hub": []}
        order = [("huggingface_hub", THEIRS), ("hfassets", OURS)]
        for _ in range(options.rounds):
            order.reverse()  # neither always comes after the other
            for name, code in order:
                times[name].append(run(code, folder / "run", options.workers, url))
                time.sleep(0.2)
    print(f"{size / 1e9:.2f} GB: {options.large} x {options.megabytes} MB + {options.small} x 20 kB; "
          f"{options.workers} workers, {os.cpu_count()} cores")  # fmt: skip
    print(f"{'':24}{'median s':>10}{'MB/s':>8}   runs")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        runs = " ".join(f"{value:.2f}" for value in seconds)
        print(f"{name:24}{median:10.2f}{size / median / 1e6:8.0f}   {runs}")
    ratio = statistics.median(times["huggingface_hub"]) / statistics.median(times["hfassets"])
    print(f"hfassets is {ratio:.2f} times as fast (aim: at least 1.00)")


if __name__ == "__main__":
    main()
