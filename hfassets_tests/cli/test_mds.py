"""`hfassets mds` end to end: real processes, the older names and flags, the unmodified library on what they write."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hfassets.demo.hub_model import write_tokenizer
from hfassets.mds.reader import MdsReader
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.mds.pipeline import corpus, write_jsonl
from hfassets_tests.s3 import BUCKET, S3Server, s3, s3_server

__all__ = ["s3", "s3_server"]

pytestmark = pytest.mark.hub

Run = Callable[..., subprocess.CompletedProcess[str]]
RULE = ("-c", "128", "-m", "100", "-a", "62", "--backfill", "--backfill_no_duplicates", "--add_eos_token")


@pytest.fixture
def run(hub_env: ClientEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `hfassets mds ...` in a folder of its own and hold it to the rules that every command keeps."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*words: str | Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = hub_env.run(sys.executable, "-m", "hfassets.cli.main", "mds", *words, check=False, **variables)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return call


def test_the_stages_by_their_older_names(run: Run) -> None:
    """From JSON lines to a training set, the tokenizer from the Hub; the second time all is ready."""
    write_jsonl(Path("source"), corpus(300))
    run("jsonl_to_mds", "-i", "source", "-o", "text", "--shard", "--shard-size", "40", "--validation-fraction", "0.1")
    assert sorted(path.name for path in Path("text").glob("shard_*"))[:2] == ["shard_00000", "shard_00001"]
    run("tokenize_mds", "-d", "text", "-t", "EleutherAI/pythia-70m")
    told = run("split_dataset_into_chunks", "-s", "text-tokenized", "-o", "chunks", *RULE, "--num_processes", "2")
    assert "content written" in told.stdout
    run("sample", "-i", "chunks", "-o", "sampled", "-t", "20000")
    run("mix", "-o", "mix", "-m", "chunks=0.6", "-m", "sampled=0.4", "--tokens", "30000")
    again = json.loads(
        run("mix", "-o", "mix", "-m", "chunks=0.6", "-m", "sampled=0.4", "--tokens", "30000", "--json").stdout
    )
    assert again["reused"] and abs(again["details"]["members"][0]["share_got"] - 0.6) < 0.001
    assert json.loads(run("verify", "mix", "--json").stdout)["faults"] == []
    count = run("count_instances", "mix/train/index.json").stdout
    assert int(count.replace(",", "")) == len(MdsReader(Path("mix/train")))
    assert "samples in" in run("create_final_dataset_index", "mix").stdout
    assert "nothing to move" in run("move_chunks", "text-tokenized", "128").stdout
    shown = run("show", "chunks", "-t", "EleutherAI/pythia-70m", "-n", "2", "--plot", "lengths.png").stdout
    assert "doc-1" in shown and Path("lengths.png").read_bytes().startswith(b"\x89PNG")


def test_one_go_and_back_to_text(run: Run, tmp_path: Path) -> None:
    """`make` writes the rows of the stages; decode and to-jsonl give the texts back; decompress makes raw shards."""
    write_tokenizer_to(Path("tokenizer"))
    write_jsonl(Path("source"), corpus(120))
    run("make", "-i", "source", "-o", "once", "-t", "tokenizer", *RULE, "--part-size", "100kB")
    run("jsonl_to_mds", "-i", "source", "-o", "text", "--part-size", "100kB", "--compression", "zstd")
    run("tokenize_mds", "-d", "text", "-t", "tokenizer", "-o", "tokens")
    run("split_dataset_into_chunks", "-s", "tokens", "-o", "chunks", *RULE)
    shards = {path.relative_to("chunks"): path.read_bytes() for path in sorted(Path("chunks").rglob("*.mds"))}
    assert shards == {path.relative_to("once"): path.read_bytes() for path in sorted(Path("once").rglob("*.mds"))}
    run("decode", "tokens", "-t", "tokenizer", "-o", "decoded.jsonl")
    run("to-jsonl", "text", "-o", "text.jsonl")
    decoded = {one["id"]: one["text"] for one in map(json.loads, Path("decoded.jsonl").read_text().splitlines())}
    texts = {one["id"]: one["text"] for one in map(json.loads, Path("text.jsonl").read_text().splitlines())}
    assert decoded == {name: text for name, text in texts.items() if text}
    run("decompress", "--data_path", "text")
    assert len(list(Path("text").rglob("*.mds"))) == len(list(Path("text").rglob("*.mds.zstd")))
    assert (
        "manifest names the compressed shards"
        in run("decompress", "--data_path", "text", "--delete_zip", code=1).stderr
    )


def write_tokenizer_to(folder: Path) -> None:
    """The sample Hub's tokenizer."""
    folder.mkdir()
    write_tokenizer(folder)


