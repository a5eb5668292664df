"""A `datasets` cache on a node: what is read is there, nothing leads a writer back, what others made is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hfassets.errors import DataError, UsageError
from hfassets.staging import StagingRequest, stage_tree
from hfassets.staging.cache import read_cache
from hfassets.staging.copy import verify_staged
from hfassets.staging.environment import cpus_per_node, default_cache, job_workers, training_environment

pytestmark = pytest.mark.unit


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two datasets: raw Arrow, a map's result, an index of names with brackets, locks, JSON, a killed preparation."""
    root = tmp_path / "shared cache"
    for name in ("org___rows", "org___other"):
        folder = root / name / "default" / "0.0.0" / "abc"
        folder.mkdir(parents=True)
        (folder / "rows-train.arrow").write_bytes(b"raw" * 1000)
        (folder / "cache-1 [2]_00000_of_00002.arrow").write_bytes(b"final 0")
        (folder / "cache-1 [2]_00001_of_00002.arrow").write_bytes(b"final 1")
        (folder / "dataset_info.json").write_text("{}")
        (folder.parent / "abc_builder.lock").touch()
        killed = folder.parent / "def.incomplete"
        killed.mkdir()
        (killed / "rows-train.arrow").write_bytes(b"half")
    (root / "_shared_cache_org___rows.lock").touch()
    return root


def stage(source: Path, to: Path, names: tuple[str, ...] = (), read: list[str] | None = None) -> int:
    """Bring it to a folder; how many files were copied now."""
    request = StagingRequest(read_cache(source, names, read), to, keeps=True)
    return stage_tree(request).copied_files


def test_what_is_read_is_copied_and_other_data_linked(cache: Path, tmp_path: Path) -> None:
    """Locks and JSON are the node's own; unfinished folders stay behind; a pattern's brackets mean themselves."""
    to = tmp_path / "node"
    stage(cache, to, read=["org___rows/default/0.0.0/abc/cache-1 [2]_*_of_00002.arrow"])
    kinds = {
        str(path.relative_to(to)): "link" if path.is_symlink() else "copy"
        for path in to.rglob("*")
        if path.is_symlink() or path.is_file()
    }
    assert [path for path, kind in kinds.items() if kind == "link" and not path.endswith(".arrow")] == []
    rows = "org___rows/default/0.0.0/abc"
    assert kinds[f"{rows}/cache-1 [2]_00000_of_00002.arrow"] == kinds[f"{rows}/dataset_info.json"] == "copy"
    assert kinds[f"{rows}/rows-train.arrow"] == "link" and kinds["_shared_cache_org___rows.lock"] == "copy"
    assert kinds["org___other/default/0.0.0/abc/cache-1 [2]_00000_of_00002.arrow"] == "link"
    assert not any("incomplete" in path for path in kinds)
    assert (to / rows / "rows-train.arrow").resolve() == cache / rows / "rows-train.arrow"


def test_without_a_list_all_data_of_the_named_datasets_is_copied(cache: Path, tmp_path: Path) -> None:
    """And nothing of the others is brought; a name that is not there is told with those that are."""
    to = tmp_path / "node"
    stage(cache, to, ("org/rows",))
    assert [one.name for one in to.iterdir() if one.is_dir()] == ["org___rows"]
    assert not any(path.is_symlink() for path in to.rglob("*"))
    with pytest.raises(DataError, match="no dataset org/row; there are org/other, org/rows"):
        read_cache(cache, ("org/row",))
    with pytest.raises(DataError, match="no such file in the cache"):
        read_cache(cache, (), ["org___rows/cache-2*.arrow"])
    for line in ("/etc/passwd", "../outside.arrow"):
        with pytest.raises(DataError, match=r"not in the cache|leads out"):
            read_cache(cache, (), [line])


def test_a_dataset_that_lies_elsewhere_by_a_link_is_brought_too(cache: Path, tmp_path: Path) -> None:
    """Its folder on the node is a folder; a link that leads above itself is told."""
    elsewhere = tmp_path / "large disk"
    (cache / "org___rows").rename(elsewhere)
    (cache / "org___rows").symlink_to(elsewhere)
    stage(cache, tmp_path / "node")
    brought = tmp_path / "node" / "org___rows"
    assert brought.is_dir() and not brought.is_symlink()
    arrow = "default/0.0.0/abc/rows-train.arrow"
    assert (brought / arrow).read_bytes() == (elsewhere / arrow).read_bytes()
    (elsewhere / "default" / "loop").symlink_to(elsewhere)
    with pytest.raises(DataError, match="it would never end"):
        read_cache(cache)


