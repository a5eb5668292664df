"""What one run asks of the cluster: from the requests of its assets and partitions, its tags and the site. Pure.

Invariant: precedence is run tags `slurm/<field>` over partition over asset over profile over the site's own resources;
over the assets and partitions of one run, the largest of each field. What cannot be resolved is an error, never a
request for less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import orjson

from hfassets.slurm.errors import ResourceError
from hfassets.slurm.resources import Resources, largest, override, parse_resources
from hfassets.slurm.site import Site

REQUEST_KEY = "slurm/request"
MODE_KEY = "slurm/mode"
NETWORK_KEY = "slurm/network"
EXPECTS_KEY = "slurm/expects"
"""Metadata of a code location: a text that says by what it works. A run keeps what it was at its launch."""
TAG_PREFIX = "slurm/"
PROFILE = "profile"
PARTS = "parts"
NO_NETWORK = "none"

# Tags below `slurm/` that ask for nothing: they may be on any run.
FIELDS = frozenset(Resources.model_fields) | {PROFILE}


@dataclass(frozen=True, slots=True)
class AssetRequest:
    """What one asset of a run declares in its metadata.

    `request` is `slurm/request` as it stands there (None: the asset is light), `mode` is `slurm/mode`, `network` names
    the network that it needs (`slurm/network`; `none` for none).
    """

    name: str
    request: Any = None
    mode: str = "run"
    network: str = NO_NETWORK


@dataclass(frozen=True, slots=True)
class Workload:
    """A run as the launcher sees it: its assets (none for a job of plain ops), partitions and tags."""

    assets: tuple[AssetRequest, ...]
    partitions: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def heavy(self) -> tuple[AssetRequest, ...]:
        """The assets that want to be SLURM jobs as a whole."""
        return tuple(asset for asset in self.assets if asset.request is not None and asset.mode == "run")

    @property
    def parts(self) -> tuple[AssetRequest, ...]:
        """The assets that are light themselves, and whose parts are tasks of job arrays."""
        return tuple(asset for asset in self.assets if asset.request is not None and asset.mode == PARTS)

    @property
    def asked_by_tags(self) -> dict[str, str]:
        """The fields asked for by run tags."""
        return {
            name.removeprefix(TAG_PREFIX): value
            for name, value in self.tags.items()
            if name.startswith(TAG_PREFIX) and name.removeprefix(TAG_PREFIX) in FIELDS
        }

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that its assets need, each once."""
        return tuple(sorted({asset.network for asset in self.assets} - {NO_NETWORK}))


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What to ask of the cluster for a run. `online`: the job has a network."""

    resources: Resources
    online: bool


def is_heavy(workload: Workload) -> bool:
    """Whether the run belongs on the cluster: a heavy asset, or a tag that asks for resources.

    Where parts become tasks of job arrays, tags speak of these.
    """
    return bool(workload.heavy) or (bool(workload.asked_by_tags) and not workload.parts)


def resolve(workload: Workload, site: Site) -> JobRequest:
    """The request of a heavy run.

    Raises ResourceError: an unknown profile or field, values that contradict each other, or a network that the site's
    compute nodes do not have.
    """
    tags, tag_profile = _split(workload.asked_by_tags, "run tag slurm/")
    asked = [
        (owner, _with_profile(request, tag_profile or profile, site, owner))
        for owner, request, profile in _requests(workload)
    ]
    if not asked:
        asked = [("the run's tags", _with_profile(Resources(), tag_profile, site, "run tag slurm/profile"))]
    resources = override(largest([(owner, override(request, tags)) for owner, request in asked]), tags)
    return _on_the_network(workload, site, resources)


def runs_with_the_daemon(workload: Workload, site: Site) -> bool:
    """Whether a light run must stay where the daemon is, because only that host has the network it needs."""
    return bool(workload.networks) and site.network == "daemon"


def _requests(workload: Workload) -> Iterable[tuple[str, Resources, str | None]]:
    """(owner, own request, profile) for each heavy asset, or for each partition that has a request of its own."""
    for asset in workload.heavy:
        document = _document(asset)
        default, profile = _split(document.get("default") or {}, f"{REQUEST_KEY} of {asset.name}, default: ")
        specific: list[tuple[str, Resources, str | None]] = []
        for key in workload.partitions:
            layers, chosen = [default], profile
            for glob, values in (document.get("partitions") or {}).items():
                if fnmatchcase(key, glob):
                    where = f"{REQUEST_KEY} of {asset.name}, partitions {glob}: "
                    request, named = _split(values, where)
                    layers.append(request)
                    chosen = named or chosen
            specific.append((f"{asset.name}, {key}" if len(layers) > 1 else asset.name, override(*layers), chosen))
        yield from specific or [(asset.name, default, profile)]


def _document(asset: AssetRequest) -> Mapping[str, Any]:
    known = {"default", "partitions"}
    if not isinstance(asset.request, Mapping) or not set(asset.request) <= known:
        raise ResourceError(
            f"{REQUEST_KEY} of {asset.name} must be {{default: {{…}}, partitions: {{glob: {{…}}}}}},"
            f" not {orjson.dumps(asset.request, default=repr).decode()[:200]}"
        )
    return asset.request


def _split(values: Any, where: str) -> tuple[Resources, str | None]:
    """A request without its profile, and the profile's name."""
    if not isinstance(values, Mapping):
        raise ResourceError(f"{where}must be a mapping of fields like {{cpus: 8, memory: 32G}}")
    fields = {name: value for name, value in values.items() if name != PROFILE}
    profile = values.get(PROFILE)
    if profile is not None and not isinstance(profile, str):
        raise ResourceError(f"{where}{PROFILE} must be the name of a profile")
    return parse_resources(fields, where), profile


def _with_profile(request: Resources, profile: str | None, site: Site, owner: str) -> Resources:
    if profile is None:
        return override(site.resources, request)
    if profile not in site.profiles:
        known = ", ".join(sorted(site.profiles)) or "none"
        raise ResourceError(f"{owner}: there is no profile {profile!r}; the launcher's config has: {known}")
    return override(site.resources, site.profiles[profile], request)


def _on_the_network(workload: Workload, site: Site, resources: Resources) -> JobRequest:
    if not workload.networks:
        return JobRequest(resources, online=False)
    needing = [asset.name for asset in workload.assets if asset.network != NO_NETWORK]
    if site.network == "daemon":
        heavy = ", ".join(asset.name for asset in workload.heavy) or "the run"
        raise ResourceError(
            f"{', '.join(needing)} needs the network ({', '.join(workload.networks)}) and the compute nodes have none"
            f" (network: daemon): materialise it in a run of its own, and {heavy} in another"
        )
    if site.network.startswith("partition:"):
        partition = site.network.removeprefix("partition:")
        asked = workload.asked_by_tags.get("partition")
        if asked not in (None, partition):
            raise ResourceError(
                f"run tag slurm/partition: {asked} has no network, which {', '.join(needing)} needs; {partition} has"
            )
        return JobRequest(override(resources, Resources(partition=partition)), online=True)
    return JobRequest(resources, online=True)
