"""The launcher's config, as `run_launcher: config:` in dagster.yaml gives it. Pure but for reading the site profile.

Invariant: settings that exist are complete and checked; what the site profile (a file) says is the base, and what
stands in dagster.yaml itself wins over it, field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfassets.slurm.errors import SlurmError
from hfassets.slurm.site import Site, load_site, parse_site

ROUTES = ("heavy", "all")
# What a job may need of the launching process's environment and which is never a secret.
EXPORTED = (
    *("LANG", "TZ", "PYTHONPATH", "SCRATCH", "SLURM_CONF"),
    *("HFASSETS_CATALOG", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT"),
    *("HF_TOKEN_PATH", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"),
    *("DAGSTER_PG_HOST", "DAGSTER_PG_PORT", "DAGSTER_PG_USER", "DAGSTER_PG_DATABASE", "DAGSTER_LOG_FOLDER"),
    *(
        "DAGSTER_LOG_BUCKET",
        "PGPASSFILE",
        "AWS_PROFILE",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
    ),
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""What tells the Hugging Face libraries that there is no network (their documentation on offline mode)."""


@dataclass(frozen=True, slots=True)
class Notices:
    """Where failed runs are told of."""

    file: Path | None = None
    webhook: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the launcher and the reconciler need to know.

    `folder` is shared with the compute nodes. `submissions_per_second` bounds sbatch calls of a host; `max_jobs` the
    jobs of this instance in the queue at once (None: as many as the cluster takes).
    """

    route: Literal["heavy", "all"]
    folder: Path
    cluster: str | None
    site: Site
    submissions_per_second: float
    max_jobs: int | None
    notices: Notices = Notices()

    @property
    def exported(self) -> tuple[str, ...]:
        """Names of variables that a job gets from the launching process, where they are set there."""
        return tuple(dict.fromkeys((*EXPORTED, *self.site.export)))


def references(document: Any) -> set[str]:
    """Names of the variables that a config in Dagster's form refers to by `{env: NAME}`."""
    if isinstance(document, Mapping):
        if len(document) == 1 and isinstance(name := document.get("env"), str):
            return {name}
        return set().union(*(references(value) for value in document.values()))
    if isinstance(document, list):
        return set().union(*(references(value) for value in document))
    return set()


def parse_settings(config: Mapping[str, Any], home: Path) -> Settings:
    """Settings from the launcher's config; `home` is DAGSTER_HOME, below which the folder is unless told otherwise.

    Raises SlurmError: one line with every mistake.
    """
    own = dict(config)
    _refuse_numbers(own)
    route = own.pop("route", "heavy")
    if route not in ROUTES:
        raise SlurmError(f"run_launcher: route must be one of {', '.join(ROUTES)}, not {route!r}")
    folder = Path(own.pop("folder", None) or home / "slurm").expanduser()
    if not folder.is_absolute():
        raise SlurmError(f"run_launcher: folder must be an absolute path that compute nodes see too, not {folder}")
    cluster = own.pop("cluster", None)
    rate = own.pop("submissions_per_second", None)
    most = own.pop("max_jobs", None)
    if (rate is not None and rate <= 0) or (most is not None and most < 1):
        raise SlurmError("run_launcher: submissions_per_second and max_jobs must be greater than 0")
    told = own.pop("notices", None) or {}
    notices = Notices(Path(told["file"]).expanduser() if told.get("file") else None, told.get("webhook"))
    file = own.pop("site", None)
    base = load_site(Path(file).expanduser()) if file else None
    site = parse_site({name: value for name, value in own.items() if value is not None}, "run_launcher: ", base=base)
    return Settings(route, folder, cluster, site, 5.0 if rate is None else float(rate), most, notices)


def _refuse_numbers(config: Mapping[str, Any]) -> None:
    """Dagster reads its YAML as version 1.1, in which 12:00:00 without quotes is the number 43200."""
    named = {f"profiles, {name}": fields for name, fields in (config.get("profiles") or {}).items()}
    for where, fields in {"resources": config.get("resources"), **named}.items():
        if isinstance(fields, Mapping) and isinstance(fields.get("time"), int):
            raise SlurmError(
                f'run_launcher: {where}: time must stand in quotes, like "12:00:00", or YAML makes a number'
            )
