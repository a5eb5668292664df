"""Shard sets in Dagster: made, checked, damaged, repaired, verified again by the sensor; and in S3."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from hfassets.catalog import accept
from hfassets.cli.main import main
from hfassets.defs.code_location import build_definitions
from hfassets.defs.location import Location
from hfassets.slurm.request import REQUEST_KEY
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.defs.conftest import Site
from hfassets_tests.s3 import BUCKET, S3Server, s3, s3_server

__all__ = ["s3", "s3_server"]
pytestmark = pytest.mark.dagster

CHECKS = ("rows_as_asked", "parts_intact", "lines_are_json", "account_closed")


@pytest.fixture
def c4_site(
    tmp_path: Path, hub_env: ClientEnvironment, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """Two shard sets: on disk, and in S3."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(
        textwrap.dedent(f"""\
        hub:
          endpoint: ${{HF_ENDPOINT}}
        s3:
          endpoint_url: {s3.url}
        c4:
          - name: small
            num_samples: 400
            max_lines_per_file: 100
          - name: cloud
            num_samples: 200
            max_lines_per_file: 100
            destination: s3://{BUCKET}/c4
            slurm: {{time: "01:00:00"}}
        """)
    )
    monkeypatch.setenv("HFASSETS_CATALOG", str(catalog))
    assert main(["catalog", "sync"]) == 0
    with dg.instance_for_test() as instance:
        location = Location(catalog, accept(catalog))
        yield Site(catalog, instance, location, build_definitions(location))


def test_a_shard_set_is_made_checked_and_described(c4_site: Site) -> None:
    """Rows, bytes, destination, a histogram and the first rows as a table; all four checks are green."""
    assert c4_site.run("small", "c4_shards").success
    shown = c4_site.metadata("c4_shards", "small")
    assert (shown["dagster/row_count"], shown["files"]) == (400, 4)
    assert shown["destination"] == str(c4_site.catalog.parent / "data" / "c4" / "small")
    assert shown["bytes"] == sum(path.stat().st_size for path in Path(shown["destination"]).glob("*.jsonl"))
    assert shown["text lengths"].startswith("![histogram of text lengths](data:image/png;base64,")
    assert shown["first rows"].startswith("| text | timestamp | url |")
    assert [c4_site.check("c4_shards", name, "small") for name in CHECKS] == [True] * 4
    assert c4_site.check("c4_shards", "parts_intact", "cloud") is None


def test_a_set_in_s3_is_made_and_proven_there(c4_site: Site, s3: S3Server) -> None:
    assert c4_site.run("cloud", "c4_shards").success
    assert c4_site.metadata("c4_shards", "cloud")["dagster/uri"] == f"s3://{BUCKET}/c4"
    names = {"c4_train_200_part001.jsonl", "c4_train_200_part002.jsonl", "c4_train_200.manifest.json"}
    assert set(s3.objects()) == {f"c4/{name}" for name in names}
    assert [c4_site.check("c4_shards", name, "cloud") for name in CHECKS] == [True] * 4


def test_damage_goes_red_when_it_is_verified_and_the_sensor_has_it_repaired(c4_site: Site) -> None:
    """Old shard sets are due like the hub cache; a changed byte turns the check red; only that part is made again."""
    assert c4_site.run("small", "c4_shards").success
    folder = Path(c4_site.metadata("c4_shards", "small")["destination"])
    part = folder / "c4_train_400_part003.jsonl"
    good = part.read_bytes()
    part.write_bytes(good.replace(b"e", b"i", 1))
    untouched = (folder / "c4_train_400_part001.jsonl").stat().st_mtime_ns
    in_eight_days = time.time() + 8 * 86_400
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time", lambda: in_eight_days)
        (request,) = c4_site.tick("reverify", None).run_requests or ()
    assert request.asset_selection == [dg.AssetKey("c4_shards")] and request.partition_key == "small"
    assert not c4_site.launch(request).success
    assert c4_site.check("c4_shards", "parts_intact", "small") is False
    (repair,) = c4_site.tick("repair", None).run_requests or ()
    assert c4_site.launch(repair).success
    assert part.read_bytes() == good
    assert (folder / "c4_train_400_part001.jsonl").stat().st_mtime_ns == untouched
    assert c4_site.check("c4_shards", "parts_intact", "small") is True


def test_only_who_asks_for_slurm_gets_jobs(c4_site: Site) -> None:
    """A shard set reads the Hub, which compute nodes may not reach: without a request runs are light."""
    graph = c4_site.definitions.resolve_asset_graph()
    request = graph.get(dg.AssetKey("c4_shards")).metadata[REQUEST_KEY]
    assert request == {"default": {}, "partitions": {"cloud": {"time": "01:00:00"}}}
    c4_site.catalog.write_text(c4_site.catalog.read_text().replace('slurm: {time: "01:00:00"}', ""))
    c4_site.reload()
    metadata = c4_site.definitions.resolve_asset_graph().get(dg.AssetKey("c4_shards")).metadata
    assert REQUEST_KEY not in metadata and metadata["slurm/network"] == "hub"


def test_a_changed_entry_replaces_its_own_older_files_and_a_removed_one_is_retired(c4_site: Site) -> None:
    """Another number of rows under the same name: a glob finds the new ones only. The key stays until it is pruned."""
    assert c4_site.run("small", "c4_shards").success
    c4_site.catalog.write_text(c4_site.catalog.read_text().replace("num_samples: 400", "num_samples: 300"))
    c4_site.reload()
    assert c4_site.run("small", "c4_shards").success
    folder = c4_site.catalog.parent / "data" / "c4" / "small"
    assert {path.name[:12] for path in folder.iterdir()} == {"c4_train_300"}
    text = c4_site.catalog.read_text()
    c4_site.catalog.write_text(text[: text.index("  - name: cloud")])
    c4_site.reload()
    assert c4_site.location.accepted.retired == ("cloud",)
    assert set(c4_site.location.shard_sets.get_partition_keys()) == {"small", "cloud"}
    assert c4_site.run("cloud", "c4_shards").success, "a backfill that targets it goes on"
