"""What a catalog may say, and what is said of one that is wrong."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.catalog.load import catalog_path, load_catalog, parse_catalog
from hfassets.catalog.lock import Lock, RepoLock, partitions
from hfassets.catalog.models import Catalog
from hfassets.catalog.starter import STARTER
from hfassets.errors import CatalogError

pytestmark = pytest.mark.unit

PATH = Path("catalog.yaml")


def parse(text: str | bytes, **environment: str) -> Catalog:
    content = text.encode() if isinstance(text, str) else text
    return parse_catalog(content, PATH, folder=Path("/project"), environment=environment).catalog


def errors(text: str | bytes, **environment: str) -> list[str]:
    with pytest.raises(CatalogError) as raised:
        parse(text, **environment)
    return list(raised.value.errors)


KEYS = (
    "name, repo, revision, configs, include, exclude, files, transfer, max_bytes, partitions_per_run, token_env, "
    "num_proc, slurm"
)

SECTIONS = "storage, hub, verify, slurm, s3, datasets, c4, distillation, validation, mds, mixtures, extensions, staging"
BAD = [
    ("", ["catalog.yaml: is empty; `hfassets catalog init` writes a starter"]),
    ("# nothing\n", ["catalog.yaml: is empty; `hfassets catalog init` writes a starter"]),
    (
        "- a\n",
        [f"catalog.yaml:1: must be a mapping with the keys {SECTIONS}, not a list"],
    ),
    (
        "hello",
        [f"catalog.yaml:1: must be a mapping with the keys {SECTIONS}, not 'hello'"],
    ),
    ("a: [1\nb: 2", ["catalog.yaml:2: not YAML: did not find expected ',' or ']' (while parsing a flow sequence)"]),
    ("hub:\n\tmax_retries: 1", ["catalog.yaml:2: not YAML: a tab; indent with spaces"]),
    (b"hub:\n  \xff", ["catalog.yaml:2: not a text file in UTF-8 (byte 7: invalid leading UTF-8 octet)"]),
    ("[" * 100_000, ["catalog.yaml:1: not YAML: nested more than 50 levels deep"]),
    ("datasets: &x [*x]", ["catalog.yaml: an alias (*name) refers to what contains it"]),
    (
        "hub: {}\n---\nhub: {}",
        ["catalog.yaml:2: not YAML: but found another document (expected a single document in the stream)"],
    ),
    ("hub: *gone", ["catalog.yaml:1: not YAML: found undefined alias"]),
    (
        "hub:\n  endpoint: !!python/object/apply:os.system [ls]",
        ["catalog.yaml:2 hub.endpoint: has the tag !!python/object/apply:os.system; write the plain value"],
    ),
    ("hub: {}\nstorage: {}\nhub: {}", ["catalog.yaml:3 hub: is given twice; the first is on line 1"]),
    ("? [a]\n: b", ["catalog.yaml:1: has a list or mapping for a key; a key is one word"]),
    ("datasests: []", ["catalog.yaml:1 datasests: unknown key; did you mean datasets?"]),
    ("c5: {}", [f"catalog.yaml:1 c5: unknown key; known are {SECTIONS}"]),
    ("c4: {}", ["catalog.yaml:1 c4: must be a list, not a mapping"]),
    (
        "c4:\n  - num_samples: 0\n    destination: gs://x/y\n    streaming: maybe",
        [
            "catalog.yaml:2 c4[0].num_samples: must be at least 1, not '0'",
            "catalog.yaml:3 c4[0].destination: must be a folder or an address like s3://bucket/prefix: 'gs://x/y' is "
            "no destination; it is a folder, or s3://bucket/prefix, not 'gs://x/y'",
            "catalog.yaml:4 c4[0].streaming: must be true or false, not 'maybe'",
        ],
    ),
    (
        "c4:\n  - {num_samples: 5}\n  - {num_samples: 5, seed: 1}",
        [
            "catalog.yaml:3 c4[1]: the name 'c4_train_5' is taken by the entry on line 2; "
            "give one of them a name of its own"
        ],
    ),
    (
        "c4:\n  - split: ../x",
        ["catalog.yaml:2 c4[0].split: must be the name of a split like train or validation, not '../x'"],
    ),
    (
        "s3: {endpoint_url: here}",
        ["catalog.yaml:1 s3.endpoint_url: must be an address like https://huggingface.co, not 'here'"],
    ),
    (
        "storage:\n  umask: 0999",
        ["catalog.yaml:2 storage.umask: must be an octal file mode mask like 0002, not '0999'"],
    ),
    (
        "storage: here",
        [
            "catalog.yaml:1 storage: must be a mapping with the keys "
            "hub_cache, datasets_cache, output_root, state_dir, umask, purge_after_days, not 'here'"
        ],
    ),
    ("storage:\n  state_dir: [a]", ["catalog.yaml:2 storage.state_dir: must be a path, not a list"]),
    ("storage:\n  output_root: ''", ["catalog.yaml:2 storage.output_root: must be a path, not ''"]),
    ("hub:\n  max_retries: many", ["catalog.yaml:2 hub.max_retries: must be a whole number, not 'many'"]),
    ("hub:\n  max_retries: -1", ["catalog.yaml:2 hub.max_retries: must be at least 0, not '-1'"]),
    ("hub:\n  backoff_factor: .inf", ["catalog.yaml:2 hub.backoff_factor: must be a number, not '.inf'"]),
    (
        "hub:\n  endpoint: ftp://x",
        ["catalog.yaml:2 hub.endpoint: must be an address like https://huggingface.co, not 'ftp://x'"],
    ),
    ("verify:\n  max_age_days: 0", ["catalog.yaml:2 verify.max_age_days: must be more than 0, not '0'"]),
    (
        "verify:\n  repair_max_bytes_per_day: 3 parsecs",
        ["catalog.yaml:2 verify.repair_max_bytes_per_day: must be a size like 200GB or 1.5TB, not '3 parsecs'"],
    ),
    ("datasets: none", ["catalog.yaml:1 datasets: must be a list, not 'none'"]),
    ("datasets:\n  - foo", [f"catalog.yaml:2 datasets[0]: must be a mapping with the keys {KEYS}, not 'foo'"]),
    (
        "datasets:\n  - revision: main",
        ["catalog.yaml:2 datasets[0].repo: is missing; it names the Hub repo, like owner/name"],
    ),
    ("datasets:\n  -\n", ["catalog.yaml:2 datasets[0]: is an empty item; remove its dash or give it a value"]),
    ("datasets:\n  - repo: a b", ["catalog.yaml:2 datasets[0].repo: must be a Hub repo id like owner/name, not 'a b'"]),
    (
        "datasets:\n  - repo: a/b\n    transfr: http",
        ["catalog.yaml:3 datasets[0].transfr: unknown key; did you mean transfer?"],
    ),
    (
        "datasets:\n  - repo: a/b\n    token: hf_secret",
        ["catalog.yaml:3 datasets[0].token: unknown key; did you mean token_env?"],
    ),
    (
        "datasets:\n  - repo: a/b\n    token_env: hf_secret",
        [
            "catalog.yaml:3 datasets[0].token_env: looks like a token itself; "
            "it must be the name of the environment variable that holds it"
        ],
    ),
    (
        "datasets:\n  - repo: a/b\n    transfer: ftp",
        ["catalog.yaml:3 datasets[0].transfer: must be http, hf_transfer or xet, not 'ftp'"],
    ),
    (
        "datasets:\n  - repo: a/b\n    files: some",
        ["catalog.yaml:3 datasets[0].files: must be config or all, not 'some'"],
    ),
    ("datasets:\n  - repo: a/b\n    configs: en", ["catalog.yaml:3 datasets[0].configs: must be a list, not 'en'"]),
    (
        "datasets:\n  - repo: a/b\n    configs: []",
        ["catalog.yaml:3 datasets[0].configs: must name at least one; leave the key out to take all, not a list"],
    ),
    (
        "datasets:\n  - repo: a/b\n    configs: [x, x]",
        ["catalog.yaml:3 datasets[0].configs: must name each once; twice: x, not a list"],
    ),
    (
        "datasets:\n  - repo: a/b\n    configs:\n      - ok\n      - a...b",
        [
            "catalog.yaml:5 datasets[0].configs[1]: must not contain ..., which separates the ends of a "
            "partition range, not 'a...b'"
        ],
    ),
    (
        "datasets:\n  - repo: a/b\n    revision: ../x",
        ["catalog.yaml:3 datasets[0].revision: must be a branch, a tag or a commit, not '../x'"],
    ),
    (
        "datasets:\n  - repo: a/b\n    max_bytes: 0",
        ["catalog.yaml:3 datasets[0].max_bytes: must be a size of at least 1 byte like 200GB or 1.5TB, not '0'"],
    ),
    (
        "datasets:\n  - repo: a/b\n    partitions_per_run: 0",
        ["catalog.yaml:3 datasets[0].partitions_per_run: must be at least 1, not '0'"],
    ),
    (
        "datasets:\n  - repo: a/b\n    num_proc: 2.5",
        ["catalog.yaml:3 datasets[0].num_proc: must be a whole number, not '2.5'"],
    ),
    (
        "slurm:\n  prepared_dataset:\n    memory: lots",
        [
            "catalog.yaml:2 slurm.prepared_dataset: cannot be asked of SLURM: memory must be a size like 32G"
            " (G = 1024 M; a number alone is M), not 'lots'"
        ],
    ),
    (
        "datasets:\n  - repo: a/b\n    slurm: {cups: 3}",
        ["catalog.yaml:3 datasets[0].slurm: cannot be asked of SLURM: cups is no field; did you mean cpus?"],
    ),
    (
        "slurm:\n  hub_snapshot: {cpus: 1}",
        [
            "catalog.yaml:2 slurm.hub_snapshot: must be prepared_dataset, c4_shards, distillation_file, "
            "distillation_tokens, teacher_logits, text_mds, "
            "tokenized_mds, chunked_mds, sampled_mds, training_mds, context_extension_mds or preprocessed_dataset"
        ],
    ),
    (
        'datasets:\n  - repo: a/b\n    name: "x\\ny"',
        [
            "catalog.yaml:3 datasets[0].name: must be plain text of at most 200 characters without ... and any of "
            ", : * \" ' [ ] | \\, not 'x\\ny'"
        ],
    ),
    (
        "datasets:\n  - repo: a/b\n  - repo: c/d\n    name: a/b",
        [
            "catalog.yaml:4 datasets[1].name: the name 'a/b' is taken by the entry on line 2; "
            "give one of them a name of its own"
        ],
    ),
    (
        "storage:\n  output_root: ${ROOT}/x",
        [
            "catalog.yaml:2 storage.output_root: the environment variable ROOT is not set; "
            "set it or write ${ROOT:-default}"
        ],
    ),
    (
        "storage:\n  output_root: ${ROOT",
        [
            "catalog.yaml:2 storage.output_root: has a ${ that is no reference; "
            "write ${NAME}, ${NAME:-default}, or $${ for a ${"
        ],
    ),
    (
        "hub:\n  max_retries: x\nverify:\n  max_age: 3\ndatasets:\n  - repo: 7/\n  - repo: a/b\n    num_proc: no",
        [
            "catalog.yaml:2 hub.max_retries: must be a whole number, not 'x'",
            "catalog.yaml:4 verify.max_age: unknown key; did you mean max_age_days?",
            "catalog.yaml:6 datasets[0].repo: must be a Hub repo id like owner/name, not '7/'",
            "catalog.yaml:8 datasets[1].num_proc: must be a whole number, not 'no'",
        ],
    ),
]


@pytest.mark.parametrize(("text", "lines"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_each_mistake_is_one_line_that_says_where_and_what_is_right(text: str | bytes, lines: list[str]) -> None:
    """Every mistake is reported, in file order, in the user's words."""
    assert errors(text) == lines


