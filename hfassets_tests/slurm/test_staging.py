"""Staging on a cluster of two nodes: prepared once, brought to each node, and read there and nowhere else."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench_mds import write_tokenizer_to
from hfassets_tests.cluster import NODES, Cluster, wait_until

pytestmark = [pytest.mark.drill, pytest.mark.slurm, pytest.mark.timeout(600)]

REPO = Path(__file__).parents[2]
HFASSETS = Path(sys.executable).with_name("hfassets")
TRACED = """\
import os, sys
trace = os.environ["TRACES"] + os.environ["SLURM_PROCID"]
wanted = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", trace]
os.execvp("strace", [*wanted, sys.executable, os.environ["TRAINED"], *sys.argv[1:]])
"""
PIPELINE = """\
import os, sys
from datasets import load_dataset

def words(batch):
    open(os.environ["COMPUTED"], "a").write("words\\n")
    return {"words": [text.split() for text in batch["text"]]}

def counted(batch):
    open(os.environ["COMPUTED"], "a").write("counted\\n")
    return {"count": [len(words) for words in batch["words"]]}

data = load_dataset("org/rows", split="train")
data = data.map(words, batched=True, num_proc=int(os.environ["WORKERS"]))
data = data.map(counted, batched=True, remove_columns=["text", "words"], num_proc=int(os.environ["WORKERS"]))
print(sum(data["count"]), flush=True)
for file in data.cache_files:
    print(file["filename"], file=sys.stderr)
