"""A source of a mix end to end, from a loopback Hub: `hfassets.distillation` beside the plain `datasets` loop.

    python benchmarks/bench_distill.py [--source ultrachat | open_orca] [--rows 200000] [--rounds 3]

Rows as ultrachat (conversations of 5 kB) or open_orca (questions of 1.5 kB) has them, in Parquet, on a sample Hub that
is a process of its own. In each round, each in a new process: ours (all filters, exact dedup, hashed, accounted,
checkpointed), and the way of the older scripts (load_dataset(streaming=True), a function to text, MD5 in a set,
json.dumps). The same rows come out of both. Aim: at least 5 times, memory flat from a tenth of the rows to all.
"""

from __future__ import annotations

import argparse
import hashlib
import io
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
import pyarrow as pa
import pyarrow.parquet as pq

from hfassets.demo.hub_corpus import passages

REPO = "team/source"
COLUMNS = {"ultrachat": "messages prompt_id", "open_orca": "id system_prompt question response"}

SERVE = """
import sys, threading
from pathlib import Path
from hfassets.demo.hub_server import SampleHub
root = Path(sys.argv[1])
files = {f"data/{path.name}": path for path in sorted((root / "sources").iterdir())}
with SampleHub(root / "hub", content=False) as hub:
    hub.add_repo("team/source", files)
    print(hub.url, flush=True)
    threading.Event().wait()
"""

OURS = """
import re, sys, time
from pathlib import Path
import datasets  # which resolves configs: before the clock starts, as for the others
import pyarrow.parquet
from hfassets.distillation.candidates import Filters
from hfassets.distillation.make import make_source_file
from hfassets.distillation.request import SourceRequest
from hfassets.hub.layout import RepoCache
from hfassets.hub.options import hub_options
from hfassets.hub.session import HubClient
from hfassets.storage.state import StateDir
folder, rows, name, columns = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], tuple(sys.argv[4].split())
began = time.perf_counter()
with HubClient(hub_options()) as client:
    made = make_source_file(client, SourceRequest(
        mix="m", source=name, category="instruction_chat", repo=RepoCache(folder / "hub", "team/source"),
        commit=client.resolve_commit("team/source"), quota=rows, output=folder / "out",
        state=StateDir(folder / "state"), mapper=name, columns=columns,
        filters=Filters(min_length=50, max_length=500_000, min_words=10, newlines=5), processes=2,
    ))
seconds = time.perf_counter() - began
# Not of getrusage: what that says includes the process that started this one.
memory = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(seconds, made.rows, made.size, memory, made.path)
"""

THEIRS = """
import hashlib, json, os, re, sys, time
from pathlib import Path
import datasets
folder, rows, name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
folder.mkdir(parents=True)
def ultrachat(row):
    turns = [(turn["role"], turn["content"]) for turn in row["messages"]]
    return turns, {"type": "conversation", "prompt_id": row["prompt_id"]}
def open_orca(row):
    system = [("system", row["system_prompt"])] if row["system_prompt"] else []
    turns = [*system, ("user", row["question"]), ("assistant", row["response"])]
    return turns, {"type": "instruction", "orca_id": row["id"]}
mapped = {"ultrachat": ultrachat, "open_orca": open_orca}[name]
began = time.perf_counter()
written = size = 0
seen = set()
path = folder / "out.jsonl"
with path.open("w") as out:
    for row in datasets.load_dataset("team/source", split="train", streaming=True):
        turns, metadata = mapped(row)
        text = "\\n".join(f"{role}: {content}" for role, content in turns)
        text = re.sub("\\n{6,}", "\\n" * 5, text)
        if len(text) < 50 or len(text) > 500_000 or len(text.split()) < 10:
            continue
        digest = hashlib.md5(text.encode()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        size += out.write(json.dumps({
            "text": text, "id": f"{name}_{written:08d}", "source": name, "category": "instruction_chat",
            "metadata": metadata,
        }) + "\\n")
        written += 1
        if written == rows:
            break
print(time.perf_counter() - began, written, size, 0, path, flush=True)
# The streaming reader's threads may abort an interpreter that ends.
os._exit(0)
"""