def test_starter_is_a_valid_catalog() -> None:
    """What `init` writes needs no edit to load, nor does it with every commented key switched on."""
    assert parse(STARTER).datasets[0].repo == "openai/gsm8k"
    switched_on = "\n".join(
        line.replace("# ", "", 1) if line.startswith("  ") and line.lstrip().startswith("#") else line
        for line in STARTER.splitlines()
    )
    assert parse(switched_on).datasets[0].num_proc == 8


def test_defaults_and_relative_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to the catalog's folder; caches default to the Hugging Face variables."""
    monkeypatch.setenv("HF_HUB_CACHE", "/caches/hub")
    monkeypatch.setenv("HF_HOME", "/caches/home")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror:1/")
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    storage = parse("storage:\n  umask: 0002\nhub:\ndatasets:\n").storage
    assert storage.hub_cache == Path("/caches/hub")
    assert storage.datasets_cache == Path("/caches/home/datasets")
    assert storage.output_root == Path("/project/data")
    assert storage.state_dir == Path("/project/data/.hfassets")
    assert storage.umask == 0o002
    assert parse("{}").hub.endpoint == "http://mirror:1"
    assert parse("storage:\n  output_root: /big").storage.state_dir == Path("/big/.hfassets")


def test_values_are_what_is_written() -> None:
    """YAML's own readings of no, 1.0, dates and octals never change a name; sizes are decimal."""
    entry = parse(
        "datasets:\n  - repo: a/b\n    configs: [no, 1.0, 2024-01-01, 0777]\n    revision: 1.10\n    max_bytes: 1.5TB\n"
        "    num_proc:\n"
    ).datasets[0]
    assert entry.configs == ("no", "1.0", "2024-01-01", "0777")
    assert (entry.name, entry.revision, entry.max_bytes, entry.num_proc) == ("a/b", "1.10", 1_500_000_000_000, None)


