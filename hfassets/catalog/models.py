"""The catalog's models: what `catalog.yaml` may say.

Invariant: a `Catalog` that exists is usable as it stands: every path is absolute, every repo id, revision and name is
checked, every size is a number of bytes. Messages of the validators complete the sentence "<key> ...".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from hfassets.errors import HubError
from hfassets.hub.layout import default_datasets_cache, default_hub_cache
from hfassets.hub.names import check_repo_id, check_revision
from hfassets.slurm.errors import ResourceError
from hfassets.slurm.resources import parse_resources

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_NAME = 200

# Dagster refuses "..." in partition keys (it separates the ends of a range); the characters of NAME_REFUSED are those
# that its partition fields read as syntax, and ":" separates name and config in a key.
RANGE = "..."
NAME_REFUSED = ",:*\"'[]|\\"


def is_plain(text: str) -> bool:
    """Not empty, no space around it, no control characters (Unicode's line separators included)."""
    return bool(text) and text == text.strip() and text.isprintable()


def _text(value: str) -> str:
    if not is_plain(value):
        raise ValueError("must be plain text, without control characters or space around it")
    return value


def _name(value: str) -> str:
    bad = RANGE in value or any(character in NAME_REFUSED for character in value)
    if len(value) > MAX_NAME or bad or not is_plain(value):
        refused = " ".join(NAME_REFUSED)
        raise ValueError(f"must be plain text of at most {MAX_NAME} characters without {RANGE} and any of {refused}")
    return value


def _config(value: str) -> str:
    if RANGE in value:
        raise ValueError(f"must not contain {RANGE}, which separates the ends of a partition range")
    return _text(value)


def _repo(value: str) -> str:
    try:
        return _text(check_repo_id(value))
    except (HubError, ValueError):
        raise ValueError("must be a Hub repo id like owner/name") from None


def _revision(value: str) -> str:
    try:
        return _text(check_revision(value))
    except (HubError, ValueError):
        raise ValueError("must be a branch, a tag or a commit") from None


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({value for value in values if values.count(value) > 1}) if len(set(values)) < len(values) else []
    if twice:
        raise ValueError(f"must name each once; twice: {', '.join(twice)}")
    return values


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("must name at least one; leave the key out to take all")
    return values


def _absolute(value: Any, info: ValidationInfo) -> Any:
    """A path relative to the catalog's folder, which the validation context carries as `folder`."""
    if not isinstance(value, str):
        return value
    if not is_plain(value):
        raise ValueError("must be a path")
    try:
        return (info.context or {}).get("folder", Path.cwd()) / Path(value).expanduser()
    except RuntimeError:
        raise ValueError("must be a path in a home folder that exists") from None


def _octal(value: Any) -> Any:
    if isinstance(value, str):
        if not re.fullmatch(r"(0o)?[0-7]{1,4}", value) or int(value, 8) > 0o777:
            raise ValueError("must be an octal file mode mask like 0002")
        return int(value, 8)
    return value


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be an address like {DEFAULT_ENDPOINT}")
    if parts.username or parts.password:
        raise ValueError("must not carry a password; a token is given by token_env")
    return value.rstrip("/")


def _variable(value: str) -> str:
    if value.startswith("hf_"):
        raise ValueError("looks like a token itself; it must be the name of the environment variable that holds it")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("must be the name of an environment variable like HF_TOKEN")
    return value


def _positive(value: ByteSize) -> ByteSize:
    if value < 1:
        raise ValueError("must be a size of at least 1 byte like 200GB or 1.5TB")
    return value


Text = Annotated[str, AfterValidator(_text)]
AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
Bytes = Annotated[ByteSize, AfterValidator(_positive)]
Globs = tuple[Text, ...]


class Model(BaseModel):
    """Frozen, and nothing that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Storage(Model):
    """Where things live. Paths are absolute; in the file they are relative to the catalog's folder.

    `umask` applies to all that is written, locks and temporary files included; None leaves the process's own.
    """

    hub_cache: AbsolutePath
    datasets_cache: AbsolutePath
    output_root: AbsolutePath
    state_dir: AbsolutePath
    umask: Annotated[int, BeforeValidator(_octal)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        root = data.get("output_root", "./data")
        return {
            "hub_cache": str(default_hub_cache().absolute()),
            "datasets_cache": str(default_datasets_cache().absolute()),
            "output_root": root,
            "state_dir": f"{root}/.hfassets",
            **data,
        }


class HubSettings(Model):
    """How the Hub is asked. `backoff_factor` is in seconds, doubled with each of `max_retries` retries."""

    endpoint: Annotated[str, AfterValidator(_endpoint)] = Field(
        default_factory=lambda: os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT, validate_default=True
    )
    max_retries: int = Field(default=5, ge=0, le=100)
    backoff_factor: float = Field(default=1.0, ge=0, le=3600)


class VerifySettings(Model):
    """How often what lies on disk is read again, and how much is spent on it.

    Each partition is verified every `reverify_every_days`; bytes proven less than `max_age_days` ago and unchanged on
    disk since are not read again for that. One tick of the re-verification sensor asks for at most
    `reverify_max_partitions_per_tick` partitions; repairs fetch at most `repair_max_bytes_per_day` bytes a day (UTC).
    """

    max_age_days: float = Field(default=30.0, gt=0, le=36500)
    reverify_every_days: float = Field(default=7.0, gt=0, le=36500)
    repair_max_bytes_per_day: Bytes = ByteSize(200 * 10**9)
    reverify_max_partitions_per_tick: int = Field(default=20, ge=1, le=10_000)


def _slurm_fields(value: Any) -> dict[str, str]:
    """A request of SLURM resources as written, once it is known to be one."""
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of fields like {cpus: 8, memory: 32G, time: 12:00:00}")
    fields = {str(name): str(text) for name, text in value.items()}
    try:
        parse_resources({name: text for name, text in fields.items() if name != "profile"}, "")
    except ResourceError as error:
        raise ValueError(f"cannot be asked of SLURM: {error}") from None
    return fields


SlurmFields = Annotated[Mapping[str, str], BeforeValidator(_slurm_fields)]
HeavyAsset = Literal["prepared_dataset"]


class Dataset(Model):
    """One dataset of the Hub. No `configs` = all that were detected at `hfassets catalog sync`.

    `files`: `config` takes the files of a config only, `all` the whole repo for each (rows that point at files).
    `max_bytes` bounds what one partition may fetch. `token_env` is the name of an environment variable. `slurm`: what
    its heavy runs ask of SLURM, over what the catalog's `slurm` section says for the asset.
    """

    name: Annotated[str, AfterValidator(_name)]
    repo: Annotated[str, AfterValidator(_repo)]
    revision: Annotated[str, AfterValidator(_revision)] = "main"
    configs: (
        Annotated[tuple[Annotated[str, AfterValidator(_config)], ...], AfterValidator(_unique), AfterValidator(_some)]
        | None
    ) = None
    include: Globs = ()
    exclude: Globs = ()
    files: Literal["config", "all"] = "config"
    transfer: Literal["http", "hf_transfer", "xet"] = "http"
    max_bytes: Bytes | None = None
    partitions_per_run: int = Field(default=1, ge=1, le=10_000)
    token_env: Annotated[str, AfterValidator(_variable)] | None = None
    num_proc: int | None = Field(default=None, ge=1, le=4096)
    slurm: SlurmFields = {}

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        return {"name": data["repo"], **data} if isinstance(data, dict) and "repo" in data else data


class Catalog(Model):
    """All that a `catalog.yaml` says, in its order."""

    storage: Storage
    hub: HubSettings
    verify: VerifySettings
    slurm: Mapping[HeavyAsset, SlurmFields] = {}
    datasets: tuple[Dataset, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, data: Any) -> Any:
        return {"storage": {}, "hub": {}, "verify": {}, **data} if isinstance(data, dict) else data
