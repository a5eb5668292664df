"""What the definitions of a code location are built from: the accepted catalog and the places it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from hfassets.c4.from_catalog import shard_set_request
from hfassets.catalog import (
    Accepted,
    Catalog,
    DatasetPartition,
    MixPartition,
    MixturePartition,
    RecipePartition,
    ShardSetPartition,
    StagingPartition,
    VerifySettings,
    accept,
    catalog_path,
)
from hfassets.catalog.recipes import ExtensionRecipe, Mixture, Recipe
from hfassets.distillation.from_catalog import mix_run
from hfassets.errors import DataError, HfassetsError
from hfassets.mds.from_catalog import declared
from hfassets.packed.from_catalog import Students
from hfassets.staging.from_catalog import declared as declared_staging
from hfassets.storage import StateDir
from hfassets.storage.purge import days_left

DAY = 86_400.0


@dataclass(frozen=True)
class Location:
    """The accepted catalog, as definitions and runs use it. `path` is the catalog.yaml it stands for."""

    path: Path
    accepted: Accepted
    _by_key: Mapping[str, DatasetPartition] = field(init=False, repr=False, compare=False)
    _shard_sets: Mapping[str, ShardSetPartition] = field(init=False, repr=False, compare=False)
    _mix_files: Mapping[str, MixPartition] = field(init=False, repr=False, compare=False)
    _recipes: Mapping[str, RecipePartition] = field(init=False, repr=False, compare=False)
    _mixtures: Mapping[str, MixturePartition] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        datasets = {one.key: one for one in self.accepted.partitions if isinstance(one, DatasetPartition)}
        shard_sets = {one.key: one for one in self.accepted.partitions if isinstance(one, ShardSetPartition)}
        object.__setattr__(self, "_by_key", datasets)
        mix_files = {one.key: one for one in self.accepted.partitions if isinstance(one, MixPartition)}
        object.__setattr__(self, "_shard_sets", shard_sets)
        object.__setattr__(self, "_mix_files", mix_files)
        recipes = {one.key: one for one in self.accepted.partitions if isinstance(one, RecipePartition)}
        mixtures = {one.key: one for one in self.accepted.partitions if isinstance(one, MixturePartition)}
        object.__setattr__(self, "_recipes", recipes)
        object.__setattr__(self, "_mixtures", mixtures)

    @property
    def catalog(self) -> Catalog:
        """The accepted catalog."""
        return self.accepted.catalog

    @property
    def verify(self) -> VerifySettings:
        """How often to prove what lies on disk."""
        return self.catalog.verify

    @property
    def state(self) -> StateDir:
        """The state folder."""
        return StateDir(self.catalog.storage.state_dir)

    def until_purge(self, files: Iterable[Path]) -> dict[str, Any]:
        """Metadata that says how long files are safe from the site's purge; empty where nothing is purged."""
        after = self.catalog.storage.purge_after_days
        left = None if after is None else days_left(files, after)
        return {} if left is None else {"days until purge": round(left, 1)}

    @property
    def hub_cache(self) -> Path:
        """The Hub cache."""
        return self.catalog.storage.hub_cache

    @property
    def umask(self) -> int | None:
        """The file mode mask of runs; None = the process's own."""
        return self.catalog.storage.umask

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Every dataset partition: those of the catalog, then those removed from it and not yet pruned."""
        return tuple(self._by_key)

    @cached_property
    def commits(self) -> Mapping[str, str]:
        """The pinned commit of each partition that the catalog has now."""
        return {key: partition.commit for key, partition in self._by_key.items() if not partition.retired}

    @cached_property
    def dataset_configs(self) -> dg.StaticPartitionsDefinition:
        """The one partitions definition of the hub chain."""
        return dg.StaticPartitionsDefinition(list(self.keys))

    @cached_property
    def shard_sets(self) -> dg.StaticPartitionsDefinition:
        """The partitions definition of C4 shard sets."""
        return dg.StaticPartitionsDefinition(list(self._shard_sets))

    @cached_property
    def shard_set_versions(self) -> Mapping[str, str]:
        """The fingerprint that each shard set of the catalog has now."""
        return {
            key: shard_set_request(self.catalog, one.shard_set, one.commit).fingerprint
            for key, one in self._shard_sets.items()
            if not one.retired
        }

    def shard_set(self, key: str) -> ShardSetPartition:
        """What a key of a shard set stands for; raises as `partition` does."""
        self.accepted.require()
        if key not in self._shard_sets:
            raise DataError(f"{key} is not in {self.path}; reload the code location to see what is")
        return self._shard_sets[key]

    @cached_property
    def mix_files(self) -> dg.StaticPartitionsDefinition:
        """The partitions definition of the files of distillation mixes."""
        return dg.StaticPartitionsDefinition(list(self._mix_files))

    @cached_property
    def mix_of(self) -> Mapping[str, str]:
        """The mix of each of these files."""
        return {key: one.mix.name for key, one in self._mix_files.items()}

    @cached_property
    def mixes(self) -> dg.StaticPartitionsDefinition:
        """The partitions definition of distillation mixes."""
        return dg.StaticPartitionsDefinition(list(dict.fromkeys(self.mix_of.values())))

    @cached_property
    def mix_file_versions(self) -> Mapping[str, str]:
        """What names each file as the catalog has it now."""
        found: dict[str, str] = {}
        for key, one in self._mix_files.items():
            # A mapper of the user's own may be gone since: then its files wait, and the location loads all the same.
            with suppress(HfassetsError):
                if not one.retired:
                    run = mix_run(self.catalog, one.mix, one.commits, one.tokenizer_commit)
                    found[key] = run.declared(one.source)
        return found

    @cached_property
    def token_files(self) -> dg.StaticPartitionsDefinition:
        """The partitions definition of packed rows: the files of mixes that have a student."""
        return dg.StaticPartitionsDefinition(
            [key for key, one in self._mix_files.items() if one.mix.tokens is not None]
        )

    @cached_property
    def token_versions(self) -> Mapping[str, str]:
        """What names the packed rows of each file as the catalog has it now."""
        students, found = Students(self.catalog), {}
        for key in self.token_files.get_partition_keys():
            with suppress(HfassetsError):
                if not (one := self._mix_files[key]).retired:
                    found[key] = students.declared_tokens(one)
        return found

    @cached_property
    def teacher_files(self) -> dg.StaticPartitionsDefinition:
        """The partitions definition of what teachers say: the files of mixes that have one."""
        return dg.StaticPartitionsDefinition([key for key, one in self._mix_files.items() if one.mix.teacher])

    @cached_property
    def teacher_mixes(self) -> dg.StaticPartitionsDefinition:
        """The partitions definition of teachers: mixes that have one."""
        return dg.StaticPartitionsDefinition(
            list(dict.fromkeys(self.mix_of[key] for key in self.teacher_files.get_partition_keys()))
        )

    @cached_property
    def teacher_versions(self) -> Mapping[str, str]:
        """What names what a teacher says of each file as the catalog has it now."""
        students, found = Students(self.catalog), {}
        for key in self.teacher_files.get_partition_keys():
            with suppress(HfassetsError):
                if not (one := self._mix_files[key]).retired:
                    found[key] = students.declared_logits(one)
        return found

    def mix_file(self, key: str) -> MixPartition:
        """What a key of such a file stands for; raises as `partition` does."""
        self.accepted.require()
        if key not in self._mix_files:
            raise DataError(f"{key} is not in {self.path}; reload the code location to see what is")
        return self._mix_files[key]

    def mix(self, name: str) -> MixPartition:
        """Any file of a mix, which has the mix itself and what is pinned for it; raises as `partition` does."""
        self.accepted.require()
        of = [one for one in self._mix_files.values() if one.mix.name == name]
        found = next((one for one in of if not one.retired), next(iter(of), None))
        if found is None:
            raise DataError(f"{name} is not in {self.path}; reload the code location to see what is")
        return found

    @cached_property
    def recipes(self) -> dg.StaticPartitionsDefinition:
        """The partitions definition of MDS recipes."""
        return dg.StaticPartitionsDefinition(list(self._recipes))

    def mixtures(self, kind: type[Mixture] | type[ExtensionRecipe]) -> dg.StaticPartitionsDefinition:
        """The partitions definition of mixtures, or of context extensions."""
        return dg.StaticPartitionsDefinition(
            [key for key, one in self._mixtures.items() if isinstance(one.entry, kind)]
        )

    def members_of(self, kind: type[Mixture] | type[ExtensionRecipe]) -> Mapping[str, set[str]]:
        """For each recipe the mixtures, or extensions, that it is a member of."""
        found: dict[str, set[str]] = {}
        for key, one in self._mixtures.items():
            for name in one.members if isinstance(one.entry, kind) else ():
                found.setdefault(name, set()).add(key)
        return found

    def mds_versions(self, stage: str, kind: type[Recipe] | type[Mixture] | type[ExtensionRecipe]) -> Mapping[str, str]:
        """What names each output of a stage as the catalog has it now."""
        of: list[RecipePartition | MixturePartition] = list(self._recipes.values())
        if kind is not Recipe:
            of = [one for one in self._mixtures.values() if isinstance(one.entry, kind)]
        return {one.key: declared(stage, one, self.catalog) for one in of if not one.retired}

    def recipe(self, key: str) -> RecipePartition:
        """What a key of a recipe stands for; raises as `partition` does."""
        self.accepted.require()
        if key not in self._recipes:
            raise DataError(f"{key} is not in {self.path}; reload the code location to see what is")
        return self._recipes[key]

    def mixture(self, key: str) -> MixturePartition:
        """What a key of a mixture or an extension stands for; raises as `partition` does."""
        self.accepted.require()
        if key not in self._mixtures:
            raise DataError(f"{key} is not in {self.path}; reload the code location to see what is")
        return self._mixtures[key]

    @cached_property
    def _staging(self) -> Mapping[str, StagingPartition]:
        return {one.key: one for one in self.accepted.partitions if isinstance(one, StagingPartition)}

    @cached_property
    def staging(self) -> dg.StaticPartitionsDefinition:
        """The partitions definition of staging recipes."""
        return dg.StaticPartitionsDefinition(list(self._staging))

    @cached_property
    def staged_from(self) -> Mapping[str, tuple[str, ...]]:
        """The staging recipes that are made from each dataset partition."""
        found: dict[str, tuple[str, ...]] = {}
        for key, one in self._staging.items():
            if one.dataset is not None and one.dataset.key in self._by_key:
                found[one.dataset.key] = (*found.get(one.dataset.key, ()), key)
        return found

    @cached_property
    def staging_versions(self) -> Mapping[str, str]:
        """What names each recipe's output as the catalog has it now."""
        return {key: declared_staging(one) for key, one in self._staging.items() if not one.retired}

    def staging_recipe(self, key: str) -> StagingPartition:
        """What a key of a staging recipe stands for; raises as `partition` does."""
        self.accepted.require()
        if key not in self._staging:
            raise DataError(f"{key} is not in {self.path}; reload the code location to see what is")
        return self._staging[key]

    @property
    def partitions_per_run(self) -> int:
        """The largest that any dataset asks for: a backfill policy holds for a whole asset."""
        return max((dataset.partitions_per_run for dataset in self.catalog.datasets), default=1)

    @property
    def heavy_backfill_policy(self) -> dg.BackfillPolicy | None:
        """The policy of heavy assets: as many partitions a run as others, less one, and never the same policy.

        A backfill puts assets with one policy into one run; a heavy one is to share none with what needs the network,
        which compute nodes may not have. No policy at all means one partition a run.
        """
        each = self.partitions_per_run
        return dg.BackfillPolicy.multi_run(each - 1) if each > 1 else None

    def partition(self, key: str) -> DatasetPartition:
        """What a partition key stands for, removed from the catalog or not: a backfill that targets it goes on.

        Raises CatalogError when no catalog is in force, DataError for a key that was pruned meanwhile.
        """
        self.accepted.require()
        if key not in self._by_key:
            raise DataError(f"{key} is not in {self.path}; reload the code location to see what is")
        return self._by_key[key]


def load_location() -> Location:
    """The location of `HFASSETS_CATALOG`, else `./catalog.yaml`; CatalogError when there is neither."""
    path = catalog_path()
    return Location(path, accept(path))
