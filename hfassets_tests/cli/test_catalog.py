"""`hfassets catalog ...` as a user meets it: output, exit codes, files."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest

from hfassets.catalog.lock import lock_path
from hfassets.cli.catalog import targeted_keys
from hfassets.cli.main import main
from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_server import SampleHub

pytestmark = pytest.mark.hub

Run = Callable[..., tuple[int, str, str]]
FILES = {"data.jsonl": '{"a": 1}\n'}


@pytest.fixture
def project(tmp_path: Path, sample_hub: SampleHub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with the sample Hub as the Hub."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_ENDPOINT", sample_hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    sample_hub.add_repo("me/words", FILES)
    return folder


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: exit code, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["catalog", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_from_nothing_to_a_table(run: Run, project: Path) -> None:
    """init, check, sync, show; a second init is refused."""
    code, _, err = run("check")
    assert (code, "hfassets catalog init" in err) == (1, True)
    assert run("init")[0] == 0
    assert run("init")[0] == 2
    assert run("init", "--force")[0] == 0
    (project / "catalog.yaml").write_text("hub: {max_retries: 0}\ndatasets:\n  - repo: me/words\n")
    code, out, err = run("check")
    assert (code, out.strip()) == (0, f"{project}/catalog.yaml: valid, 1 datasets, 0 partitions")
    assert "warning: me/words: not synced" in err
    assert run("show")[1].splitlines()[1].split() == [
        "me/words",
        "me/words",
        "main",
        "-",
        "-",
        "-",
        "no",
    ]
    code, out, _ = run("sync")
    assert code == 0
    assert out.startswith("me/words@main: pinned at ")
    code, out, _ = run("show", "--json")
    (row,) = json.loads(out)["rows"]
    assert (row["key"], row["synced"], row["retired"]) == ("me/words:default", True, False)
    assert run("sync")[1].strip() == "catalog.lock: up to date, 1 repos"


def test_check_gives_a_line_for_each_mistake(run: Run, project: Path) -> None:
    """Exit 1, nothing written, and what stays in force is said; --json carries the same."""
    (project / "catalog.yaml").write_text("datasets:\n  - repo: me/words\n    typo: 1\n  - repo: a b\n")
    code, out, err = run("check")
    assert (code, out) == (1, "")
    assert "hfassets: error: catalog.yaml:3 datasets[0].typo: unknown key" in err
    assert "hfassets: error: catalog.yaml:4 datasets[1].repo: must be a Hub repo id" in err
    assert "no catalog is in force" in err
    assert [path.name for path in project.iterdir()] == ["catalog.yaml"]
    code, out, _ = run("check", "--json")
    document = json.loads(out)
    assert (code, document["valid"], len(document["errors"])) == (1, False, 2)


def test_a_failed_enumeration_leaves_the_lock_byte_for_byte(run: Run, project: Path, sample_hub: SampleHub) -> None:
    """Exit 1 with each reason, although another repo could be pinned."""
    catalog = project / "catalog.yaml"
    catalog.write_text("hub: {max_retries: 0}\ndatasets:\n  - repo: me/words\n")
    assert run("sync")[0] == 0
    before = lock_path(catalog).read_bytes()
    catalog.write_text(catalog.read_text() + "  - repo: me/ill\n  - repo: me/new\n  - repo: me/gone\n")
    sample_hub.add_repo("me/ill", FILES)
    sample_hub.add_repo("me/new", FILES)
    sample_hub.set_faults(Fault("status", status=503, path="*me/ill*"))
    code, out, err = run("sync")
    assert (code, out) == (1, "")
    assert "me/ill@main" in err
    assert "me/gone@main" in err
    assert lock_path(catalog).read_bytes() == before


def test_prune_asks_dagster_who_works_on_what(
    run: Run, project: Path, tmp_path: Path, sample_hub: SampleHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused while a run in the queue targets a retired key; done once that has ended."""
    catalog = project / "catalog.yaml"
    sample_hub.add_repo("me/more", FILES)
    catalog.write_text("datasets:\n  - repo: me/words\n  - repo: me/more\n")
    assert run("sync")[0] == 0
    catalog.write_text("datasets:\n  - repo: me/more\n")
    assert run("sync")[0] == 0
    assert "me/words:default: retired" in run("check")[2]
    code, _, err = run("prune")
    assert (code, "DAGSTER_HOME" in err) == (2, True)
    home = tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        tags = {"dagster/partition": "me/words:default"}
        queued = instance.create_run_for_job(
            dg.define_asset_job("job").resolve(asset_graph=_graph("me/words:default")), tags=tags
        )
        code, _, err = run("prune")
        assert code == 1
        assert f"me/words:default is targeted by run {queued.run_id}" in err
        instance.report_run_canceled(queued)
        assert run("prune", "--dry-run")[1].strip() == "me/words:default would be removed"
        assert run("prune")[1].strip() == "me/words:default removed"
    assert run("prune")[1].strip() == "there are no retired keys"


