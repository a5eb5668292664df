"""Distillation mixes as assets: thin over `hfassets.distillation`, one partition a source's file, one a mix."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from hfassets.catalog import MixPartition
from hfassets.catalog.slurm_request import mixes_request
from hfassets.defs.automation import house_condition
from hfassets.defs.distillation import checks, results
from hfassets.defs.distillation.partitions import FILE, GROUP, OWNERS, SOURCES, SUMMARY
from hfassets.defs.distillation.students import student_assets, teacher_model, teacher_registrables
from hfassets.defs.hub.partitions import HUB_POOL
from hfassets.defs.integrity.registry import Verifiable
from hfassets.defs.location import Location
from hfassets.defs.partition_run import Check, Outcome, RunEvents, run_partitions
from hfassets.defs.progress import log_progress
from hfassets.defs.quota import quota_share
from hfassets.defs.registration import Found, Registrable
from hfassets.defs.stage_asset import heavy, stage_asset, stage_registrable, stage_verifiable
from hfassets.distillation.from_catalog import mix_run
from hfassets.distillation.licences import licence_of
from hfassets.distillation.mix import find_all, find_one, make_mix, make_one
from hfassets.distillation.mix_run import MixRun
from hfassets.distillation.output import SourceFile
from hfassets.distillation.prove import Proof, first_records, prove_source_file, record
from hfassets.distillation.summary import SUMMARY as SUMMARY_FILE
from hfassets.distillation.summary import mix_fingerprint, summary_of, write_summary
from hfassets.errors import DataError
from hfassets.slurm.request import NETWORK_KEY
from hfassets.storage import read_entries

FIRST = 5


class FileConfig(dg.Config):
    """How to make them; what they are stands in the catalog."""

    force: bool = False
    """Make the file again, over whatever has its name."""
    verify: bool = False
    """Read the whole file and hold it against the manifest, also when nothing had to be made."""


class MixConfig(dg.Config):
    """How to sum up; what the mix is stands in the catalog."""

    workers: int | None = None
    """Sources that are extended at once, where those that ran short leave their rows to others; none = as the catalog
    says."""


def build_assets(location: Location) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """All assets of the distillation group; none when the catalog has no mix."""
    if not location.mix_files.get_partition_keys():
        return []
    students = [stage_asset(location, one) for one in student_assets(location)]
    return [
        *source_specs(location),
        distillation_file(location),
        distillation_summary(location),
        *students,
        *teacher_model(location),
    ]


def verifiables(location: Location) -> list[Verifiable]:
    """What the re-verification and repair sensors watch of the group."""
    if not location.mix_files.get_partition_keys():
        return []
    return [
        Verifiable(
            GROUP,
            FILE,
            location.state.ledger(FILE.to_user_string()),
            location.mix_file_versions,
            repair=(FILE,),
            run_config={"ops": {FILE.to_python_identifier(): {"config": {"verify": True}}}},
        ),
        *(stage_verifiable(location, one) for one in student_assets(location)),
    ]


def registrables(location: Location) -> list[Registrable]:
    """How files of mixes, their summaries, and what students train on are found again."""
    if not location.mix_files.get_partition_keys():
        return []

    def run(partition: MixPartition) -> MixRun:
        return mix_run(location.catalog, partition.mix, partition.commits, partition.tokenizer_commit)

    def file(key: str) -> Found | None:
        partition = location.mix_file(key)
        found = find_one(run(partition), partition.source)
        if found is None:
            return None
        licence = licence_of(partition.source, partition.mix.datasets[partition.source].license)
        return Found(
            found.fingerprint,
            lambda: results.of_file(
                found, prove_source_file(found, whole=False), licence, first_records(found.path, FIRST)
            ),
        )

    def summary(key: str) -> Found | None:
        wanted = run(location.mix(key))
        try:
            made = find_all(wanted)
        except DataError:
            return None
        version = mix_fingerprint([one.fingerprint for one in made.values()])
        return Found(version, lambda: _summed_up(wanted, made)) if (wanted.output / SUMMARY_FILE).exists() else None

    mixes = location.mixes.get_partition_keys()
    ledger = location.state.ledger(FILE.to_user_string())
    return [
        Registrable(FILE, location.mix_files.get_partition_keys(), file, ledger, lambda: location.mix_file_versions),
        Registrable(SUMMARY, mixes, summary),
        *teacher_registrables(location),
        *(stage_registrable(location, one) for one in student_assets(location)),
    ]


def _summed_up(run: MixRun, made: Mapping[str, SourceFile]) -> Outcome:
    document = summary_of(run.output, run.mix, run.quotas())
    licences = {name: licence_of(name, source.license) for name, source in run.mix.datasets.items()}
    fingerprint = mix_fingerprint([one.fingerprint for one in made.values()])
    return results.of_mix(fingerprint, document, list(made.values()), licences, str(run.output / SUMMARY_FILE))


def source_key(repo: str) -> dg.AssetKey:
    """The external asset that stands for a repo that is read."""
    return dg.AssetKey([SOURCES, *repo.split("/")])


def _repos(location: Location) -> list[str]:
    return sorted({source.hf_path for mix in location.catalog.distillation for source in mix.enabled.values()})


def source_specs(location: Location) -> list[dg.AssetSpec]:
    """One external asset a repo: streamed sources hang on no snapshot."""
    return [
        dg.AssetSpec(
            source_key(repo),
            group_name=GROUP,
            kinds={"huggingface"},
            description=f"{repo} on the Hub, read at the commit that catalog.lock pins.",
            metadata={"dagster/uri": f"hf://datasets/{repo}"},
        )
        for repo in _repos(location)
    ]


def _run(location: Location, key: str, context: dg.AssetExecutionContext, *, of_mix: bool = False) -> MixRun:
    partition = location.mix(key) if of_mix else location.mix_file(key)
    return mix_run(
        location.catalog,
        partition.mix,
        partition.commits,
        partition.tokenizer_commit,
        quota_share=quota_share(context.instance),
        run_id=context.run.run_id,
    )


def distillation_file(location: Location) -> dg.AssetsDefinition:
    """The file of each source of each mix."""
    ledger = location.state.ledger(FILE.to_user_string())
    request = mixes_request(location.catalog, FILE.to_user_string())
    spec = dg.AssetSpec(
        FILE,
        deps=[source_key(repo) for repo in _repos(location)],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"huggingface", "json"},
        description="Rows of one source of a distillation mix as JSON lines: its quota of the mix, filtered, without "
        "copies, with the metadata that its mapper gives. A file that is to have more rows is extended.",
        metadata=heavy({NETWORK_KEY: "hub"}, request, "run"),
        partitions_def=location.mix_files,
        automation_condition=house_condition(),
        skippable=True,
    )

    @dg.multi_asset(
        name=FILE.to_python_identifier(),
        specs=[spec],
        check_specs=checks.specs(FILE, location.mix_files),
        can_subset=True,
        pool=HUB_POOL,
    )
    def files(context: dg.AssetExecutionContext, config: FileConfig) -> RunEvents:
        progress = log_progress(context)

        def proven(key: str, found: SourceFile, *, whole: bool) -> Proof:
            run = _run(location, key, context)
            proof = prove_source_file(found, progress, whole=whole)
            if whole:
                record(ledger, key, run.declared(found.source), found, proof)
            if proof.damage:
                raise results.damage(key, proof)
            return proof

        def make(key: str) -> Outcome:
            partition = location.mix_file(key)
            run = _run(location, key, context)
            known = dict(read_entries(ledger, {key: run.declared(partition.source)}))[key]
            damaged = known is not None and bool(known.damage)
            if config.verify and not damaged and (there := find_one(run, partition.source)) is not None:
                # A run that only proves: what it finds goes to the repair sensor, which knows budgets and limits.
                proven(key, there, whole=True)
            if config.force or damaged:
                run = run.with_force()
            made = make_one(run, partition.source, progress)
            proof = proven(key, made, whole=known is None or damaged or not made.reused)
            licence = licence_of(partition.source, partition.mix.datasets[partition.source].license)
            return results.of_file(made, proof, licence, first_records(made.path, FIRST))

        def check(key: str) -> Sequence[Check]:
            found = find_one(_run(location, key, context), location.mix_file(key).source)
            if found is None:
                return [Check(checks.INTACT, False, "not made as the catalog asks for it, or gone")]
            return results.of_checks(found, proven(key, found, whole=True))

        yield from run_partitions(
            context, FILE, accepted=location.accepted, umask=location.umask, make=make, check=check
        )

    return files


def distillation_summary(location: Location) -> dg.AssetsDefinition:
    """The summary of each mix."""
    spec = dg.AssetSpec(
        SUMMARY,
        deps=[dg.AssetDep(FILE, partition_mapping=dg.StaticPartitionMapping(location.mix_of))],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"json"},
        description="download_summary.json of a mix: what was asked for and what there is, by source and category. "
        "Where sources ran short and the mix says so, the others are extended first.",
        metadata={NETWORK_KEY: "hub"},
        partitions_def=location.mixes,
        automation_condition=house_condition(),
        skippable=True,
    )

    @dg.multi_asset(
        name=SUMMARY.to_python_identifier(),
        specs=[spec],
        check_specs=checks.specs(SUMMARY, location.mixes),
        can_subset=True,
        pool=HUB_POOL,
    )
    def summaries(context: dg.AssetExecutionContext, config: MixConfig) -> RunEvents:
        progress = log_progress(context)

        def make(key: str) -> Outcome:
            run = _run(location, key, context, of_mix=True)
            before = find_all(run)
            if run.mix.on_shortfall == "redistribute":
                made = {one.source: one for one in make_mix(run, (), progress, config.workers).check().files}
            else:
                made = before
                write_summary(run.output, run.mix, run.quotas())
            for name, one in made.items():
                if one.rows > before[name].rows:
                    _tell_extended(context, f"{key}/{one.category}/{name}", one)
            return _summed_up(run, made)

        def check(key: str) -> Sequence[Check]:
            run = _run(location, key, context, of_mix=True)
            try:
                find_all(run)
            except DataError as error:
                return [Check(checks.MEMBERS_ARE_CURRENT, False, str(error))]
            return results.mix_checks(summary_of(run.output, run.mix, run.quotas()))

        yield from run_partitions(
            context, SUMMARY, accepted=location.accepted, umask=location.umask, make=make, check=check
        )

    return summaries


def _tell_extended(context: dg.AssetExecutionContext, key: str, one: SourceFile) -> None:
    """A file that was made longer for another source's sake is another version of its partition."""
    context.log.info(f"{key}: extended to {one.rows:,} rows, for sources that ran short")
    metadata: dict[str, Any] = {"dagster/row_count": one.rows, "asked for": one.asked, "fingerprint": one.fingerprint}
    tags = {"dagster/data_version": one.fingerprint, "dagster/data_version_is_user_provided": "true"}
    context.log_event(dg.AssetMaterialization(FILE, partition=key, metadata=metadata, tags=tags))
