"""The whole examination, in the order in which things depend on each other.

Invariant: one thing that cannot be looked at is a finding and keeps nothing else from being looked at.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import yaml
from dagster import DagsterInstance
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from hfassets.catalog.accepted import accept
from hfassets.catalog.load import catalog_path
from hfassets.catalog.models import Catalog
from hfassets.doctor.cluster import examine_cluster, examine_from_a_node
from hfassets.doctor.credentials import examine_literals, examine_secret_file, examine_token, secret_files
from hfassets.doctor.deployment import environment_problem, examine_instance, uses_sqlite
from hfassets.doctor.finding import Finding, Level, ok, problem
from hfassets.doctor.places import Place, examine_place
from hfassets.errors import HfassetsError
from hfassets.report.units import counted
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.launcher import SlurmRunLauncher
from hfassets.slurm.settings import Settings


def examine_all(*, fix: bool, wait_s: float, say: Callable[[str], None]) -> Iterator[Finding]:
    """Every finding about the deployment that the environment names.

    `fix` puts right what can be; a compute node is waited for at most `wait_s` seconds (0: none is asked); `say` gets
    lines of progress.
    """
    with ExitStack() as exits:
        instance, findings = _instance(exits)
        yield from findings
        settings: Settings | None = None
        if instance is not None:
            settings = _launcher_settings(instance)
            yield from _guarded("Dagster", lambda: examine_instance(instance, fix=fix))
            file = Path(instance.root_directory) / "dagster.yaml"
            if file.exists():
                yield from examine_literals(yaml.safe_load(file.read_text()), file)
        catalog, findings = _catalog()
        yield from findings
        places = _places(instance, settings, catalog)
        for place in places:
            yield from _guarded(place.name, lambda place=place: examine_place(place))  # type: ignore[misc]
        yield from examine_token(catalog.hub.endpoint if catalog else None, os.environ)
        for name, path in secret_files(os.environ, settings.site.secrets_file if settings else None):
            yield from examine_secret_file(name, path, fix=fix)
        if settings is not None:
            yield from _cluster(settings, places, instance, wait_s, say)


def _instance(exits: ExitStack) -> tuple[DagsterInstance | None, list[Finding]]:
    wrong = environment_problem(os.environ)
    if wrong is not None:
        return None, [wrong]
    try:
        return exits.enter_context(DagsterInstance.get()), []
    except Exception as error:
        # Whatever dagster.yaml or its database raises is what is to be told.
        text = " ".join(str(error).split()) or type(error).__name__
        home = os.environ["DAGSTER_HOME"]
        return None, [
            problem(f"DAGSTER_HOME {home}", text[:300], f"correct {home}/dagster.yaml, or start its database")
        ]


def _launcher_settings(instance: DagsterInstance) -> Settings | None:
    launcher = instance.run_launcher
    return launcher.settings if isinstance(launcher, SlurmRunLauncher) else None


def _catalog() -> tuple[Catalog | None, list[Finding]]:
    try:
        path = catalog_path()
        accepted = accept(path, record=False)
    except HfassetsError as error:
        return None, [problem("catalog", str(error), "`hfassets catalog init` writes one to begin with")]
    if accepted.error is not None:
        wrong = problem(f"catalog {path}", accepted.error, "correct it; the last accepted one stays in force")
        return accepted.catalog, [wrong]
    return accepted.catalog, [ok(f"catalog {path}", counted(len(accepted.require().datasets), "dataset"))]


def _places(instance: DagsterInstance | None, settings: Settings | None, catalog: Catalog | None) -> list[Place]:
    places: list[Place] = []
    if instance is not None:
        places.append(Place("DAGSTER_HOME", Path(instance.root_directory)))
        logs = instance.compute_log_manager
        if isinstance(logs, LocalComputeLogManager):
            places.append(Place("compute_logs", Path(logs._base_dir)))
    if settings is not None:
        places.append(Place("run_launcher.folder", settings.folder))
    if catalog is not None:
        storage = catalog.storage
        places += [
            Place("storage.output_root", storage.output_root),
            Place("storage.state_dir", storage.state_dir),
            Place("storage.hub_cache", storage.hub_cache),
            Place("storage.datasets_cache", storage.datasets_cache),
        ]
    return places


def _cluster(
    settings: Settings,
    places: list[Place],
    instance: DagsterInstance | None,
    wait_s: float,
    say: Callable[[str], None],
) -> Iterator[Finding]:
    findings = list(_guarded("SLURM", lambda: examine_cluster(settings)))
    yield from findings
    if wait_s <= 0 or any(found.level is Level.PROBLEM and found.topic == "SLURM" for found in findings):
        return
    home = Path(instance.root_directory) if instance is not None else None
    catalog = os.environ.get("HFASSETS_CATALOG")
    yield from _guarded(
        "a job",
        lambda: examine_from_a_node(
            settings,
            places,
            python=sys.executable,
            catalog=Path(catalog) if catalog else None,
            dagster_home=home,
            environment=os.environ,
            wait_s=wait_s,
            say=say,
        ),
    )
    if instance is not None and uses_sqlite(instance):
        yield from _other_hosts(settings)


def _other_hosts(settings: Settings) -> Iterator[Finding]:
    hosts = SlurmClient(settings.cluster).node_hosts()
    others = sorted(host for host in hosts if host.split(".")[0] != socket.gethostname().split(".")[0])
    if others:
        yield problem(
            "database",
            f"SQLite, and jobs run on other hosts ({', '.join(others[:5])}{' …' if len(others) > 5 else ''}), which"
            " cannot write to it safely",
            "use Postgres: slurm/dagster.slurm.yaml",
        )


def _guarded(topic: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except Exception as error:
        # An examination that dies half-way would hide the rest of what is wrong.
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        yield problem(topic, f"could not be examined: {type(error).__name__}: {text[:200]}", "this is worth a report")