def test_what_jobs_make_of_it_stays_and_links_that_are_gone_come_back(cache: Path, tmp_path: Path) -> None:
    """A second job copies nothing; a file that was linked and is read now is copied, and the other way round."""
    to, rows = tmp_path / "node", "org___rows/default/0.0.0/abc"
    raw = f"{rows}/rows-train.arrow"
    stage(cache, to, read=[f"{rows}/cache-*.arrow"])
    (to / rows / "cache-ours.arrow").write_bytes(b"made here")
    (to / raw).unlink()
    (to / rows / "dataset_info.json").unlink()
    assert stage(cache, to, read=[f"{rows}/cache-*.arrow"]) == 1
    assert (to / raw).is_symlink() and (to / rows / "cache-ours.arrow").read_bytes() == b"made here"
    assert stage(cache, to, read=[f"{rows}/cache-*.arrow"]) == 0
    assert stage(cache, to, read=[raw]) == 1
    assert not (to / raw).is_symlink() and (to / raw).read_bytes() == (cache / raw).read_bytes()
    assert (to / f"{rows}/cache-1 [2]_00000_of_00002.arrow").is_symlink()
    assert (cache / raw).stat().st_nlink == 1
    (to / "org___rows/default/0.0.0/abc_builder.lock").write_text("held")
    assert verify_staged(to) == []


@pytest.mark.parametrize(
    ("text", "counts"), [("16", [16]), ("12(x2),6", [12, 12, 6]), ("4(x1),8(x3)", [4, 8, 8, 8]), (" 3 , 5 ", [3, 5])]
)
def test_slurms_short_form_of_counts_is_read(text: str, counts: list[int]) -> None:
    """Each node has its own number."""
    assert cpus_per_node(text) == counts


def test_the_number_of_workers_follows_the_job() -> None:
    """The variable of the older scripts first; a node that knows its number gets its own count, others the least."""
    assert job_workers({}, 3) == 3
    assert job_workers({"SLURM_JOB_CPUS_PER_NODE": "12(x2),6"}, 3) == 6
    assert job_workers({"SLURM_JOB_CPUS_PER_NODE": "12(x2),6", "SLURM_NODEID": "1"}, 3) == 12
    assert job_workers({"SLURM_JOB_CPUS_PER_NODE": "12(x2),6", "SLURM_NODEID": "2"}, 3) == 6
    assert job_workers({"SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_CPUS_PER_NODE": "12"}, 3) == 8
    assert job_workers({"_DATA_PREP_WORKERS": "5", "SLURM_CPUS_PER_TASK": "8"}, 3) == 5
    for bad in ("x", "4(x2", "-1", "0"):
        with pytest.raises(UsageError, match="_DATA_PREP_WORKERS"):
            job_workers({"_DATA_PREP_WORKERS": bad}, 3)


def test_places_follow_the_environment(tmp_path: Path) -> None:
    """The cache of a scratch where nothing else is said; a job's own folders, never one that jobs share."""
    assert default_cache({"SCRATCH": "/scratch/me"}) == Path("/scratch/me/cache/huggingface/datasets")
    assert default_cache({"SCRATCH": "/scratch/me", "HF_HOME": "/hf"}) == Path("/hf/datasets")
    assert default_cache({"SCRATCH": "/s", "HF_DATASETS_CACHE": "/d"}) == Path("/d")
    assert default_cache({}) == Path("~/.cache/huggingface/datasets").expanduser()
    found = training_environment(tmp_path / "data", {"SLURM_TMPDIR": "/local", "SLURM_JOB_ID": "7"}, cache=False)
    own = f"/local/hfassets-{os.getuid()}-7"
    assert found == {"HF_DATASETS_CACHE": f"{own}/datasets", "HF_HUB_OFFLINE": "1", "TMPDIR": f"{own}/tmp"}
    found = training_environment(tmp_path / "data", {}, cache=True)
    assert found["HF_DATASETS_CACHE"] == str(tmp_path / "data") and found["TMPDIR"].startswith(str(tmp_path))
