"""The hub chain in Dagster: made, damaged, repaired, and what it says of itself."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg
import pytest

from hfassets.cli.main import main
from hfassets.demo.hub_faults import Fault
from hfassets.storage import read_entry
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.defs.conftest import Site

pytestmark = pytest.mark.dagster

CHAIN = ("hub_snapshot", "verified_hub_cache", "prepared_dataset")
KEY = "duorc:SelfRC"


def blob_of(site: Site, glob: str) -> Path:
    """The blob behind the first data file whose path matches."""
    link = next(
        path for path in sorted((site.catalog.parent / "hub").rglob(f"snapshots/*/{glob}")) if path.is_symlink()
    )
    return link.resolve()


def flip(path: Path) -> None:
    """Change one byte in the middle, keeping size and modification time."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert status.st_size == path.stat().st_size


def test_chain_is_made_and_described(site: Site) -> None:
    """Each asset of a partition has its data version, its size and its green checks; downstream rows are counted."""
    assert site.run(KEY, *CHAIN).success
    snapshot, proof, prepared = (site.metadata(asset, KEY) for asset in CHAIN)
    assert snapshot["fingerprint"] == proof["fingerprint"]
    assert snapshot["bytes"] == proof["bytes"] > 0
    assert prepared["dagster/row_count"] > 1000
    assert "load_dataset('ibm-research/duorc', 'SelfRC'" in prepared["load it with"]
    assert proof["read now"] == "0 B", "hashing on arrival seeds the verifier's memory"
    for asset, check in zip(CHAIN, ("complete", "blobs_intact", "rows_as_declared"), strict=True):
        assert site.check(asset, check, KEY) is True
    assert site.check("verified_hub_cache", "blobs_intact", "duorc:ParaphraseRC") is None


def test_second_run_fetches_and_prepares_nothing(site: Site, hub_env: ClientEnvironment) -> None:
    """What is done is recognised: no request, no byte, the same versions."""
    assert site.run(KEY, *CHAIN).success
    before = [site.metadata(asset, KEY)["fingerprint"] for asset in CHAIN]
    hub_env.hub.reset_log()
    assert site.run(KEY, *CHAIN).success
    assert hub_env.hub.requests == []
    assert [site.metadata(asset, KEY)["fingerprint"] for asset in CHAIN] == before


def test_damage_goes_red_and_is_repaired_by_the_sensor(site: Site) -> None:
    """A flipped byte fails the run and its check, is moved aside, and the repair request makes both green again."""
    assert site.run(KEY, *CHAIN).success
    blob = blob_of(site, "SelfRC/*.parquet")
    flip(blob)
    result = site.run(KEY, "verified_hub_cache")
    assert not result.success
    assert site.check("verified_hub_cache", "blobs_intact", KEY) is False
    assert not blob.exists(), "it was moved aside"

    tick = site.tick("repair", None)
    (request,) = tick.run_requests or ()
    entry = read_entry(site.location.state.ledger("verified_hub_cache"), KEY)
    assert entry is not None
    assert request.run_key == f"repair:{KEY}:{entry.damage_hash}:1"
    assert site.launch(request).success
    assert site.check("verified_hub_cache", "blobs_intact", KEY) is True
    assert blob.exists()
    assert not site.tick("repair", tick.cursor).run_requests, "nothing is damaged any more"


def test_repair_stops_after_three_attempts(site: Site, hub_env: ClientEnvironment) -> None:
    """When the Hub itself serves wrong bytes, three runs are asked for, then one line is said, then nothing."""
    assert site.run(KEY, *CHAIN).success
    flip(blob_of(site, "SelfRC/*.parquet"))
    assert not site.run(KEY, "verified_hub_cache").success
    hub_env.hub.set_faults(Fault("flip", path="ibm-research/duorc/SelfRC/*"))
    cursor, attempts, said = None, [], []
    for _ in range(6):
        tick = site.tick("repair", cursor)
        cursor = tick.cursor
        said.append(str(tick.skip_reason))
        for request in tick.run_requests or ():
            attempts.append(request.run_key)
            assert not site.launch(request).success
    assert [key.rpartition(":")[2] for key in attempts if key] == ["1", "2", "3"]
    assert len(set(attempts)) == 3
    assert sum("no further attempt" in line for line in said) == 1
    assert site.check("verified_hub_cache", "blobs_intact", KEY) is False


