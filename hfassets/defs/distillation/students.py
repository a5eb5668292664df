"""What students train on, as assets: thin over `hfassets.packed`, one partition a source's file."""

from collections.abc import Sequence

import dagster as dg

from hfassets.catalog.slurm_request import mixes_request, slurm_mode, teachers_request
from hfassets.defs.automation import house_condition
from hfassets.defs.distillation import checks, student_results
from hfassets.defs.distillation.partitions import FILE, GROUP, LOGITS, OWNERS, TEACHER, TOKENS
from hfassets.defs.hub.partitions import HUB_POOL
from hfassets.defs.location import Location
from hfassets.defs.partition_run import Check, Outcome, RunEvents, run_partitions
from hfassets.defs.progress import log_progress
from hfassets.defs.quota import quota_share
from hfassets.defs.registration import Found, Registrable
from hfassets.defs.stage_asset import Habits, StageAsset, heavy
from hfassets.errors import DataError, HfassetsError
from hfassets.mds.stage import StageOutput
from hfassets.packed.folder import finished_splits
from hfassets.packed.from_catalog import Students
from hfassets.packed.logits import close_account as close_positions
from hfassets.packed.shards import find_shards, verify_shards
from hfassets.packed.stage import close_account
from hfassets.packed.teacher_model import TeacherModel, check_vocabulary
from hfassets.progress import ProgressCallback, silent
from hfassets.slurm.request import NETWORK_KEY, NO_NETWORK


def student_assets(location: Location) -> list[StageAsset]:
    """The assets behind the files of mixes that have a student, or a teacher as well."""
    tokens = [_tokens(location)] if location.token_files.get_partition_keys() else []
    logits = [_logits(location)] if location.teacher_files.get_partition_keys() else []
    return [*tokens, *logits]


def _students(location: Location, habits: Habits) -> Students:
    return Students(location.catalog, habits.quota_share, habits.run_id, habits.force, habits.workers, habits.backend)


def _dep(location: Location, key: dg.AssetKey, partitions: dg.StaticPartitionsDefinition) -> dg.AssetDep:
    """A dependency on the same partition of another asset, which may have more of them."""
    upstream = location.mix_files if key == FILE else location.token_files
    if upstream == partitions:
        return dg.AssetDep(key)
    same = {one: one for one in partitions.get_partition_keys()}
    return dg.AssetDep(key, partition_mapping=dg.StaticPartitionMapping(same))


def _tokens(location: Location) -> StageAsset:
    partitions = location.token_files
    request = mixes_request(location.catalog, TOKENS.to_user_string())
    spec = dg.AssetSpec(
        TOKENS,
        deps=[_dep(location, FILE, partitions)],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"parquet"},
        description="The file of a source as rows of tokens for a student: Parquet with input_ids, attention_mask and "
        "labels as lists of one length, documents joined or packed, an end token behind each.",
        metadata=heavy({NETWORK_KEY: "hub"}, request, slurm_mode(location.catalog, TOKENS.to_user_string())),
        partitions_def=partitions,
        automation_condition=house_condition(),
        skippable=True,
    )
    here = Students(location.catalog)

    def make(key: str, habits: Habits, progress: ProgressCallback) -> StageOutput:
        return _students(location, habits).make_tokens(location.mix_file(key), progress)

    return StageAsset(
        spec,
        checks.specs(TOKENS, partitions),
        versions=lambda: location.token_versions,
        find=lambda key: find_shards(here.tokens_folder(location.mix_file(key))),
        make=make,
        verify=lambda output, progress: verify_shards(output.root.parent, close_account, progress),
        outcome=lambda _, output, proof: student_results.of_tokens(
            output, proof, finished_splits(output.root.parent.parent)
        ),
        look=student_results.of_checks,
        pool=HUB_POOL,
    )