def test_a_dataset_of_the_hub(run: Run) -> None:
    """Its rows by its own columns, fetched by the workers or found in the cache, in folders named as they were."""
    done = run("hf_to_mds", "-r", "openai/gsm8k", "-c", "main", "--text-column", "question", "-w", "2")
    folder = Path("data/text/openai---gsm8k---train---main")
    assert (folder / "split_0/train/index.json").exists() and str(folder) in done.stdout
    rows = list(MdsReader(folder))
    assert rows[0]["text"] and "#0" in rows[0]["id"]
    by_mapper = run("hf_to_mds", "-r", "openai/gsm8k", "-c", "main", "--mapper", "gsm8k", "-o", "mapped", "--json")
    assert json.loads(by_mapper.stdout)["account"]["documents_train"] > 0
    assert next(iter(MdsReader(Path("mapped"))))["text"].startswith("user: ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("jsonl_to_mds", "-i", "none", "-o", "x"), 1, "none: not there"),
        (("tokenize_mds", "-d", "source", "-t", "tokenizer"), 1, "no MDS in it"),
        (("tokenize_mds", "-d", "source", "-t", "nobody/nothing"), 1, "nobody/nothing"),
        (
            ("split_dataset_into_chunks", "-s", "source"),
            1,
            "not a finished tokenized MDS of hfassets; name its tokenizer",
        ),
        (("jsonl_to_mds", "-i", "source", "-o", "x", "--text-column", "content"), 1, "no column 'content'"),
        (("jsonl_to_mds", "-i", "source", "-o", "x", "--compression", "zstd:99"), 1, "zstd:1 to zstd:22"),
        (("hf_to_mds", "-r", "openai/gsm8k", "-s", "dev", "-c", "main"), 1, "no split 'dev'; it has train"),
        (("dolma_to_mds", "-s", "wikipedia"), 2, "no section 'wikipedia' in Dolma; there are falcon, c4"),
        (("mix", "-o", "x", "-m", "source"), 2, "is no share"),
        (("sample", "-i", "source", "-o", "x"), 1, "not a finished MDS of hfassets; chunk it first"),
        (("verify", "source"), 1, "no finished MDS"),
        (("show", "source"), 1, "no MDS with samples in it"),
    ],
)
def test_mistakes_are_one_line(run: Run, words: tuple[str, ...], code: int, message: str) -> None:
    """What is wrong, where, and what would be right."""
    write_tokenizer_to(Path("tokenizer"))
    write_jsonl(Path("source"), corpus(5), files=1)
    done = run(*words, code=code)
    assert message in done.stderr
    assert len([line for line in done.stderr.splitlines() if "error" in line.lower()]) == 1


