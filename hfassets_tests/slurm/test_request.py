"""From assets, partitions, tags and site to one request: who wins, and where a run may go."""

from __future__ import annotations

from typing import Any

import pytest

from hfassets.slurm.errors import ResourceError
from hfassets.slurm.request import AssetRequest, Workload, is_heavy, resolve, runs_with_the_daemon
from hfassets.slurm.site import Site, parse_site

pytestmark = pytest.mark.unit

SITE = parse_site(
    {
        "resources": {"partition": "normal", "cpus": 1, "time": "60"},
        "profiles": {"large": {"cpus": 64, "memory": "200G"}, "short": {"time": "5"}},
    },
    "",
)


def heavy(name: str = "tokens", default: Any = None, partitions: Any = None, **more: str) -> AssetRequest:
    request = {"default": default or {}, **({"partitions": partitions} if partitions else {})}
    return AssetRequest(name, request=request, **more)


def workload(*assets: AssetRequest, partitions: tuple[str, ...] = (), **tags: str) -> Workload:
    return Workload(assets, partitions, {name.replace("_", "/", 1): value for name, value in tags.items()})


def asked(work: Workload, site: Site = SITE) -> dict[str, Any]:
    return resolve(work, site).resources.model_dump(exclude_none=True)


def test_a_light_run_is_light_and_a_tag_makes_it_heavy() -> None:
    light = AssetRequest("light")
    assert not is_heavy(workload(light))
    assert not is_heavy(workload(light, slurm_unknown="1"))
    assert is_heavy(workload(light, slurm_cpus="4"))
    assert is_heavy(workload(light, heavy()))
    assert not is_heavy(workload(heavy(mode="parts")))


def test_tags_over_partition_over_asset_over_profile_over_site() -> None:
    site_alone = {"partition": "normal", "cpus": 1, "time": 60}
    assert asked(workload(heavy())) == site_alone
    profiled = heavy(default={"profile": "large"})
    assert asked(workload(profiled)) == {**site_alone, "cpus": 64, "memory": 200 * 1024}
    of_asset = heavy(default={"profile": "large", "cpus": 32})
    assert asked(workload(of_asset))["cpus"] == 32
    of_partition = heavy(default={"profile": "large", "cpus": 32}, partitions={"big:*": {"cpus": 48}})
    assert asked(workload(of_partition, partitions=("big:en",)))["cpus"] == 48
    assert asked(workload(of_partition, partitions=("small:en",)))["cpus"] == 32
    assert asked(workload(of_partition, partitions=("big:en",), slurm_cpus="2"))["cpus"] == 2


def test_a_profile_named_by_a_tag_or_a_partition_replaces_the_assets_own() -> None:
    asset = heavy(default={"profile": "large"}, partitions={"tiny": {"profile": "short"}})
    assert asked(workload(asset, partitions=("tiny",)))["time"] == 5
    assert "memory" not in asked(workload(asset, partitions=("tiny",)))
    assert asked(workload(asset, partitions=("other",), slurm_profile="short"))["time"] == 5


def test_the_largest_of_all_partitions_and_assets_counts() -> None:
    first = heavy("tokens", {"memory": "4G"}, {"big": {"memory": "64G"}, "long": {"time": "600"}})
    second = heavy("chunks", {"cpus": 8})
    found = asked(workload(first, second, partitions=("small", "big", "long")))
    assert (found["memory"], found["time"], found["cpus"]) == (64 * 1024, 600, 8)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (workload(heavy(default={"cpus": "many"})), "slurm/request of tokens, default: cpus must be"),
        (workload(heavy(partitions={"*": {"cups": 1}}), partitions=("x",)), "tokens, partitions *: cups is no field"),
        (workload(heavy(default={"profile": "huge"})), "no profile 'huge'; the launcher's config has: large, short"),
        (workload(heavy(), slurm_memory="a lot"), "run tag slurm/memory must be a size"),
        (workload(AssetRequest("tokens", request=[1])), "must be {default: {…}"),
        (workload(AssetRequest("tokens", request={"defualt": {}})), "must be {default: {…}"),
        (workload(heavy(default={"profile": 3})), "profile must be the name"),
    ],
)
def test_what_cannot_be_resolved_is_an_error_and_never_less(work: Workload, said: str) -> None:
    with pytest.raises(ResourceError) as raised:
        resolve(work, SITE)
    assert said in str(raised.value)


def test_a_job_without_network_runs_offline_and_one_with_it_online() -> None:
    assert not resolve(workload(heavy()), SITE).online
    assert resolve(workload(heavy(network="hub")), SITE).online


def test_a_site_whose_nodes_have_no_network_refuses_what_needs_one_and_says_how() -> None:
    site = parse_site({"network": "daemon"}, "")
    work = workload(AssetRequest("hub_snapshot", network="hub"), heavy("prepared"))
    with pytest.raises(ResourceError, match=r"hub_snapshot needs the network \(hub\).*run of its own, and prepared"):
        resolve(work, site)
    assert runs_with_the_daemon(workload(AssetRequest("hub_snapshot", network="hub")), site)
    assert not runs_with_the_daemon(workload(AssetRequest("light")), site)
    assert not runs_with_the_daemon(workload(AssetRequest("hub_snapshot", network="hub")), SITE)


def test_a_partition_with_network_is_where_jobs_that_need_one_go() -> None:
    site = parse_site({"network": "partition:xfer", "resources": {"partition": "normal"}}, "")
    assert resolve(workload(heavy(network="s3")), site).resources.partition == "xfer"
    assert resolve(workload(heavy()), site).resources.partition == "normal"
    with pytest.raises(ResourceError, match="slurm/partition: normal has no network"):
        resolve(workload(heavy(network="s3"), slurm_partition="normal"), site)
