"""Asking the sample Hub for the lock: all or nothing, and only what is asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hfassets.catalog.load import parse_catalog
from hfassets.catalog.lock import Lock
from hfassets.catalog.models import Dataset
from hfassets.catalog.sync import Client, DetectedConfigs, sync
from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_server import SampleHub
from hfassets.errors import CatalogError
from hfassets.hub.configs import list_configs
from hfassets.hub.session import HubClient, hub_options

pytestmark = pytest.mark.hub

CARD = """---
configs:
- config_name: zeta
  data_files: z.jsonl
- config_name: alpha
  data_files: a.jsonl
---
"""
NOTHING = Lock()
FILES = {"README.md": CARD, "z.jsonl": '{"a": 1}\n', "a.jsonl": '{"a": 2}\n'}


def run(hub: SampleHub, text: str, lock: Lock = NOTHING, update: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    def factory(dataset: Dataset) -> AbstractContextManager[Client]:
        return HubClient(hub_options(endpoint=hub.url, max_retries=0, backoff_factor=0))

    catalog = parse_catalog(text.encode(), Path("catalog.yaml")).catalog
    return sync(
        catalog, lock, factory, lambda listing, data: DetectedConfigs(list_configs(listing, data), None), update
    )


def test_pins_commit_and_sorted_configs(sample_hub: SampleHub) -> None:
    """A first sync asks for what is not pinned; a second asks for nothing and gives the same lock."""
    commit = sample_hub.add_repo("me/words", FILES)
    lock, changes = run(sample_hub, "datasets: [{repo: me/words}]")
    (pinned,) = lock.repos
    assert (pinned.commit, pinned.configs) == (commit, ("alpha", "zeta"))
    assert [str(change) for change in changes] == [f"me/words@main: pinned at {commit[:12]}, 2 configs"]
    sample_hub.reset_log()
    assert run(sample_hub, "datasets: [{repo: me/words}]", lock) == (lock, ())
    assert sample_hub.requests == []


def test_update_moves_only_what_is_named(sample_hub: SampleHub) -> None:
    """Others stay at their pin; a repo that did not move keeps its line, time included."""
    text = "datasets: [{repo: me/words}, {repo: me/more}]"
    old = sample_hub.add_repo("me/words", FILES)
    sample_hub.add_repo("me/more", FILES)
    lock, _ = run(sample_hub, text)
    assert run(sample_hub, text, lock, ("me/words", "me/more")) == (lock, ())
    new = sample_hub.add_repo("me/words", {**FILES, "README.md": CARD.replace("zeta", "omega")})
    sample_hub.add_repo("me/more", {**FILES, "b.jsonl": "{}\n"})
    moved, changes = run(sample_hub, text, lock, ("me/words",))
    assert [str(change) for change in changes] == [f"me/words@main: {old[:12]} -> {new[:12]}, +omega, -zeta"]
    assert moved.find("me/more", "main") == lock.find("me/more", "main")


def test_what_the_catalog_no_longer_names_leaves_the_lock(sample_hub: SampleHub) -> None:
    """The lock holds what the catalog needs and nothing else."""
    sample_hub.add_repo("me/words", FILES)
    lock, _ = run(sample_hub, "datasets: [{repo: me/words}]")
    empty, changes = run(sample_hub, "datasets: []", lock)
    assert empty == Lock()
    assert [change.after for change in changes] == [None]


def test_every_failure_is_reported_and_there_is_no_new_lock(sample_hub: SampleHub) -> None:
    """A missing repo and a failing one are both named, whatever else went well."""
    sample_hub.add_repo("me/words", FILES)
    sample_hub.add_repo("me/ill", FILES)
    sample_hub.set_faults(Fault("status", status=500, path="*me/ill*"))
    with pytest.raises(CatalogError) as raised:
        run(sample_hub, "datasets: [{repo: me/words}, {repo: me/ill}, {repo: me/gone, revision: v2}]")
    assert [line.split(":")[0] for line in raised.value.errors] == ["me/gone@v2", "me/ill@main"]


def test_a_metadata_file_that_is_not_what_the_listing_says_fails(sample_hub: SampleHub) -> None:
    """Configs are never read from damaged bytes."""
    sample_hub.add_repo("me/words", FILES)
    sample_hub.set_faults(Fault("flip", path="me/words/README.md", offset=20))
    with pytest.raises(CatalogError, match=r"README\.md arrived damaged"):
        run(sample_hub, "datasets: [{repo: me/words}]")


def test_unknown_configs_and_updates_name_the_nearest(sample_hub: SampleHub) -> None:
    """A slip in `configs` or `--update` is an error with the likely word."""
    sample_hub.add_repo("me/words", FILES)
    with pytest.raises(CatalogError, match=r"has no config 'alfa'; did you mean 'alpha'\?"):
        run(sample_hub, "datasets: [{repo: me/words, configs: [alfa]}]")
    with pytest.raises(CatalogError, match=r"--update me/word: no entry .* did you mean me/words"):
        run(sample_hub, "datasets: [{repo: me/words}]", update=("me/word",))
    lock, _ = run(sample_hub, "datasets: [{repo: me/words}]")
    with pytest.raises(CatalogError, match="--update me/words looks at its newest commit"):
        run(sample_hub, "datasets: [{repo: me/words, configs: [omega]}]", lock)
