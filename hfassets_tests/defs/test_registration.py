"""Dagster's state from manifests: what is on disk is known again, and nothing else."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from hfassets.cli.main import main
from hfassets.defs.code_location import all_registrables
from hfassets.defs.registration import SOURCE, Registered, register
from hfassets.progress import silent
from hfassets.storage.ledger import record_damage
from hfassets_tests.conftest import ClientEnvironment
from hfassets_tests.defs.conftest import Site

pytestmark = pytest.mark.dagster

HUB = ["hub_snapshot", "verified_hub_cache", "prepared_dataset"]
KEY = "beans:default"


def told(site: Site, *, dry_run: bool = False) -> dict[str, Registered]:
    """What Dagster is told, by asset."""
    return {one.asset: one for one in register(site.instance, all_registrables(site.location), silent, dry_run=dry_run)}


def test_every_partition_is_green_again_after_the_database_was_lost(site: Site, hub_env: ClientEnvironment) -> None:
    """With the metadata and the checks that it had; the Hub is not asked; a second time there is nothing to tell."""
    assert site.run(KEY, *HUB).success
    before = {asset: site.metadata(asset, KEY) for asset in HUB}
    checks = [
        ("hub_snapshot", "complete"),
        ("verified_hub_cache", "blobs_intact"),
        ("prepared_dataset", "files_intact"),
    ]
    asked = len(hub_env.hub.requests)
    with dg.instance_for_test() as instance:
        site.instance = instance
        assert told(site, dry_run=True)["hub_snapshot"].told == 1
        assert not instance.get_materialized_partitions(dg.AssetKey("hub_snapshot"))
        found = told(site)
        for asset in HUB:
            assert (found[asset].told, found[asset].absent, found[asset].unproven) == (
                1,
                len(site.location.keys) - 1,
                0,
            )
            assert instance.get_materialized_partitions(dg.AssetKey(asset)) == {KEY}
            shown = site.metadata(asset, KEY)
            assert shown.pop(SOURCE) == "its manifest"
            assert shown["fingerprint"] == before[asset]["fingerprint"] and set(shown) >= set(before[asset]) - {"waits"}
        assert all(site.check(asset, name, KEY) is True for asset, name in checks)
        again = told(site)
        assert all(one.told == 0 for one in again.values()) and again["prepared_dataset"].known == 1
        # What a real run then finds is what was told: nothing is made anew.
        assert site.run(KEY, *HUB).success
    assert len(hub_env.hub.requests) == asked


def test_what_the_ledger_calls_damaged_goes_red(site: Site) -> None:
    """And what was never read here has no check at all."""
    assert site.run(KEY, *HUB).success
    ledger = site.location.state.ledger("prepared_dataset")
    commit = site.location.commits[KEY]
    record_damage(ledger, KEY, commit, 1, ["train.arrow abc"], 1, purged=False)
    with dg.instance_for_test() as instance:
        site.instance = instance
        told(site)
        assert site.check("prepared_dataset", "files_intact", KEY) is False
    for entry in ledger.iterdir():
        entry.unlink()
    with dg.instance_for_test() as instance:
        site.instance = instance
        assert told(site)["prepared_dataset"].unproven == 1
        assert site.check("prepared_dataset", "files_intact", KEY) is None


def test_what_is_gone_from_disk_is_not_told(site: Site) -> None:
    """A manifest without its files is no output."""
    assert site.run(KEY, *HUB).success
    arrow = next((site.catalog.parent / "datasets").rglob("*.arrow"))
    arrow.unlink()
    with dg.instance_for_test() as instance:
        site.instance = instance
        found = told(site)
        assert found["prepared_dataset"].told == 0 and found["hub_snapshot"].told == 1


def test_work_of_the_command_line_appears(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `hfassets` made is told by `hfassets register`; an asset that there is not is named in one line."""
    assert site.run(KEY, *HUB).success
    home = Path(site.catalog.parent / "dagster")
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    capsys.readouterr()
    assert main(["register", "--asset", "nothing"]) == 2
    assert "the catalog has none" in capsys.readouterr().err
    assert main(["register", "--asset", "hub_snapshot"]) == 0
    printed = capsys.readouterr().out
    assert "hub_snapshot" in printed and "prepared_dataset" not in printed
    with dg.DagsterInstance.get() as instance:
        assert instance.get_materialized_partitions(dg.AssetKey("hub_snapshot")) == {KEY}


def test_a_site_that_purges_shows_how_many_days_are_left(site: Site) -> None:
    """On the pages of partitions and in the inventory; where nothing is purged there is no word of it."""
    assert site.run(KEY, *HUB).success
    assert "days until purge" not in site.metadata("prepared_dataset", KEY)
    site.catalog.write_text(site.catalog.read_text().replace("storage:", "storage:\n  purge_after_days: 30"))
    site.reload()
    assert site.run(KEY, *HUB).success and site.run(None, "hub_cache_inventory").success
    for asset in ("hub_snapshot", "prepared_dataset"):
        assert 29 < site.metadata(asset, KEY)["days until purge"] <= 30
    assert "days until purge" in site.metadata("hub_cache_inventory", None)["inventory"]
