"""Configs and their files, by the library's own rules."""

from __future__ import annotations

import io
import json
import socket
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from hfassets.errors import DataError
from hfassets.hub.configs import METADATA_FILES, UNKNOWN_MODULE, config_files, list_configs
from hfassets.hub.listing import Listing, RepoFile
from hfassets.hub.session import HubClient, hub_options

COMMIT = "c" * 40


def listing_of(paths: Iterable[str], repo_id: str = "team/some-data") -> Listing:
    return Listing(repo_id, COMMIT, tuple(RepoFile(path, 10, "a" * 40) for path in sorted(paths)))


def card(text: str) -> dict[str, bytes]:
    return {"README.md": f"---\n{text}\n---\n# Card\n".encode()}


ODD_REPOS: Mapping[str, Mapping[str, str | bytes]] = {
    "odd/inferred-dirs": {
        "train/a.csv": "x\n1\n",
        "test/b.csv": "x\n2\n",
        "README.md": "no header",
        "config.json": "{}",
    },
    "odd/sharded": {
        "data/train-00000-of-00001.jsonl": '{"a":1}\n',
        "data/extra-00000-of-00001.jsonl": '{"a":2}\n',
        "data/other.csv": "x\n1\n",
    },
    "odd/data-dirs": {
        "README.md": "---\nconfigs:\n- config_name: one\n  data_dir: one\n- config_name: two\n  data_dir: two\n"
        "  default: true\n---\n",
        "one/train.csv": "x\n1\n",
        "one/test.csv": "x\n1\n",
        "two/all.csv": "x\n1\n",
    },
    "odd/standalone-yaml": {
        "README.md": "---\nlicense: mit\n---\n",
        ".huggingface.yaml": "configs:\n- config_name: only\n  data_files: '*.jsonl'\n",
        "a.jsonl": '{"a":1}\n',
        "b.jsonl": '{"a":1}\n',
    },
    "odd/legacy-infos": {
        "dataset_infos.json": json.dumps({"odd--legacy": {"features": {"a": {"dtype": "int64", "_type": "Value"}}}}),
        "data.jsonl": '{"a":1}\n',
    },
    "odd/hidden-and-special": {
        "a b#c.txt": "hello\n",
        ".hidden/x.txt": "no\n",
        "__pycache__/y.txt": "no\n",
        "sub/.z.txt": "no\n",
        "sub/dummy_data.zip": "",
    },
    "odd/images": {
        "README.md": "---\nconfigs:\n- config_name: pictures\n  data_files: 'pics/**'\n---\n",
        "pics/metadata.jsonl": '{"file_name":"p.png","caption":"c"}\n',
        "pics/p.png": b"\x89PNG",
        "notes.txt": "n\n",
    },
    "odd/mixed": {
        "README.md": "---\nconfigs:\n"
        "- config_name: table\n  data_files:\n  - split: train\n    path: [t/a.tsv, 't/b*.tsv']\n"
        "- config_name: deep\n  data_files:\n  - split: validation\n    path: 'd/**/*.tsv'\n---\n",
        "t/a.tsv": "x\ty\n1\t2\n",
        "t/b1.tsv": "x\ty\n1\t2\n",
        "d/e/f/c.tsv": "x\ty\n1\t2\n",
    },
}
SAMPLE_REPOS = (
    *("ibm-research/duorc", "allenai/c4", "cerebras/SlimPajama-627B", "google/docci", "AI-Lab-Makerere/beans"),
    *("roneneldan/TinyStories", "bigcode/the-stack-smol-xs", "HuggingFaceFW/fineweb-edu", "openai/gsm8k"),
)


@pytest.mark.hub
def test_configs_and_files_are_those_that_the_unmodified_library_resolves(hub_env, sample_hub):
    """For each sample repo and each odd one: the names, splits and files of `datasets` itself against the same Hub."""
    for repo_id, files in ODD_REPOS.items():
        sample_hub.add_repo(repo_id, files)
    repos = [*SAMPLE_REPOS, *ODD_REPOS]
    code = """
        import json, sys, datasets
        out = {}
        for repo in json.loads(sys.argv[1]):
            names = datasets.get_dataset_config_names(repo)
            out[repo] = {"default": datasets.get_dataset_default_config_name(repo), "configs": {}}
            for name in names:
                builder = datasets.load_dataset_builder(repo, name)
                files = {str(s): [f.split("@", 1)[1][41:] for f in fs] for s, fs in builder.config.data_files.items()}
                out[repo]["configs"][name] = [builder.name, files]
        print(json.dumps(out))
    """
    theirs = json.loads(hub_env.python(code, json.dumps(repos)).stdout.splitlines()[-1])
    ours = {}
    with HubClient(hub_options()) as client:
        for repo_id in repos:
            commit = client.resolve_commit(repo_id)
            listing = client.list_files(repo_id, commit)
            metadata = {f.path: client.read_file(repo_id, commit, f.path) for f in listing.select(METADATA_FILES).files}
            configs = [config_files(listing, metadata, name) for name in list_configs(listing, metadata)]
            found = {
                config.name: [config.module, {split: list(paths) for split, paths in config.data_files.items()}]
                for config in configs
            }
            default = next((config.name for config in configs if config.is_default), None)
            ours[repo_id] = {"default": default, "configs": found}
    assert ours == theirs


