"""An asset whose partitions are folders made by `make_stage`: made, proven, repaired and looked at in one way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import dagster as dg

from hfassets.defs.array_backend import array_backend
from hfassets.defs.integrity.registry import Verifiable
from hfassets.defs.location import Location
from hfassets.defs.partition_run import Check, DamageFoundError, Outcome, RunEvents, run_partitions
from hfassets.defs.progress import log_progress
from hfassets.defs.quota import quota_share
from hfassets.defs.registration import Found, Registrable
from hfassets.mds.stage import StageOutput
from hfassets.parts.pool import Backend
from hfassets.progress import ProgressCallback
from hfassets.slurm.request import MODE_KEY, REQUEST_KEY
from hfassets.storage import read_entries
from hfassets.storage.ledger import record_damage, record_intact

INTACT = "intact"


class Proof(Protocol):
    """What reading an output again found out."""

    @property
    def faults(self) -> Sequence[str]:
        """What is wrong with it, one line each."""


class StageConfig(dg.Config):
    """How to make it; what it is stands in the catalog."""

    force: bool = False
    """Make it again, over what its folder holds."""
    verify: bool = False
    """Read all of it and hold it against the manifest, also when nothing had to be made."""
    workers: int | None = None
    """Processes; none = as the catalog says."""


@dataclass(frozen=True)
class Habits:
    """How one run works."""

    quota_share: int
    run_id: str
    force: bool
    workers: int | None
    backend: Callable[[int], Backend] | None = None


@dataclass(frozen=True)
class StageAsset:
    """What there is to know of such an asset; each function gets a partition key. `find`: the finished output, if it is
    there; `outcome`: what Dagster is told of one that was made, with the proof if it was read; `look`: its checks;
    `parts_online`: whether its parts need a network.
    """

    spec: dg.AssetSpec
    checks: Sequence[dg.AssetCheckSpec]
    versions: Callable[[], Mapping[str, str]]
    find: Callable[[str], StageOutput | None]
    make: Callable[[str, Habits, ProgressCallback], StageOutput]
    verify: Callable[[StageOutput, ProgressCallback], Proof]
    outcome: Callable[[str, StageOutput, Proof | None], Outcome]
    look: Callable[[StageOutput, Proof], Sequence[Check]]
    pool: str | None = None
    parts_online: bool = False

    @property
    def name(self) -> str:
        """As Dagster has it."""
        return self.spec.key.to_user_string()


def stage_verifiable(location: Location, of: StageAsset) -> Verifiable:
    """What the re-verification and repair sensors watch of it."""
    return Verifiable(
        of.name,
        of.spec.key,
        location.state.ledger(of.name),
        of.versions(),
        repair=(of.spec.key,),
        run_config={"ops": {of.spec.key.to_python_identifier(): {"config": {"verify": True}}}},
    )


def stage_registrable(location: Location, of: StageAsset) -> Registrable:
    """How its outputs are found again."""

    def find(key: str) -> Found | None:
        there = of.find(key)
        if there is None or of.versions().get(key) is None:
            return None
        return Found(there.fingerprint, lambda: _outcome(location, of, key, there, None))

    keys = of.spec.partitions_def.get_partition_keys() if of.spec.partitions_def else []
    return Registrable(of.spec.key, keys, find, location.state.ledger(of.name), of.versions)


def stage_asset(location: Location, of: StageAsset) -> dg.AssetsDefinition:
    """The asset."""
    ledger = location.state.ledger(of.name)

    @dg.multi_asset(
        name=of.spec.key.to_python_identifier(), specs=[of.spec], check_specs=of.checks, can_subset=True, pool=of.pool
    )
    def made(context: dg.AssetExecutionContext, config: StageConfig) -> RunEvents:
        progress, versions = log_progress(context), of.versions()

        def proven(key: str, found: StageOutput) -> Proof:
            proof = of.verify(found, progress)
            size, version = found.manifest.total_bytes, versions.get(key, "")
            if proof.faults:
                record_damage(ledger, key, version, size, proof.faults, size, purged=not found.root.exists())
                raise _damage(key, proof)
            record_intact(ledger, key, version, size)
            return proof

        def make(key: str) -> Outcome:
            known = dict(read_entries(ledger, {key: versions.get(key, "")}))[key]
            damaged = known is not None and bool(known.damage)
            there = of.find(key)
            if config.verify and not damaged and there is not None:
                # A run that only proves: what it finds goes to the repair sensor, which knows budgets and limits.
                proven(key, there)
            share = quota_share(context.instance)
            backend = array_backend(context, of.spec, key, progress, online=of.parts_online)
            habits = Habits(share, context.run.run_id, config.force or damaged, config.workers, backend)
            output = of.make(key, habits, progress)
            proof = proven(key, output) if known is None or damaged or not output.reused else None
            return _outcome(location, of, key, output, proof)

        def check(key: str) -> Sequence[Check]:
            found = of.find(key)
            if found is None:
                return [Check(INTACT, False, "not made as the catalog asks for it, or gone")]
            return of.look(found, proven(key, found))

        yield from run_partitions(
            context, of.spec.key, accepted=location.accepted, umask=location.umask, make=make, check=check
        )

    return made


def _outcome(location: Location, of: StageAsset, key: str, output: StageOutput, proof: Proof | None) -> Outcome:
    found = of.outcome(key, output, proof)
    left = location.until_purge(output.root / file.path for file in output.manifest.files)
    return replace(found, metadata={**found.metadata, **left})


def heavy(metadata: Mapping[str, Any], request: Mapping[str, Any] | None, mode: str) -> dict[str, Any]:
    """Metadata with a request of SLURM, if there is one: of the job that a run is, or of the tasks of its arrays."""
    return {**metadata, **({} if request is None else {REQUEST_KEY: dict(request), MODE_KEY: mode})}


def _damage(key: str, proof: Proof) -> DamageFoundError:
    """The error for a damaged output, with its check."""
    more = f" and {len(proof.faults) - 1} more" if len(proof.faults) > 1 else ""
    line = f"{key}: damaged: {proof.faults[0]}{more}"
    return DamageFoundError(line, [Check(INTACT, False, line)])