def _graph(*keys: str):  # type: ignore[no-untyped-def]
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(list(keys)))
    def thing() -> None: ...

    return dg.Definitions(assets=[thing]).resolve_asset_graph()


def test_ranges_and_backfills_target_all_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range tag holds every key between its ends, a backfill in progress every key of its subset."""
    from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
    from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

    home = tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    order = ["a:1", "b:1", "c:1", "d:1", "e:1"]
    graph = _graph(*order)
    with dg.DagsterInstance.get() as instance:
        tags = {"dagster/asset_partition_range_start": "b:1", "dagster/asset_partition_range_end": "d:1"}
        run = instance.create_run_for_job(dg.define_asset_job("job").resolve(asset_graph=graph), tags=tags)
        for name, status, keys in (
            ("one", BulkActionStatus.REQUESTED, ["d:1", "e:1"]),
            ("two", BulkActionStatus.COMPLETED_SUCCESS, ["a:1"]),
        ):
            backfill = PartitionBackfill.from_asset_partitions(
                backfill_id=name,
                asset_graph=graph,
                partition_names=keys,
                asset_selection=[dg.AssetKey("thing")],
                backfill_timestamp=0.0,
                tags={},
                dynamic_partitions_store=instance,
                all_partitions=False,
                title=None,
                description=None,
                run_config=None,
            )
            assert isinstance(backfill.asset_backfill_data.target_subset, AssetGraphSubset)
            instance.add_backfill(backfill.with_status(status))
        held = targeted_keys(order)
        mine = f"run {run.run_id} (NOT_STARTED)"
        assert held == {
            "b:1": (mine,),
            "c:1": (mine,),
            "d:1": (mine, "backfill one (REQUESTED)"),
            "e:1": ("backfill one (REQUESTED)",),
        }


@pytest.fixture
def webserver() -> Iterator[HTTPServer]:
    """Records GraphQL posts and answers with `reply`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": {"reloadRepositoryLocation": server.reply}}).encode())  # type: ignore[attr-defined]

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.posts = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_sync_reloads_the_location(run: Run, project: Path, webserver: HTTPServer) -> None:
    """With a webserver the location is reloaded; a refusal is exit 1 and says that the lock is written."""
    (project / "catalog.yaml").write_text("datasets:\n  - repo: me/words\n")
    url = f"http://127.0.0.1:{webserver.server_port}/"
    webserver.reply = {"locationOrLoadError": {"__typename": "RepositoryLocation"}}  # type: ignore[attr-defined]
    code, _, err = run("sync", "--webserver", url)
    assert (code, "reloaded hfassets" in err) == (0, True)
    assert webserver.posts[0]["variables"] == {"name": "hfassets"}  # type: ignore[attr-defined]
    webserver.reply = {"locationOrLoadError": {"__typename": "PythonError", "message": "boom"}}  # type: ignore[attr-defined]
    code, _, err = run("sync", "--webserver", url)
    assert (code, "did not reload: boom" in err) == (1, True)
