"""The unmodified huggingface_hub, datasets and `hf` against the sample Hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_limits import Quota

pytestmark = pytest.mark.hub

HF = Path(sys.executable).with_name("hf")


def test_snapshot_download_takes_a_repo_that_was_just_added(hub_env, sample_hub):
    """`snapshot_download` fetches small, LFS, redirected and empty files, byte for byte, under the right blob names."""
    files = {"README.md": b"# x\n", "data/a b#?.txt": b"hello\n", "data/big.bin": bytes(range(256)) * 9000, "e": b""}
    commit = sample_hub.add_repo("some/repo", files)
    out = hub_env.python(
        """
        import huggingface_hub as h
        print(h.snapshot_download("some/repo", repo_type="dataset"))
        report = h.scan_cache_dir()
        assert not report.warnings, report.warnings
        print(h.HfApi().repo_info("some/repo", repo_type="dataset").sha)
        """
    ).stdout.split()
    assert out[1] == commit
    for path, content in files.items():
        assert (Path(out[0]) / path).read_bytes() == content
        assert len((Path(out[0]) / path).resolve().name) == (64 if path.endswith(".bin") else 40)
    assert [r.file for r in sample_hub.requests if r.path.startswith("/cdn/")] == ["some/repo/data/big.bin"]


def test_every_loadable_repo_loads(hub_env):
    """`load_dataset` reads each sample repo: Parquet, gzip and zstd JSONL, images, inferred configs, many files."""
    code = """
        import json, datasets
        shown = {}
        for repo, config in json.loads(__import__("sys").argv[1]):
            loaded = datasets.load_dataset(repo, config)
            columns = {name: str(kind) for name, kind in loaded["train"].features.items()}
            rows = {split: part.num_rows for split, part in loaded.items()}
            shown[f"{repo}:{config}"] = [list(loaded), rows, columns]
        print(json.dumps(shown))
    """
    wanted = [
        ("ibm-research/duorc", "SelfRC"), ("ibm-research/duorc", "ParaphraseRC"), ("allenai/c4", "en"),
        ("cerebras/SlimPajama-627B", None), ("google/docci", None), ("AI-Lab-Makerere/beans", None),
        ("roneneldan/TinyStories", None), ("bigcode/the-stack-smol-xs", None), ("openai/gsm8k", "socratic"),
        ("HuggingFaceFW/fineweb-edu", "sample-10BT"), ("allenai/ai2_arc", "ARC-Easy"),
    ]  # fmt: skip
    done = hub_env.python(code, json.dumps(wanted))
    shown = json.loads(done.stdout.splitlines()[-1])
    assert len(shown) == len(wanted)
    splits, rows, columns = shown["ibm-research/duorc:SelfRC"]
    assert splits == ["train", "validation", "test"]
    assert all(rows.values())
    assert list(columns) == ["plot_id", "plot", "title", "question_id", "question", "answers", "no_answer"]
    assert columns["answers"] == "List(Value('string'))"
    assert "Image" in shown["google/docci:None"][2]["image"]
    assert "Image" in shown["AI-Lab-Makerere/beans:None"][2]["image"]
    assert list(shown["allenai/c4:en"][2]) == ["text", "timestamp", "url"]


def test_configs_streams_revisions_and_refusals(hub_env, sample_hub):
    """Configs, streaming, tags, converted Parquet, script, gated, broken and missing repos are as on the real Hub."""
    done = hub_env.python(
        """
        import datasets, itertools, json, os
        from huggingface_hub import HfApi

        def refused(action):
            try:
                action()
            except Exception as error:
                return f"{type(error).__name__}: {error}"
            raise SystemExit("not refused")

        out = {}
        out["names"] = datasets.get_dataset_config_names("ibm-research/duorc")
        out["old"] = datasets.get_dataset_config_names("openai/gsm8k", revision="v1.0")
        out["new"] = datasets.get_dataset_config_names("openai/gsm8k")
        out["rows"] = datasets.load_dataset("openai/gsm8k", "main", revision="v1.0", split="train").num_rows
        stream = datasets.load_dataset("allenai/c4", "en", split="train", streaming=True)
        out["stream"] = [row["url"] for row in itertools.islice(stream, 3)]
        zst = datasets.load_dataset("cerebras/SlimPajama-627B", split="test", streaming=True)
        out["zst"] = len(next(iter(zst))["text"])
        out["script"] = refused(lambda: datasets.load_dataset("codeparrot/apps"))
        converted = datasets.load_dataset("codeparrot/apps", revision="refs/convert/parquet", split="train")
        out["converted"] = converted.num_rows
        out["builder"] = list(datasets.load_dataset_builder("ibm-research/duorc", "SelfRC").info.splits)
        out["gated"] = refused(lambda: datasets.load_dataset("bigcode/starcoderdata"))
        out["broken"] = refused(lambda: datasets.load_dataset("allenai/ai2_arc", "ARC-Challenge"))
        out["missing"] = refused(lambda: datasets.load_dataset("nobody/nothing"))
        reader, stranger = HfApi(token=os.environ["READER"]), HfApi(token=os.environ["STRANGER"])
        gated = dict(repo_id="bigcode/starcoderdata", filename="README.md", repo_type="dataset")
        duorc = dict(repo_id="ibm-research/duorc", repo_type="dataset")
        out["403"] = refused(lambda: stranger.hf_hub_download(**gated))
        reader.hf_hub_download(**gated)
        out["401"] = refused(lambda: HfApi(token="hf_wrong").whoami())
        out["404"] = refused(lambda: reader.repo_info("nobody/nothing", repo_type="dataset"))
        out["revision"] = refused(lambda: reader.repo_info(**duorc, revision="no-such"))
        out["entry"] = refused(lambda: reader.hf_hub_download(**duorc, filename="no-such.txt"))
        refs = reader.list_repo_refs("codeparrot/apps", repo_type="dataset")
        out["refs"] = [[ref.ref for ref in kind] for kind in (refs.branches, refs.converts, refs.tags)]
        out["tags"] = [ref.name for ref in reader.list_repo_refs("openai/gsm8k", repo_type="dataset").tags]
        paths = reader.get_paths_info("openai/gsm8k", ["README.md", "main", "nope"], repo_type="dataset", expand=True)
        out["paths"] = [[type(item).__name__, item.path, item.last_commit.title] for item in paths]
        top = reader.list_repo_tree("openai/gsm8k", repo_type="dataset")
        out["top"] = [item.path for item in top]
        print(json.dumps(out))
        """,
        READER=sample_hub.token,
        STRANGER=sample_hub.stranger_token,
    )
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["names"] == ["ParaphraseRC", "SelfRC"]
    assert (out["old"], out["new"], out["rows"]) == (["main"], ["main", "socratic"], 510)
    assert all(url.startswith("https://docs.python.org/") for url in out["stream"])
    assert out["zst"] > 100
    assert out["converted"] == 200
    assert out["builder"] == ["train", "validation", "test"]
    assert "scripts are no longer supported" in out["script"]
    assert "gated dataset" in out["gated"]
    assert "At least one valid data file" in out["broken"]
    assert "doesn't exist on the Hub" in out["missing"]
    assert out["403"].startswith("GatedRepoError: 403")
    assert "not in the authorized list" in out["403"]
    assert out["401"] == "HTTPError: Invalid user token."
    assert out["404"].startswith("RepositoryNotFoundError: 404")
    assert out["revision"].startswith("RevisionNotFoundError")
    assert "EntryNotFoundError" in out["entry"]
    assert out["refs"] == [["refs/heads/main"], ["refs/convert/parquet"], []]
    assert out["tags"] == ["v1.0"]
    assert out["paths"] == [
        ["RepoFile", "README.md", "Add the socratic config"],
        ["RepoFolder", "main", "Add the socratic config"],
    ]
    assert out["top"] == ["README.md", "main", "socratic"]
    assert sample_hub.token not in repr(sample_hub.requests)


def test_hf_command_line(hub_env, sample_hub, tmp_path):
    """`hf auth whoami` and `hf download` work, a gated repo opens with the token only."""
    who = hub_env.run(HF, "auth", "whoami", HF_TOKEN=sample_hub.token).stdout
    assert "sample-reader" in who
    words = ("download", "bigcode/starcoderdata", "--repo-type", "dataset", "--local-dir", tmp_path / "local")
    refused = hub_env.run(HF, *words, check=False)
    assert refused.returncode != 0
    assert "starcoderdata" in refused.stderr
    hub_env.run(HF, *words, HF_TOKEN=sample_hub.token)
    assert len(list((tmp_path / "local" / "python").glob("*.parquet"))) == 2


def test_tokenizer_repo_encodes_and_decodes(hub_env):
    """The model repo holds a byte-level BPE that gives any text back."""
    done = hub_env.python(
        """
        from pathlib import Path
        from huggingface_hub import snapshot_download
        from tokenizers import Tokenizer
        folder = Path(snapshot_download("EleutherAI/pythia-70m"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        text = "def f(x):\\n    return 'äöü 漢字 \\U0001f600'\\n"
        encoded = tokenizer.encode(text)
        assert tokenizer.decode(encoded.ids) == text, tokenizer.decode(encoded.ids)
        names = sorted(path.name for path in folder.iterdir())
        print(tokenizer.get_vocab_size(), tokenizer.token_to_id("<|endoftext|>"), *names)
        """
    )
    assert done.stdout.split() == [
        *("4096", "0", "README.md", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json"),
        "tokenizer_config.json",
    ]


def test_listing_is_paginated(hub_env, sample_hub):
    """A listing comes in pages of the size set, with the next one in the Link header, and the client sees all of it."""
    files = {f"d{number % 7}/f{number}.txt": f"{number}" for number in range(100)}
    sample_hub.add_repo("some/pages", files)
    sample_hub.page_size = 10
    done = hub_env.python(
        """
        from huggingface_hub import HfApi
        entries = list(HfApi().list_repo_tree("some/pages", repo_type="dataset", recursive=True, expand=True))
        print(len(entries), len({entry.path for entry in entries}), entries[1].last_commit.title)
        """
    )
    assert done.stdout.split(maxsplit=2) == ["107", "107", "Commit 1\n"]
    assert len(sample_hub.requests) == 11


def test_cut_download_goes_on_with_a_range(hub_env, sample_hub):
    """A body cut short really ends early; the next process comes back for the rest only."""
    content = bytes(range(256)) * 80_000
    sample_hub.add_repo("some/cut", {"a.bin": content})
    sample_hub.set_faults(Fault("cut", path="some/cut/a.bin", after=12_000_000, times=1))
    code = """
        from huggingface_hub import hf_hub_download
        print(hf_hub_download("some/cut", "a.bin", repo_type="dataset"))
    """
    assert "IncompleteRead(12000000 bytes read" in hub_env.python(code, check=False).stderr
    assert Path(hub_env.python(code).stdout.strip()).read_bytes() == content
    sent = [(request.status, request.range, request.sent) for request in sample_hub.requests if request.sent > 1000]
    assert sent[0] == (200, "", 12_000_000)
    assert [status for status, _, _ in sent] == [200, 206]
    assert sum(size for _, _, size in sent) < len(content) + 3_000_000
    assert sample_hub.fault_hits == [1]


def test_unmodified_client_is_stopped_by_a_quota(hub_env, sample_hub):
    """Over a quota the Hub answers 429 with the time to wait, and goes on after the window."""
    sample_hub.set_quotas(api=Quota(2, 1.0))
    done = hub_env.python(
        """
        import time
        from huggingface_hub import HfApi
        from huggingface_hub.utils import HfHubHTTPError
        api = HfApi()
        for _ in range(2):
            api.repo_info("openai/gsm8k", repo_type="dataset")
        try:
            api.repo_info("openai/gsm8k", repo_type="dataset")
        except HfHubHTTPError as error:
            print(error.response.status_code, error.response.headers["RateLimit"])
        """
    )
    assert done.stdout.strip() in ('429 "api";r=0;t=1', '429 "api";r=0;t=0')
