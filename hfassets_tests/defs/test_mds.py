"""MDS in Dagster: a chain of partitions, mixtures that take exactly their members, damage found and repaired."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest

from hfassets.catalog import accept
from hfassets.cli.main import main
from hfassets.defs.code_location import build_definitions
from hfassets.defs.location import Location
from hfassets.demo.hub_app import TOKEN
from hfassets.mds.reader import MdsReader
from hfassets.slurm.request import REQUEST_KEY
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.defs.conftest import Site

pytestmark = pytest.mark.dagster

CHAIN = ("text_mds", "tokenized_mds", "chunked_mds", "sampled_mds")
CATALOG = """\
hub:
  endpoint: ${HF_ENDPOINT}
validation: {fraction: 0.1}
mds:
  - name: math
    source: {repo: openai/gsm8k, config: main}
    mapper: gsm8k
    tokenizer: EleutherAI/pythia-70m
    chunks: &rows {size: 64, minimum: 48, skip: 8, backfill: true, duplicates: false, add_eos: true}
  - name: numina
    source: {repo: AI-MO/NuminaMath-CoT}
    mapper: numina
    tokenizer: EleutherAI/pythia-70m
    chunks: *rows
    sample: {tokens: 9000}
mixtures:
  - name: phase
    members: {math: 0.6, numina: 0.4}
    tokens: 20000
extensions:
  - name: long
    domains: {math: 1.0}
    tokens: 2000
    chunks: {size: 32}
"""


@pytest.fixture
def mds_site(tmp_path: Path, hub_env: ClientEnvironment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Two recipes, a mixture and an extension of them."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(textwrap.dedent(CATALOG))
    monkeypatch.setenv("HFASSETS_CATALOG", str(catalog))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["catalog", "sync"]) == 0
    with dg.instance_for_test() as instance:
        location = Location(catalog, accept(catalog))
        yield Site(catalog, instance, location, build_definitions(location))


def place(site: Site, asset: str, key: str) -> Path:
    """Where an output lies."""
    return Path(str(site.metadata(asset, key)["dagster/uri"]).removeprefix("file://"))


def test_the_chain_ends_in_a_training_phase(mds_site: Site) -> None:
    """Each stage with its rows, tokens, account and lengths; the mixture with what was asked and got; all green."""
    for key in ("math", "numina"):
        assert mds_site.run(key, *CHAIN).success
        for asset in CHAIN:
            assert mds_site.check(asset, "intact", key) is True
            assert mds_site.check(asset, "account_closed", key) is True
    tokens = mds_site.metadata("tokenized_mds", "math")
    assert tokens["tokens"] > 0 and tokens["tokenized by"].startswith("gigatoken")
    chunks = mds_site.metadata("chunked_mds", "math")
    assert chunks["row lengths"].startswith("![histogram of row lengths](data:image/png;base64,")
    assert "| tokens in |" in " ".join(chunks["account"].split())
    assert mds_site.metadata("sampled_mds", "numina")["tokens"] <= 9000
    text = mds_site.catalog.read_text().replace("tokens: 9000", "tokens: 90000")
    mds_site.catalog.write_text(text.replace("tokens: 20000", "tokens: 120000"))
    mds_site.reload()
    assert mds_site.run("numina", "sampled_mds").success
    assert mds_site.run("phase", "training_mds").success
    assert mds_site.check("training_mds", "shares_as_asked", "phase") is True
    shown = mds_site.metadata("training_mds", "phase")
    assert shown["asked and got"].startswith("![tokens asked for and got](data:image/png;base64,")
    folder = place(mds_site, "training_mds", "phase")
    rows = list(MdsReader(folder / "train"))
    assert sum(len(one["input_ids"]) for one in rows) == shown["tokens"]
    assert {path.name for path in (folder / "train").iterdir()} == {"math", "numina", "index.json"}
    assert mds_site.run("long", "context_extension_mds").success
    assert mds_site.metadata("context_extension_mds", "long")["dagster/row_count"] > 0


def test_a_missing_member_is_named(mds_site: Site) -> None:
    """A mixture takes exactly its members."""
    assert mds_site.run("math", *CHAIN).success
    failed = mds_site.run("phase", "training_mds")
    (failure,) = [event.step_failure_data for event in failed.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert "numina: " in str(failure.user_failure_data.description)
    assert "is not finished; materialise it first" in str(failure.user_failure_data.description)


def test_damage_goes_red_when_it_is_verified_and_the_sensor_has_it_repaired(mds_site: Site) -> None:
    """A changed byte is found by re-verification; the repair makes the same shard again."""
    assert mds_site.run("math", *CHAIN[:3]).success
    shard = sorted(place(mds_site, "chunked_mds", "math").glob("*/train/*.mds"))[0]
    good = shard.read_bytes()
    data = bytearray(good)
    data[-1] ^= 1
    shard.write_bytes(data)
    in_eight_days = time.time() + 8 * 86_400
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time", lambda: in_eight_days)
        requests = mds_site.tick("reverify", None).run_requests or ()
    (request,) = [one for one in requests if one.asset_selection == [dg.AssetKey("chunked_mds")]]
    assert not mds_site.launch(request).success
    assert mds_site.check("chunked_mds", "intact", "math") is False
    (repair,) = mds_site.tick("repair", None).run_requests or ()
    assert mds_site.launch(repair).success
    assert shard.read_bytes() == good
    assert mds_site.check("chunked_mds", "intact", "math") is True


def test_lineage_is_exact_and_only_who_asks_for_slurm_gets_jobs(mds_site: Site) -> None:
    """Stage by stage, members to their mixtures; a pattern a recipe."""
    graph = mds_site.definitions.resolve_asset_graph()
    parents = {key: [one.to_user_string() for one in graph.get(dg.AssetKey(key)).parent_keys] for key in CHAIN[1:]}
    assert parents == {one: [before] for before, one in pairwise(CHAIN)}
    assert graph.get(dg.AssetKey("training_mds")).parent_keys == {dg.AssetKey("sampled_mds")}
    assert REQUEST_KEY not in graph.get(dg.AssetKey("text_mds")).metadata
    text = mds_site.catalog.read_text().replace("mapper: gsm8k", 'mapper: gsm8k\n    slurm: {time: "01:00:00"}')
    mds_site.catalog.write_text(text)
    mds_site.reload()
    request = mds_site.definitions.resolve_asset_graph().get(dg.AssetKey("text_mds")).metadata[REQUEST_KEY]
    assert request == {"default": {}, "partitions": {"math": {"time": "01:00:00"}}}