def test_merge_keys_and_aliases() -> None:
    """Anchors spare repetition; what an entry says itself wins."""
    text = "datasets:\n  - &base {repo: a/b, max_bytes: 5GB, revision: v1}\n  - <<: *base\n    repo: c/d\n"
    assert [(one.name, one.revision, one.max_bytes) for one in parse(text).datasets] == [
        ("a/b", "v1", 5 * 10**9),
        ("c/d", "v1", 5 * 10**9),
    ]
    assert errors("datasets:\n  - &base {repo: a/b, typo: 1}\n") == [
        f"catalog.yaml:2 datasets[0].typo: unknown key; known are {KEYS}"
    ]


def test_environment_references() -> None:
    """`${NAME}`, a default for unset and for empty, `$$` for a dollar, a lone dollar as it is."""
    text = "storage:\n  output_root: ${ROOT}/a\n  state_dir: ${EMPTY:-/state}/$$x$y\n  hub_cache: /${UNSET:-}h\n"
    storage = parse(text, ROOT="/r", EMPTY="").storage
    assert [storage.output_root, storage.state_dir, storage.hub_cache] == [
        Path("/r/a"),
        Path("/state/$x$y"),
        Path("/h"),
    ]


def test_expanded_values_are_never_repeated_in_errors() -> None:
    """A wrong value that came from the environment is shown as its reference."""
    assert errors("datasets:\n  - repo: ${LEAK}\n", LEAK="hf_secret value") == [
        "catalog.yaml:2 datasets[0].repo: must be a Hub repo id like owner/name, not '${LEAK}'"
    ]