def write_sources(folder: Path, rows: int, source: str) -> None:
    """Parquet files of 20,000 rows; some rows are copies."""
    folder.mkdir(parents=True)
    words = " ".join(text for _, text in passages()).split()
    choose = random.Random(0)

    def text(least: int, most: int) -> str:
        start = choose.randrange(len(words) - 400)
        return " ".join(words[start : start + choose.randint(least, most)])

    def row(number: int) -> dict[str, object]:
        named = hashlib.sha256(str(number).encode()).hexdigest()
        if source == "open_orca":
            system = "You are an AI assistant. You will be given a task." if number % 3 else ""
            return {"id": named[:12], "system_prompt": system, "question": text(20, 200), "response": text(20, 200)}
        turns = [
            {"content": text(20, 250), "role": "assistant" if turn % 2 else "user"}
            for turn in range(2 * choose.randint(1, 4))
        ]
        return {"prompt": turns[0]["content"], "prompt_id": named, "messages": turns}

    for number in range(0, rows, 20_000):
        table: list[dict[str, object]] = []
        for one in range(number, min(rows, number + 20_000)):
            table.append(table[-1] if one % 50 == 49 else row(one))
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(table), sink, row_group_size=1000)
        (folder / f"train-{number // 20_000:05}.parquet").write_bytes(sink.getvalue())


def run(code: str, *words: object, **variables: str) -> tuple[float, int, int, int, Path]:
    """Seconds, rows, bytes, peak resident bytes and output of one run in a new process."""
    command = [sys.executable, "-c", code, *(str(word) for word in words)]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    seconds, rows, size, memory, path = done.stdout.split()
    return float(seconds), int(rows), int(size), int(memory), Path(path)


def texts(path: Path) -> str:
    """SHA-256 over the texts of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as lines:
        for line in lines:
            digest.update(orjson.loads(line)["text"].encode())
    return digest.hexdigest()


def main() -> int:
    """Run all, print the table; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", choices=sorted(COLUMNS), default="ultrachat")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-distill-")))
        write_sources(root / "sources", options.rows, options.source)
        server = subprocess.Popen([sys.executable, "-c", SERVE, str(root)], stdout=subprocess.PIPE, text=True)
        stack.callback(server.wait)
        stack.callback(server.kill)
        if server.stdout is None:
            return 1
        variables = {"HF_ENDPOINT": server.stdout.readline().strip(), "HF_HUB_DISABLE_TELEMETRY": "1"}
        ratios, equal = [], True
        quota, words = options.rows * 9 // 10, (options.source, COLUMNS[options.source])
        for number in range(options.rounds):
            work = root / f"round-{number}"
            ours = run(OURS, work / "ours", quota, *words, **variables)
            theirs = run(
                THEIRS, work / "theirs", quota, options.source, **variables, HF_HOME=str(work / "hf"),
                HF_DATASETS_DISABLE_PROGRESS_BARS="1",
            )  # fmt: skip
            equal = equal and texts(ours[4]) == texts(theirs[4])
            # Memory that a virtual machine never used costs it more than the work does: let the next one have this.
            shutil.rmtree(work)
            ratios.append(theirs[0] / ours[0])
            told = [f"{one[1] / one[0]:,.0f} rows/s, {one[2] / one[0] / 1e6:.0f} MB/s" for one in (ours, theirs)]
            print(f"round {number + 1}: ours {told[0]}; datasets, json and MD5 {told[1]}")
        few = run(OURS, root / "few", quota // 10, *words, **variables)
        many = run(OURS, root / "many", quota, *words, **variables)
    faster = statistics.median(ratios)
    print(f"the same texts: {'yes' if equal else 'NO'}; {faster:.1f} times (aim: 5)")
    print(f"peak memory: {few[3] / 1e6:.0f} MB for {few[1]:,} rows, {many[3] / 1e6:.0f} MB for {many[1]:,}")
    return 0 if equal and faster >= 5 and many[3] - few[3] < 100e6 else 1


if __name__ == "__main__":
    sys.exit(main())