def test_files_at_urls(run: Run, hub_env: ClientEnvironment) -> None:
    """A list of URLs: one part each, named as the older script names them; a damaged file is a failure by name."""
    import gzip

    lines = b"".join(json.dumps({"id": f"u{number}", "text": f"text {number}"}).encode() + b"\n" for number in range(9))
    good = gzip.compress(lines)
    hub_env.hub.add_repo("team/files", {"wiki-0001.json.gz": good, "wiki-0002.json.gz": good[:-9]})
    commit = hub_env.hub.commit("team/files")
    urls = [f"{hub_env.hub.url}/datasets/team/files/resolve/{commit}/wiki-000{one}.json.gz" for one in (1, 2)]
    Path("urls.txt").write_text(f"# two\n{urls[0]}\n")
    run("dolma_to_mds", "-s", "wiki-", "--urls", "urls.txt", "-o", "wiki")
    assert [one["id"] for one in MdsReader(Path("wiki/wiki_0001/train"))] == [f"u{number}" for number in range(9)]
    Path("urls.txt").write_text("\n".join(urls))
    done = run("dolma_to_mds", "-s", "wiki-", "--urls", "urls.txt", "-o", "both", "--max-retries", "0", code=1)
    assert "wiki_0002" in done.stderr and "damaged" in done.stderr
    assert Path("both/wiki_0001/manifest.json").exists() and not Path("both/manifest.json").exists()
    Path("urls.txt").write_text("ftp://x/y.json.gz")
    assert (
        "line 1: 'ftp://x/y.json.gz' is no http(s) URL"
        in run("dolma_to_mds", "-s", "x", "--urls", "urls.txt", code=1).stderr
    )


def test_parts_are_uploaded_as_they_are_made(run: Run, s3: S3Server) -> None:
    """Nothing stays here, a second run makes nothing, and a folder is sent once; faults are one line each."""
    write_jsonl(Path("source"), corpus(100))
    write_tokenizer_to(Path("tokenizer"))
    words = ("jsonl_to_mds", "-i", "source", "-o", "text", "--part-size", "60kB", "--cleanup-local")
    assert "say by --upload-to" in run(*words, code=2, **s3.variables).stderr
    made = json.loads(run(*words, "-u", f"s3://{BUCKET}/text", "--json", **s3.variables).stdout)
    assert not list(Path("text").rglob("*.mds*")) and any(key.endswith(".mds.zstd") for key in s3.objects())
    again = json.loads(run(*words, "-u", f"s3://{BUCKET}/text", "--json", **s3.variables).stdout)
    assert again["reused"] and again["fingerprint"] == made["fingerprint"]
    assert "were brought to s3://" in run("tokenize_mds", "-d", "text", "-t", "tokenizer", code=1).stderr
    told = run(*words, "-u", "s3://nobody-made-this/x", code=1, **s3.variables).stderr
    assert "there is no such bucket" in told.strip().splitlines()[-1]
    write_jsonl(Path("more"), corpus(20))
    run("jsonl_to_mds", "-i", "more", "-o", "small")
    assert "sent now" in run("upload", "small", f"s3://{BUCKET}/small", **s3.variables).stdout
    assert " 0 of them sent now" in run("upload", "small", f"s3://{BUCKET}/small", **s3.variables).stdout
    assert "not a folder" in run("upload", "nowhere", f"s3://{BUCKET}/small", code=1, **s3.variables).stderr


def test_all_recipes_of_a_catalog_in_one_go(run: Run) -> None:
    """Made as far as they can be; what fails is named in the end, exit code 1; a wrong name is a wrong word."""
    write_tokenizer_to(Path("tokenizer"))
    write_jsonl(Path("source"), corpus(40))
    entry = "  - {{name: {0}, source: {{files: {0}}}, tokenizer: {{file: tokenizer}}, chunks: {{size: 64}}}}\n"
    Path("catalog.yaml").write_text("mds:\n" + entry.format("source") + entry.format("nowhere"))
    done = run("recipes", "--json", "made.json", code=1)
    made = json.loads(Path("made.json").read_text())
    assert [one["stage"] for one in made["made"]] == ["text", "tokens", "chunks", "sample"]
    assert "1 of 2 recipes failed: nowhere: " in done.stderr
    assert "was ready" in run("recipes", "source").stdout
    assert "did you mean 'source'" in run("recipes", "sourc", code=2).stderr