@pytest.mark.unit
def test_resolving_opens_no_connection(monkeypatch):
    """Enumeration and resolution work with sockets forbidden."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    listing = listing_of(["README.md", "a/x.parquet", "b/x.parquet"])
    metadata = card(
        "configs:\n- {config_name: a, data_files: 'a/*'}\n- {config_name: b, data_files: 'b/*', default: true}"
    )
    assert list_configs(listing, metadata) == ("a", "b")
    assert config_files(listing, metadata, None).name == "b"
    needed = config_files(listing, metadata, "a").needed(listing)
    assert [file.path for file in needed.files] == ["README.md", "a/x.parquet"]


@pytest.mark.unit
def test_a_broken_first_config_does_not_take_the_others_down():
    """A config whose files are missing is refused with its pattern; its neighbour resolves."""
    listing = listing_of(["README.md", "b/x.jsonl"])
    metadata = card("configs:\n- {config_name: a, data_files: 'a/*.parquet'}\n- {config_name: b, data_files: 'b/*'}")
    with pytest.raises(DataError, match=r"config 'a': no data files: nothing in the repo matches a/\*\.parquet"):
        config_files(listing, metadata, "a")
    found = config_files(listing, metadata, "b")
    assert (found.module, dict(found.data_files)) == ("json", {"train": ("b/x.jsonl",)})


@pytest.mark.unit
@pytest.mark.parametrize(
    ("paths", "metadata", "config", "message"),
    [
        (["some-data.py", "a.csv"], {}, None, "script dataset .*--revision refs/convert/parquet"),
        (["README.md", "a/x.csv"], card("configs:\n- {config_name: selfrc, data_files: a/x.csv}"), "SelfRC",
         "has no config 'SelfRC'; it has selfrc"),
        (["a.csv"], {}, "main", "has no config 'main'; it has default"),
        (["notes.md"], {}, None, "no data files"),
        ([".gitattributes"], {}, None, "no data files"),
        (["README.md", "a.csv"], card("configs:\n- config_name: [\n"), None, "README.md cannot be read at line"),
        (["README.md", "a.csv"], card("configs: nonsense"), None, "`configs` in the card is not a list"),
        (["README.md", "a.csv"], card("configs:\n- data_files: a.csv"), None, "has no config_name"),
        (["README.md", "a.csv"], card("configs:\n- {config_name: a, data_files: /etc/passwd}"), "a", "outside the"),
        (["README.md", "a.csv"], card("configs:\n- {config_name: a, data_files: [../x.csv]}"), "a", "outside the repo"),
        (["README.md", "a.csv"], card("configs:\n- {config_name: a, data_dir: ../..}"), "a", "outside the repo"),
        (["README.md", "a.csv"], card("configs:\n- {config_name: a, data_files: 'http://x/y.csv'}"), "a", "outside"),
        (["README.md", "a.csv"], card("configs:\n- {config_name: a, data_files: missing.csv}"), "a", "missing.csv"),
        (["README.md", "a.csv"], card("configs:\n- {config_name: 'a/b', data_files: a.csv}"), "a/b", "a/b"),
        (["dataset_infos.json", "a.csv"], {"dataset_infos.json": b"{"}, None, "dataset_infos.json cannot be read"),
        (["README.md", "a.csv"], {"README.md": b"\xff\xfe"}, None, "README.md is not UTF-8"),
        (["README.md", "a.csv", "b.csv"],
         card("configs:\n- {config_name: a, data_files: a.csv}\n- {config_name: b, data_files: b.csv}"), None,
         "several configs and no default; name one of a, b"),
        (["a/train.csv", "a/train.parquet", "test.jsonl"], {}, None, "config 'default'"),
    ],
)  # fmt: skip
def test_what_cannot_be_resolved_gets_one_line(paths, metadata, config, message):
    """Script repos, unknown configs, repos without data, broken cards, names out of the repo: one clear line each."""
    with pytest.raises(DataError, match=message) as caught:
        config_files(listing_of(paths), metadata, config)
    assert "\n" not in str(caught.value)
    assert "/tmp" not in str(caught.value)


@pytest.mark.unit
def test_of_zipped_data_the_inside_decides_once_it_is_at_hand(tmp_path):
    """Without the archive all matched files are needed and the format is open; with it the library's answer stands."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("in/a.jsonl", '{"a": 1}\n')
    local = tmp_path / "data.zip"
    local.write_bytes(buffer.getvalue())
    listing = listing_of(["data.zip", "README.md"])
    before = config_files(listing, {}, None)
    assert (before.module, dict(before.data_files)) == (UNKNOWN_MODULE, {"train": ("data.zip",)})
    after = config_files(listing, {}, None, archive=lambda path: Path(local))
    assert (after.module, dict(after.data_files)) == ("json", {"train": ("data.zip",)})


@pytest.mark.unit
def test_ten_thousand_configs_are_named_and_resolved_quickly():
    """A card with 10,000 configs: the names in seconds, then each config in milliseconds, not by its 10,000 files."""
    names = [f"c{number:05}" for number in range(10_000)]
    metadata = card(
        "configs:\n" + "\n".join(f"- config_name: {name}\n  data_files: {name}/train-*.parquet" for name in names)
    )
    listing = listing_of(["README.md", *(f"{name}/train-0.parquet" for name in names)])
    started = time.monotonic()
    assert list_configs(listing, metadata) == tuple(names)
    named = time.monotonic()
    for name in names[5000:5005]:
        assert config_files(listing, metadata, name).data_files == {"train": (f"{name}/train-0.parquet",)}
    resolved = time.monotonic()
    assert named - started < 20
    assert resolved - named < 10