"""


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog with one staging recipe, of a folder of files on the shared file system."""
    shared = tmp_path / "shared"
    mirror = shared / "network" / "words"
    mirror.mkdir(parents=True)
    draw = random.Random(3)
    lines = (
        " ".join(draw.choices(["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran"], k=60)) for _ in range(4000)
    )
    (mirror / "train.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    write_tokenizer_to(shared / "tokenizer")
    path = shared / "catalog.yaml"
    path.write_text(
        "storage: {output_root: data, hub_cache: hub, datasets_cache: datasets}\n"
        "staging:\n"
        "  - name: words\n"
        "    source: {mirror: network/words}\n"
        "    tokenizer: {file: tokenizer}\n"
        "    block_size: 64\n"
        "    missing: {validation: 0.1}\n"
        "    shard_size: 300kB\n"
    )
    monkeypatch.setenv("HFASSETS_CATALOG", str(path))
    monkeypatch.setenv("HFASSETS", str(HFASSETS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return path


def submit(cluster: Cluster, script: Path, log: Path, *arguments: str, nodes: int = 2) -> str:
    """A batch script over some nodes; the job's id."""
    options = ("--parsable", f"--output={log}", f"--nodes={nodes}", "--ntasks-per-node=1", "--mem=3000", "--time=10")
    return cluster.run("sbatch", *options, str(script), *arguments).strip()


def over_nodes(cluster: Cluster, tmp_path: Path, body: str) -> tuple[str, str, str]:
    """Run lines of bash as a job over both nodes; its id, how it ended, and what it wrote."""
    script, log = tmp_path / "job.sh", tmp_path / "job.log"
    script.write_text(f"#!/bin/bash\nset -euo pipefail\n{body}\n")
    job = submit(cluster, script, log)
    state = cluster.wait_state(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", timeout=180)
    return job, state, log.read_text()


def content(root: Path) -> dict[bytes, bytes]:
    """All files below a folder but for what staging writes, by path."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "staged.json")
    return {os.fsencode(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_job_prepares_stages_and_trains_on_both_nodes(
    cluster: Cluster, tmp_path: Path, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prepared once, skipped the next time; each node trains on its own copy and opens nothing that is shared."""
    shared, traces = catalog.parent, tmp_path / "trace-"
    (tmp_path / "traced.py").write_text(TRACED)
    monkeypatch.setenv("TRACES", str(traces))
    monkeypatch.setenv("TRAINED", str(REPO / "slurm" / "example" / "train.py"))
    monkeypatch.setenv("TRAIN", str(tmp_path / "traced.py"))
    script, log = REPO / "slurm" / "train_staged.sbatch", tmp_path / "job.log"
    monkeypatch.setenv("RECIPE", "words")
    for again in (False, True):
        log.unlink(missing_ok=True)
        job = submit(cluster, script, log, "--steps", "8", "--length", "64", "--width", "64")
        state = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=240)
        text = log.read_text()
        assert state == "COMPLETED", text
        assert ("made before" in text) is again
        assert all(f"{step}: " in text for step in ("prepare", "stage", "train"))
        told = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        assert sorted((one["rank"], one["node"]) for one in told) == [(0, "n1"), (1, "n2")]
        for one in told:
            assert one["steps"] == 8
            assert one["last_loss"] < one["first_loss"]
            assert Path(one["data"]) == cluster.local(one["node"], job) / "data"
        for node, number in zip(NODES, "01", strict=True):
            local = cluster.local(node, job) / "data"
            assert content(local) == content(shared / "data" / "staging" / "words")
            opened = Path(f"{traces}{number}").read_text()
            assert str(local / "train") in opened
            assert str(shared) not in opened


def test_a_cache_is_found_again_on_each_node_and_nothing_is_computed(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other numbers of workers than were used to prepare; the shared cache stays as it was."""
    hub, shared = tmp_path / "hub", tmp_path / "shared cache"
    rows, script = hub / "org" / "rows", tmp_path / "pipeline.py"
    rows.mkdir(parents=True)
    (rows / "train.jsonl").write_text("".join(json.dumps({"text": f"row {n} of words"}) + "\n" for n in range(5000)))
    script.write_text(PIPELINE)
    computed = tmp_path / "computed"
    monkeypatch.setenv("COMPUTED", str(computed))
    monkeypatch.setenv("HFASSETS", str(HFASSETS))
    environment = {**os.environ, "HF_DATASETS_CACHE": str(shared), "WORKERS": "2", "HF_HUB_OFFLINE": "1"}
    prepared = subprocess.run(
        [sys.executable, str(script)], env=environment, cwd=hub, capture_output=True, text=True, check=True
    )
    assert computed.read_text().split() == ["words"] * computed.read_text().count("words") + ["counted"] * (
        computed.read_text().count("counted")
    )
    read = [line for line in prepared.stderr.splitlines() if line.startswith(str(shared))]
    assert len(read) == 2
    (tmp_path / "read.txt").write_text("\n".join(read) + "\n")
    before = {path: path.lstat().st_mtime_ns for path in shared.rglob("*")}
    computed.unlink()
    job, state, text = over_nodes(
        cluster,
        tmp_path,
        f"""export WORKERS=1
srun "$HFASSETS" stage --mode cache --from '{shared}' --to '$SLURM_TMPDIR/data' --read '{tmp_path}/read.txt'
cd '{hub}'
srun bash -euc 'told=$("$HFASSETS" stage --mode cache --print-env --to "$SLURM_TMPDIR/data"); eval "export $told"
    exec {sys.executable} {script}'""",
    )
    assert state == "COMPLETED", text
    assert text.count(prepared.stdout.strip()) == 2
    assert not computed.exists()
    assert {path: path.lstat().st_mtime_ns for path in shared.rglob("*")} == before
    for node in NODES:
        local = cluster.local(node, job) / "data"
        for path in read:
            copied = local / Path(path).relative_to(shared)
            assert copied.is_file()
            assert not copied.is_symlink()
            assert str(copied) in text
        links = [path for path in local.rglob("*") if path.is_symlink()]
        assert links
        assert {path.suffix for path in links} == {".arrow"}


def test_five_thousand_files_with_hostile_names_reach_both_nodes(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spaces, quotes, line ends, bytes that are no text, names that look like options: all are there, and proven."""
    monkeypatch.setenv("HFASSETS", str(HFASSETS))
    source, draw = tmp_path / 'it\'s "the" $(source) \n folder', random.Random(5)
    marks = [
        b" ",
        b"'",
        b'"',
        b"\n",
        b"\t",
        b"*",
        b"?",
        b"[a]",
        b"$(touch x)",
        b"`x`",
        b"\\",
        b"\xff",
        b"-",
        b";",
        b"#",
        b"%s",
    ]
    for number in range(5000):
        name = b"".join(draw.choices(marks, k=4)) + b"%05d" % number
        folder = source / os.fsdecode(b"".join(draw.choices(marks, k=2)) + b"x" if number % 3 else b"-rf")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / os.fsdecode(name)).write_bytes(draw.randbytes(draw.randrange(200)))
    monkeypatch.setenv("SOURCE", str(source))
    job, state, text = over_nodes(
        cluster,
        tmp_path,
        """srun "$HFASSETS" stage --from "$SOURCE" --to '$SLURM_TMPDIR/da ta'
srun bash -euc '"$HFASSETS" stage --verify --to "$SLURM_TMPDIR/da ta"'""",
    )
    assert state == "COMPLETED", text
    for node in NODES:
        assert content(cluster.local(node, job) / "da ta") == content(source)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 4 MB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_too_small_is_told_in_one_line_and_stays_empty(
    cluster: Cluster, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job fails; what is missing is said; nothing lies on the node's disk."""
    monkeypatch.setenv("HFASSETS", str(HFASSETS))
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(bytes(6_000_000))
    _, state, text = over_nodes(
        cluster, tmp_path, f"srun --nodes=1 --ntasks=1 \"$HFASSETS\" stage --from '{source}' --to '{small_disk}/data'"
    )
    assert state == "FAILED"
    lines = [line for line in text.splitlines() if line.startswith("hfassets: error")]
    assert len(lines) == 1
    assert "6.0 MB are needed" in lines[0]
    assert "are missing" in lines[0]
    assert "Traceback" not in text
    assert list(small_disk.iterdir()) == []


def test_a_job_that_is_requeued_while_it_stages_completes(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had been copied stays; the rest is copied by the same job in its next life."""
    monkeypatch.setenv("HFASSETS", str(HFASSETS))
    source, block = tmp_path / "source", random.Random(1).randbytes(1 << 20)
    source.mkdir()
    for number in range(60):
        with (source / f"{number:03}").open("wb") as file:
            for part in range(32):
                file.write(bytes([number, part]) + block[2:])
    script, log = tmp_path / "job.sh", tmp_path / "job.log"
    script.write_text(
        "#!/bin/bash\n#SBATCH --requeue --open-mode=append\n"
        f"srun \"$HFASSETS\" stage --workers 1 --from '{source}' --to '{tmp_path}/node/data'\n"
    )
    (tmp_path / "node").mkdir()
    job = submit(cluster, script, log, nodes=1)
    journal = tmp_path / "node" / "data" / ".staged.hashes"
    wait_until("some files to be copied", lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 3)
    cluster.run("scontrol", "requeue", job)
    cluster.start_now(job)
    state = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=120)
    assert state == "COMPLETED", log.read_text() + cluster.run("scontrol", "show", "job", job)
    told = log.read_text().splitlines()[-1]
    copied = int(told.split(";")[-1].split(" files")[0])
    assert 0 < copied < 60
    assert content(tmp_path / "node" / "data") == content(source)
    shutil.rmtree(tmp_path / "node")
