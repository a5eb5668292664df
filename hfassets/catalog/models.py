"""The catalog's models: what `catalog.yaml` may say.

Invariant: a `Catalog` that exists is usable as it stands: every path is absolute, every repo id, revision and name is
checked, every size is a number of bytes. Messages of the validators complete the sentence "<key> ...".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ByteSize, Field, model_validator

from hfassets.catalog.fields import (
    DEFAULT_ENDPOINT,
    AbsolutePath,
    AssetSlurmFields,
    Bytes,
    Configs,
    Endpoint,
    Globs,
    Model,
    Name,
    Octal,
    Repo,
    Revision,
    SlurmFields,
    Text,
    Variable,
)
from hfassets.catalog.mixes import Mix, RepoPin
from hfassets.catalog.recipes import ExtensionRecipe, Mixture, Recipe, ValidationSection
from hfassets.catalog.shard_sets import ShardSet
from hfassets.catalog.staging import StagingRecipe
from hfassets.hub.layout import default_datasets_cache, default_hub_cache


class Storage(Model):
    """Where things live. Paths are absolute; in the file they are relative to the catalog's folder.

    `umask` applies to all that is written, locks and temporary files included; None leaves the process's own.
    `purge_after_days`: the site deletes what was not used for so long; None = nothing is purged.
    """

    hub_cache: AbsolutePath
    datasets_cache: AbsolutePath
    output_root: AbsolutePath
    state_dir: AbsolutePath
    umask: Octal | None = None
    purge_after_days: float | None = Field(default=None, gt=0, le=36500)

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

    endpoint: Endpoint = Field(
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


HeavyAsset = Literal[
    "prepared_dataset",
    "c4_shards",
    "distillation_file",
    "distillation_tokens",
    "teacher_logits",
    "text_mds",
    "tokenized_mds",
    "chunked_mds",
    "sampled_mds",
    "training_mds",
    "context_extension_mds",
    "preprocessed_dataset",
]
WITHOUT_PARTS = ("prepared_dataset", "distillation_file")
"""Each partition of these is made in one go: there is nothing to give to the tasks of an array."""


def _with_parts(value: Mapping[HeavyAsset, Mapping[str, str]]) -> Mapping[HeavyAsset, Mapping[str, str]]:
    for asset, fields in value.items():
        if fields.get("mode") == "parts" and asset in WITHOUT_PARTS:
            raise ValueError(f"{asset} cannot have mode: parts, it is made in one go; use mode: run")
    return value


class Dataset(Model):
    """One dataset of the Hub. No `configs` = all that were detected at `hfassets catalog sync`.

    `files`: `config` takes the files of a config only, `all` the whole repo for each (rows that point at files).
    `max_bytes` bounds what one partition may fetch. `token_env` is the name of an environment variable. `slurm`: what
    its heavy runs ask of SLURM, over what the catalog's `slurm` section says for the asset.
    """

    name: Name
    repo: Repo
    revision: Revision = "main"
    configs: Configs | None = None
    include: Globs = ()
    exclude: Globs = ()
    files: Literal["config", "all"] = "config"
    transfer: Literal["http", "hf_transfer", "xet"] = "http"
    max_bytes: Bytes | None = None
    partitions_per_run: int = Field(default=1, ge=1, le=10_000)
    token_env: Variable | None = None
    num_proc: int | None = Field(default=None, ge=1, le=4096)
    slurm: SlurmFields = Field(default_factory=dict)

    @property
    def repo_type(self) -> str:
        """As the Hub has it."""
        return "dataset"

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        return {"name": data["repo"], **data} if isinstance(data, dict) and "repo" in data else data


class S3Section(Model):
    """Which S3 destinations like s3://bucket/prefix mean, beyond what boto3 finds in the environment.

    `profile` is one of ~/.aws; keys never stand in a catalog.
    """

    endpoint_url: Endpoint | None = None
    region: Text | None = None
    profile: Text | None = None


_SECTIONS = ("storage", "hub", "verify", "s3", "validation")


class Catalog(Model):
    """All that a `catalog.yaml` says, in its order."""

    storage: Storage
    hub: HubSettings
    verify: VerifySettings
    slurm: Annotated[Mapping[HeavyAsset, AssetSlurmFields], AfterValidator(_with_parts)] = {}
    s3: S3Section
    datasets: tuple[Dataset, ...] = ()
    c4: tuple[ShardSet, ...] = ()
    distillation: tuple[Mix, ...] = ()
    validation: ValidationSection
    mds: tuple[Recipe, ...] = ()
    mixtures: tuple[Mixture, ...] = ()
    extensions: tuple[ExtensionRecipe, ...] = ()
    staging: tuple[StagingRecipe, ...] = ()

    @property
    def pinned(self) -> tuple[Dataset | ShardSet | RepoPin, ...]:
        """Every entry whose repo the lock pins to a commit, in order."""
        mixes = (pin for mix in self.distillation for pin in mix.pins)
        recipes = [*(recipe.pins for recipe in self.mds), *(recipe.pins for recipe in self.staging)]
        return (*self.datasets, *self.c4, *mixes, *(pin for pins in recipes for pin in pins))

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, data: Any) -> Any:
        return {**{key: {} for key in _SECTIONS}, **data} if isinstance(data, dict) else data
