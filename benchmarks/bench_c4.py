"""C4 from a loopback Hub to JSONL parts: `hfassets.c4` beside `datasets` streaming with `json.dumps`, and bare gunzip.

    python benchmarks/bench_c4.py [--files 2] [--megabytes 230] [--rounds 3] [--million]

Gzip sources as C4 has them (rows of text, timestamp, url), on a sample Hub that is a process of its own. In each round,
alternating, every one in a new process: ours (all rows of the sources streamed to parts, hashed, checked to be JSON,
the source proven), the way of the older script (load_dataset(streaming=True), json.dumps, one file), and isal's gunzip
of the same files from the page cache to nowhere. Aims: at least 5 times the older way, at least 0.7 of bare gunzip;
resident memory within 50 MB from 10^4 to 10^6 rows (--million makes the sources for that, which takes minutes).
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import orjson

from hfassets.demo.hub_corpus import passages

REPO = "allenai/c4"

SERVE = """
import sys, threading
from pathlib import Path
from hfassets.demo.hub_server import SampleHub
root = Path(sys.argv[1])
card = b"---\\nconfigs:\\n- config_name: en\\n  data_files:\\n  - {split: train, path: en/c4-train.*.json.gz}\\n---\\n"
files = {f"en/{path.name}": path for path in sorted((root / "sources").iterdir())}
with SampleHub(root / "hub", content=False) as hub:
    hub.add_repo("allenai/c4", {"README.md": card, **files})
    print(hub.url, flush=True)
    threading.Event().wait()
"""

OURS = """
import resource, sys, time
from pathlib import Path
import datasets  # which resolves configs: before the clock starts, as for the others
from hfassets.c4.make import make_shard_set
from hfassets.c4.request import ShardSetRequest
from hfassets.hub.layout import RepoCache
from hfassets.hub.session import HubClient, hub_options
from hfassets.storage.state import StateDir
folder, rows = Path(sys.argv[1]), int(sys.argv[2])
began = time.perf_counter()
with HubClient(hub_options()) as client:
    request = ShardSetRequest(
        repo=RepoCache(folder / "hub", "allenai/c4"), commit=client.resolve_commit("allenai/c4"),
        destination=folder / "out", local=folder / "out", state=StateDir(folder / "state"), config="en",
        num_samples=rows, max_lines_per_file=50_000, streaming=True, on_shortfall="report",
    )
    made = make_shard_set(client, request)
print(time.perf_counter() - began, made.rows, made.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""

THEIRS = """
import json, sys, time
from pathlib import Path
import datasets
folder, rows = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir()
began = time.perf_counter()
written = size = 0
with (folder / "c4.jsonl").open("w") as out:
    for row in datasets.load_dataset("allenai/c4", "en", split="train", streaming=True):
        size += out.write(json.dumps(row, default=str) + "\\n")
        written += 1
        if written == rows:
            break
print(time.perf_counter() - began, written, size, 0)
"""

GUNZIP = """
import sys, time
from pathlib import Path
from isal import isal_zlib
paths = sorted(Path(sys.argv[1]).iterdir())
for path in paths:
    path.read_bytes()
began = time.perf_counter()
size = 0
for path in paths:
    member = isal_zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        while chunk := file.read(1 << 18):
            size += len(member.decompress(chunk))
print(time.perf_counter() - began, 0, size, 0)
"""


def write_sources(folder: Path, files: int, megabytes: int) -> int:
    """Gzip sources of about so many MB each, from the words of the standard library; how many rows they have."""
    folder.mkdir(parents=True)
    words = " ".join(text for _, text in passages()).split()
    rows = 0
    for number in range(files):
        path = folder / f"c4-train.{number:05}-of-{files:05}.json.gz"
        choose = random.Random(number)
        with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as out:
            while raw.tell() < megabytes * 1_000_000:
                lines = []
                for _ in range(500):
                    start, count = choose.randrange(len(words) - 800), choose.randint(20, 700)
                    text = " ".join(words[start : start + count]).replace(". ", ".\n")
                    rows += 1
                    row = {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": f"http://example.com/{rows}"}
                    lines.append(orjson.dumps(row))
                out.write(b"\n".join(lines) + b"\n")
    return rows


def run(code: str, *words: object, **variables: str) -> tuple[float, int, int, int]:
    """Seconds, rows, bytes and peak resident bytes of one run in a new process."""
    command = [sys.executable, "-c", code, *(str(word) for word in words)]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    seconds, rows, size, memory = done.stdout.split()
    return float(seconds), int(rows), int(size), int(memory)


def main() -> int:
    """Run all, print the table; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=230)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-c4-")))
        files = max(options.files, 4) if options.million else options.files
        rows = write_sources(root / "sources", files, options.megabytes)
        server = subprocess.Popen([sys.executable, "-c", SERVE, str(root)], stdout=subprocess.PIPE, text=True)
        stack.callback(server.wait)
        stack.callback(server.kill)
        assert server.stdout is not None
        variables = {"HF_ENDPOINT": server.stdout.readline().strip(), "HF_HUB_DISABLE_TELEMETRY": "1"}
        against_theirs, against_gunzip = [], []
        os.sync()
        for number in range(options.rounds):
            work = root / f"round-{number}"
            work.mkdir()
            ours = run(OURS, work / "ours", rows, **variables)
            theirs = run(
                THEIRS, work / "theirs", rows // 10, **variables, HF_HOME=str(work / "hf"),
                HF_DATASETS_DISABLE_PROGRESS_BARS="1",
            )  # fmt: skip
            bare = run(GUNZIP, root / "sources")
            shutil.rmtree(work)
            os.sync()
            rates = [size / seconds / 1e6 for seconds, _, size, _ in (ours, theirs, bare)]
            against_theirs.append((ours[1] / ours[0]) / (theirs[1] / theirs[0]))
            against_gunzip.append(rates[0] / rates[2])
            print(
                f"round {number + 1}: ours {rates[0]:.0f} MB/s of JSON ({ours[1]:,} rows), datasets + json.dumps "
                f"{rates[1]:.0f} MB/s, bare isal gunzip {rates[2]:.0f} MB/s"
            )
        few = run(OURS, root / "few", 10_000, **variables)
        most = min(rows, 1_000_000)
        many = run(OURS, root / "many", most, **variables)
        growth = (many[3] - few[3]) / 1e6
    faster, share = statistics.median(against_theirs), statistics.median(against_gunzip)
    print(f"rows a second, against datasets + json.dumps: {faster:.1f} times (aim: 5)")
    print(f"bytes a second, against bare gunzip: {share:.2f} (aim: 0.7)")
    print(f"peak memory: {few[3] / 1e6:.0f} MB for 10,000 rows, {many[3] / 1e6:.0f} MB for {most:,} (aim: +50 at most)")
    return 0 if faster >= 5 and share >= 0.7 and growth <= 50 else 1


if __name__ == "__main__":
    sys.exit(main())
