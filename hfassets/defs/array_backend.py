"""Where an asset with `slurm/mode: parts` has its parts made: job arrays, by what its run and its partition ask for."""

from collections.abc import Callable

import dagster as dg

from hfassets.arrays import ArrayPool
from hfassets.errors import DataError
from hfassets.parts.pool import Backend
from hfassets.progress import Note, ProgressCallback
from hfassets.slurm import SlurmRunLauncher
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.request import (
    MODE_KEY,
    NETWORK_KEY,
    NO_NETWORK,
    PARTS,
    REQUEST_KEY,
    AssetRequest,
    Workload,
    resolve,
)
from hfassets.slurm.settings import OFFLINE

ARRAYS_TAG = "slurm-status/array"


def array_backend(
    context: dg.AssetExecutionContext, spec: dg.AssetSpec, key: str, progress: ProgressCallback, *, online: bool
) -> Callable[[int], Backend] | None:
    """Makes the backend of one partition, for so many parts at once in a task; None when parts are made here.

    `online`: parts need the asset's network; else only the run does, which prepares them.

    Raises DataError when the instance has no launcher for SLURM, or the request cannot be met.
    """
    if spec.metadata.get(MODE_KEY) != PARTS:
        return None
    launcher = context.instance.run_launcher
    name = spec.key.to_user_string()
    if not isinstance(launcher, SlurmRunLauncher):
        raise DataError(
            f"{name} has mode: parts, and dagster.yaml no hfassets.slurm.SlurmRunLauncher (see docs/slurm.md); set the"
            " launcher, or take mode: parts out of the catalog"
        )
    settings = launcher.settings
    network = str(spec.metadata.get(NETWORK_KEY, NO_NETWORK)) if online else NO_NETWORK
    wanted = AssetRequest(name, spec.metadata[REQUEST_KEY], "run", network)
    try:
        request = resolve(Workload((wanted,), (key,), context.run.tags), settings.site)
    except SlurmError as error:
        raise DataError(str(error)) from error

    def say(line: str) -> None:
        progress(Note(line))
        if line.startswith("job array"):
            context.instance.add_run_tags(context.run.run_id, {ARRAYS_TAG: line})

    variables = {} if request.online else OFFLINE
    return lambda processes: ArrayPool(settings, request.resources, processes=processes, say=say, variables=variables)
