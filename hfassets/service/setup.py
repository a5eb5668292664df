"""The files of a new DAGSTER_HOME: dagster.yaml with storage in the service's own Postgres, and where code servers are.

Invariant: a dagster.yaml that is there is its owner's and is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hfassets.errors import HfassetsError
from hfassets.service.places import Places
from hfassets.storage.atomic import write_atomic

STORAGE = ("hfassets.service.storage", "ServiceStorage")
LAUNCHER = ("hfassets.slurm", "SlurmRunLauncher")
LOCATIONS = {"hfassets": "hfassets.definitions"}
SLURM_LOCATIONS = {"slurm": "hfassets.slurm.definitions"}


def make_home(places: Places, *, slurm: bool) -> bool:
    """Write dagster.yaml unless there is one; whether it was written. `slurm`: heavy runs are to be jobs."""
    file = places.home / "dagster.yaml"
    places.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if file.exists():
        return False
    text = (resources.files("hfassets.service") / "dagster.yaml").read_text()
    more = (resources.files("hfassets.service") / "dagster.slurm.yaml").read_text() if slurm else _LOCAL
    write_atomic(
        file, (text + more).replace("FOLDER", str(places.folder)).replace("DAGSTER_HOME", str(places.home)).encode()
    )
    return True


_LOCAL = """
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
  max_resume_run_attempts: 0
  poll_interval_seconds: 30
  free_slots_after_run_end_seconds: 300
"""


def read_config(places: Places) -> Mapping[str, Any]:
    """dagster.yaml; raises HfassetsError when it cannot be read."""
    file = places.home / "dagster.yaml"
    try:
        document = yaml.safe_load(file.read_text())
    except OSError as error:
        raise HfassetsError(f"{file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise HfassetsError(f"{file}: not YAML: {' '.join(str(error).split())[:200]}") from None
    return document if isinstance(document, dict) else {}


def own_database(config: Mapping[str, Any]) -> Path | None:
    """The folder of the service's Postgres, where storage is in it; None where storage is elsewhere."""
    custom = (config.get("storage") or {}).get("custom") or {}
    if (custom.get("module"), custom.get("class")) != STORAGE:
        return None
    return Path(str((custom.get("config") or {}).get("folder")))


def has_launcher(config: Mapping[str, Any]) -> bool:
    """Whether heavy runs are SLURM jobs."""
    launcher = config.get("run_launcher") or {}
    return (launcher.get("module"), launcher.get("class")) == LAUNCHER


def locations(config: Mapping[str, Any]) -> dict[str, str]:
    """The code locations (name → module) that the service runs."""
    return {**LOCATIONS, **(SLURM_LOCATIONS if has_launcher(config) else {})}


def write_workspace(places: Places, sockets: Mapping[str, Path]) -> None:
    """Tell web server and daemon where the code servers are."""
    servers = [{"grpc_server": {"socket": str(path), "location_name": name}} for name, path in sockets.items()]
    write_atomic(places.workspace, yaml.safe_dump({"load_from": servers}).encode())