def _logits(location: Location) -> StageAsset:
    partitions = location.teacher_files
    of_mix: dict[str, set[str]] = {}
    for key in partitions.get_partition_keys():
        of_mix.setdefault(location.mix_of[key], set()).add(key)
    spec = dg.AssetSpec(
        LOGITS,
        deps=[
            _dep(location, TOKENS, partitions),
            dg.AssetDep(TEACHER, partition_mapping=dg.StaticPartitionMapping(dict(of_mix))),
        ],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"parquet", "pytorch"},
        description="What a teacher expects behind each token of the rows: the likeliest tokens with their "
        "log-probabilities, and the mass of all others.",
        metadata=heavy(
            {NETWORK_KEY: NO_NETWORK},
            teachers_request(location.catalog, LOGITS.to_user_string()),
            slurm_mode(location.catalog, LOGITS.to_user_string()),
        ),
        partitions_def=partitions,
        automation_condition=house_condition(),
        skippable=True,
    )
    here = Students(location.catalog)

    def make(key: str, habits: Habits, progress: ProgressCallback) -> StageOutput:
        return _students(location, habits).make_logits(location.mix_file(key), progress)

    return StageAsset(
        spec,
        checks.specs(LOGITS, partitions),
        versions=lambda: location.teacher_versions,
        find=lambda key: find_shards(here.logits_folder(location.mix_file(key))),
        make=make,
        verify=lambda output, progress: verify_shards(output.root.parent, close_positions, progress),
        outcome=lambda _, output, proof: student_results.of_logits(output, proof),
        look=student_results.of_checks,
    )


def teacher_model(location: Location) -> list[dg.AssetsDefinition]:
    """The teachers of mixes, one partition a mix; none when no mix has one."""
    partitions = location.teacher_mixes
    if not partitions.get_partition_keys():
        return []
    spec = dg.AssetSpec(
        TEACHER,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"huggingface", "pytorch"},
        description="The teacher of a mix: its weights and tokenizer at the commit that catalog.lock pins, each file "
        "proven, so that the nodes that run it need no network.",
        metadata={NETWORK_KEY: "hub"},
        partitions_def=partitions,
        automation_condition=house_condition(),
        skippable=True,
    )

    @dg.multi_asset(
        name=TEACHER.to_python_identifier(),
        specs=[spec],
        check_specs=checks.specs(TEACHER, partitions),
        can_subset=True,
        pool=HUB_POOL,
    )
    def models(context: dg.AssetExecutionContext) -> RunEvents:
        progress = log_progress(context)
        students = Students(location.catalog, quota_share(context.instance), context.run.run_id)

        def compared(key: str, model: TeacherModel) -> list[Check]:
            return _compared(location, students, key, model, progress)

        def make(key: str) -> Outcome:
            model = students.teacher_model(location.mix(key), progress)
            return student_results.of_teacher(model, compared(key, model))

        def check(key: str) -> Sequence[Check]:
            return compared(key, students.teacher_model(location.mix(key), progress, offline=True))

        yield from run_partitions(
            context, TEACHER, accepted=location.accepted, umask=location.umask, make=make, check=check
        )

    return [models]


def teacher_registrables(location: Location) -> list[Registrable]:
    """How teachers are found again: in the cache, without the network."""
    students = Students(location.catalog)

    def find(key: str) -> Found | None:
        try:
            model = students.teacher_model(location.mix(key), offline=True)
        except HfassetsError:
            return None
        outcome = student_results.of_teacher(model, _compared(location, students, key, model, silent))
        return Found(outcome.data_version, lambda: outcome)

    return [Registrable(TEACHER, location.teacher_mixes.get_partition_keys(), find)]


def _compared(
    location: Location, students: Students, key: str, model: TeacherModel, progress: ProgressCallback
) -> list[Check]:
    words = students.student_vocabulary(location.mix(key), progress)
    try:
        return student_results.teacher_checks(check_vocabulary(f"the mix {key}", words, model))
    except DataError as error:
        raise student_results.another_vocabulary(key, error) from error