def test_damaged_arrow_is_found_and_prepared_again(site: Site) -> None:
    """The re-verification of a prepared config hashes its Arrow files; damage is repaired from the raw files."""
    assert site.run(KEY, *CHAIN).success
    arrow = next((site.catalog.parent / "datasets").rglob("SelfRC/**/*.arrow"))
    good = arrow.read_bytes()
    flip(arrow)
    assert not site.run(KEY, "prepared_dataset", prepared_dataset={"verify": True}).success
    assert site.check("prepared_dataset", "files_intact", KEY) is False
    (request,) = site.tick("repair", None).run_requests or ()
    assert request.asset_selection == [dg.AssetKey("prepared_dataset")]
    assert site.launch(request).success
    assert site.check("prepared_dataset", "files_intact", KEY) is True
    assert next((site.catalog.parent / "datasets").rglob("SelfRC/**/*.arrow")).read_bytes() == good


def test_old_proofs_are_due_once_a_day(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sensor asks for what was proven longer ago than the catalog allows, oldest first, and for nothing else."""
    assert site.run(KEY, *CHAIN).success
    assert not site.tick("reverify", None).run_requests
    later = time.time() + 8 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    requests = site.tick("reverify", None).run_requests or []
    assert [request.partition_key for request in requests] == [KEY, KEY]
    assert [request.run_key for request in requests] == [
        request.run_key for request in site.tick("reverify", None).run_requests or []
    ]
    assert all(site.launch(request).success for request in requests)
    assert not site.tick("reverify", None).run_requests


def test_verification_needs_a_snapshot(site: Site) -> None:
    """Nothing downloaded is one clear failure, not damage."""
    result = site.run(KEY, "verified_hub_cache")
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "there is no snapshot" in str(failure.step_failure_data.user_failure_data.description)
    assert site.check("verified_hub_cache", "blobs_intact", KEY) is None


def test_inventory_lists_repos_outside_the_catalog(site: Site, hub_env: ClientEnvironment) -> None:
    """A repo that another tool put into the cache is in the inventory, and its damage fails the sweep's check."""
    assert site.run(KEY, "hub_snapshot").success
    code = """
        import sys
        from huggingface_hub import snapshot_download
        snapshot_download("openai/gsm8k", repo_type="dataset", cache_dir=sys.argv[1])
    """
    hub_env.python(code, site.catalog.parent / "hub")
    assert site.run(None, "hub_cache_inventory", hub_cache_inventory={"verify": True}).success
    table = site.metadata("hub_cache_inventory", None)["inventory"]
    assert "openai/gsm8k" in table
    assert "ibm-research/duorc" in table
    assert site.check("hub_cache_inventory", "cache_intact", None) is True
    flip(blob_of(site, "main/*.parquet"))
    assert site.run(None, "hub_cache_inventory", hub_cache_inventory={"verify": True, "full": True}).success
    assert site.check("hub_cache_inventory", "cache_intact", None) is False


def test_removed_partition_stays_until_pruned(site: Site) -> None:
    """A key that left the catalog is still a partition and can be made, so that no running backfill fails."""
    text = site.catalog.read_text()
    site.catalog.write_text(text.replace("  - name: duorc\n    repo: ibm-research/duorc\n", ""))
    site.reload()
    assert KEY in site.location.keys
    assert site.run(KEY, "hub_snapshot").success
    assert main(["catalog", "prune"]) == 0
    site.reload()
    assert KEY not in site.location.keys


def test_nonsense_in_the_catalog_keeps_the_accepted_one(site: Site) -> None:
    """The location loads with the same partitions, and the catalog's check says what is wrong and where."""
    keys, good = site.location.keys, site.catalog.read_text()
    site.catalog.write_text(good + "  nonsense: [\n")
    site.reload()
    assert site.location.keys == keys
    (event,) = site.tick("catalog_watch", None).asset_events or ()
    assert isinstance(event, dg.AssetCheckEvaluation)
    assert not event.passed
    assert "catalog.yaml" in str(event.description)
    assert site.run(KEY, "hub_snapshot").success, "work goes on by the accepted catalog"


def test_runs_carry_the_catalog_they_worked_by(site: Site) -> None:
    """Each run is tagged with the hash of the accepted catalog."""
    result = site.run(KEY, "hub_snapshot")
    run = site.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["hfassets/catalog"] == site.location.accepted.sha
