"""A job that waited over an upgrade or a change of the catalog works by what it was launched for, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import orjson
import pytest

from hfassets.catalog import accept
from hfassets.defs.expected import expectation, refuse_changed
from hfassets.errors import DataError
from hfassets.slurm.tags import EXPECTS_TAG
from hfassets.slurm.tags import expectation as kept
from hfassets_tests.defs.conftest import Site

pytestmark = pytest.mark.dagster

KEY = "beans:default"


@dataclass
class Run:
    """As much of a run as counts."""

    run_id: str = "mine"
    tags: dict[str, str] = field(default_factory=dict)


def launched(site: Site, **changes: Any) -> Any:
    """A run that was launched by the catalog as it is; `changes` to what is kept of that."""
    said = orjson.loads(expectation(site.location.accepted))
    return Run(tags=kept(Run(), orjson.dumps({**said, **changes}).decode()))


def test_what_stayed_the_same_is_worked_on(site: Site) -> None:
    """Also when another entry of the catalog has changed, and for a run that kept nothing or only a parent's words."""
    run = launched(site)
    refuse_changed(run, site.location.accepted, KEY)
    site.catalog.write_text(site.catalog.read_text().replace("- name: duorc", "- name: duorc\n    num_proc: 2"))
    accepted = accept(site.catalog)
    assert accepted.sha != site.location.accepted.sha
    refuse_changed(run, accepted, KEY)
    refuse_changed(Run(), accepted, "duorc:ParaphraseRC")
    refuse_changed(Run("child", dict(run.tags)), accepted, "duorc:ParaphraseRC")
    with pytest.raises(DataError, match=r"duorc:ParaphraseRC was changed in the catalog .* launch it again"):
        refuse_changed(run, accepted, "duorc:ParaphraseRC")


def test_what_was_taken_out_of_the_catalog_is_refused(site: Site) -> None:
    """Its key lives on as a retired one."""
    run = launched(site)
    text = site.catalog.read_text()
    site.catalog.write_text(text[: text.index("  - name: beans")])
    with pytest.raises(DataError, match=f"{KEY} was changed"):
        refuse_changed(run, accept(site.catalog), KEY)


def test_other_formats_are_refused(site: Site) -> None:
    """In one line that says which, and what to do."""
    formats = orjson.loads(expectation(site.location.accepted))["formats"]
    run = launched(site, formats={**formats, "text_mds": 0})
    with pytest.raises(DataError, match=r"upgraded while this job waited, and writes text_mds .* launch it again"):
        refuse_changed(run, site.location.accepted, KEY)


def test_a_catalog_that_is_gone_is_said(site: Site) -> None:
    """What cannot be compared is not taken for the same."""
    with pytest.raises(DataError, match="cannot be read any more"):
        refuse_changed(launched(site, catalog="0" * 64), site.location.accepted, KEY)


def test_a_run_fails_with_that_line(site: Site) -> None:
    """Before anything is read."""
    said = orjson.loads(expectation(site.location.accepted))
    words = orjson.dumps({**said, "formats": {**said["formats"], "hub_snapshot": 0}}).decode()
    job = site.definitions.resolve_implicit_global_asset_job_def()
    run_id = "00000000-0000-4000-8000-000000000000"
    result = job.execute_in_process(
        instance=site.instance,
        asset_selection=[dg.AssetKey("hub_snapshot")],
        partition_key=KEY,
        tags={EXPECTS_TAG: kept(Run(run_id), words)[EXPECTS_TAG]},
        run_id=run_id,
        raise_on_error=False,
    )
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert "launch it again" in str(failure.user_failure_data.description)