def test_no_catalog_says_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither HFASSETS_CATALOG nor ./catalog.yaml: one line that names `init`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HFASSETS_CATALOG", raising=False)
    with pytest.raises(CatalogError, match="`hfassets catalog init`"):
        catalog_path()
    monkeypatch.setenv("HFASSETS_CATALOG", str(tmp_path))
    with pytest.raises(CatalogError, match="cannot be read \\(Is a directory\\)"):
        load_catalog(catalog_path())


WORD = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=12)
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
ENTRY = st.fixed_dictionaries(
    {"repo": st.builds("{}/{}".format, WORD, WORD)},
    optional={
        "revision": WORD,
        "configs": st.lists(PLAIN.filter(lambda text: "..." not in text), min_size=1, max_size=4, unique=True),
        "include": st.lists(PLAIN, max_size=3),
        "files": st.sampled_from(["config", "all"]),
        "transfer": st.sampled_from(["http", "hf_transfer", "xet"]),
        "max_bytes": st.integers(1, 10**15),
        "partitions_per_run": st.integers(1, 100),
        "token_env": WORD.map(lambda word: f"T{word}"),
    },
)


@st.composite
def catalogs(draw: st.DrawFn) -> dict[str, Any]:
    entries = draw(st.lists(ENTRY, max_size=6))
    return {"datasets": [{**entry, "name": f"{entry['repo']}-{place}"} for place, entry in enumerate(entries)]}


def dump(document: Any) -> bytes:
    return yaml.safe_dump(document, allow_unicode=True).replace("$", "$$").encode()


@settings(max_examples=150, deadline=None)
@given(catalogs())
def test_what_is_dumped_loads_as_it_was(document: dict[str, Any]) -> None:
    """load(dump(catalog)) gives the catalog, and dumping the model again changes nothing."""
    catalog = parse(dump(document))
    for given_entry, entry in zip(document["datasets"], catalog.datasets, strict=True):
        loaded = entry.model_dump(mode="json")
        assert {key: loaded[key] for key in given_entry} == given_entry
    again = catalog.model_dump(mode="json", exclude={"storage": {"umask"}}, exclude_none=True)
    assert parse(dump(again)) == catalog


@settings(max_examples=100, deadline=None)
@given(catalogs(), st.lists(WORD, min_size=1, max_size=4, unique=True))
def test_partition_keys_are_unique_and_keep_their_order(document: dict[str, Any], detected: list[str]) -> None:
    """Keys are unique, in the catalog's order, and appending a dataset moves none of them."""
    catalog = parse(dump(document))
    pins = {(one.repo, one.revision) for one in catalog.datasets}
    lock = Lock(
        tuple(
            RepoLock(
                repo=repo,
                revision=revision,
                commit="0" * 40,
                configs=tuple(sorted(detected)),
                default_config=None,
                synced_at="",
            )
            for repo, revision in pins
        )
    )
    keys = [one.key for one in partitions(catalog, lock)]
    assert len(set(keys)) == len(keys)
    expected = [
        f"{one.name}:{config}" for one in catalog.datasets for config in (one.configs or tuple(sorted(detected)))
    ]
    assert keys == expected
    document["datasets"].append({"repo": "zz/new", "configs": ["c"]})
    assert [one.key for one in partitions(parse(dump(document)), lock)][: len(keys)] == keys
