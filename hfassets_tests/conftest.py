"""Fixtures that every test may use: the sample Hub, and clean environments for real clients."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from hfassets.demo.hub_server import SampleHub
from hfassets_tests.dagster_service import service

__all__ = ["service"]

# Names that would lead a test to a real service, or lend it somebody's rights.
LEAKING = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"),
    *("HF_HOME", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT"),
    *("HF_HUB_DISABLE_XET", "HF_HUB_ENABLE_HF_TRANSFER", "HFASSETS_CATALOG", "DAGSTER_HOME"),
)

# A busy machine is no failure of what is tested.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """No proxy, token or cache of the person who runs the tests reaches them."""
    for name in LEAKING:
        os.environ.pop(name, None)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Models here are tiny: several threads each, in several processes, only wait for one another.
    os.environ["OMP_NUM_THREADS"] = "1"
    # A shell that starts the tests in the background has SIGINT ignored; children inherit that, and Dagster makes
    # SIGTERM do what SIGINT does: nothing could be ended any more.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class OneCluster(LoadScopeScheduling):  # type: ignore[misc]
    """Over the processes, a file stays whole, and so do the tests that share a cluster or a deployment."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneCluster:
    """The marks of `--dist loadgroup` are not seen with pytest 9.2 and xdist 3.8: ids are made of something else."""
    return OneCluster(config, log)


def group_of(path: str) -> str:
    """Which tests stay together, by the path of their file."""
    parts = Path(path).parts
    shared = {"slurm": "slurm", "browser": "service"}.get(parts[-2] if len(parts) > 1 else "")
    return shared or ("service" if parts[-1] == "test_service.py" else path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that share a cluster or a deployment come first, since they take longest."""
    groups = {"slurm": 0, "service": 1}
    items.sort(key=lambda item: groups.get(group_of(str(item.path)), len(groups)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """With CI=true nothing may be skipped for want of a system package: there it is a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped where CI=true allows no skip: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):  # type: ignore[no-untyped-def]
    """The same for whole modules that skip themselves."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped where CI=true allows no skip: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def sample_hub_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SampleHub]:
    """One server for the session; tests take `sample_hub`. Its content is built once and kept in pytest's cache."""
    cache = getattr(request.config, "cache", None)
    with SampleHub(cache.mkdir("sample-hub") if cache else tmp_path_factory.mktemp("sample-hub")) as hub:
        yield hub


@pytest.fixture
def sample_hub(sample_hub_server: SampleHub) -> Iterator[SampleHub]:
    """The sample Hub, as new: no faults, an empty log, none of the repos that another test added."""
    sample_hub_server.reset()
    yield sample_hub_server
    sample_hub_server.reset()


@pytest.fixture(autouse=True)
def runtime_folder_of_the_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request budget that one test has used up is left for the next."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))


@dataclass(frozen=True)
class ClientEnvironment:
    """A clean place for one test's clients; `variables` is the whole environment of their processes."""

    hub: SampleHub
    home: Path
    variables: dict[str, str] = field(repr=False)

    @property
    def hub_cache(self) -> Path:
        """HF_HUB_CACHE."""
        return self.home / "hub"

    @property
    def datasets_cache(self) -> Path:
        """HF_DATASETS_CACHE."""
        return self.home / "datasets"

    def run(
        self, *command: str | Path, check: bool = True, timeout: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in this environment (more variables by keyword); its output is in the failure."""
        words = [str(word) for word in command]
        env = {**self.variables, **variables}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            pytest.fail(
                f"{' '.join(words)[:200]} gave {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
            )
        return done

    def python(
        self, code: str, *arguments: str | Path, check: bool = True, timeout: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code (indentation is taken off) in a process of its own: the clients read their environment once,
        at import."""
        return self.run(
            sys.executable, "-c", textwrap.dedent(code), *arguments, check=check, timeout=timeout, **variables
        )


@pytest.fixture
def hub_env(tmp_path: Path, sample_hub: SampleHub, monkeypatch: pytest.MonkeyPatch) -> ClientEnvironment:
    """HF_HOME and HF_ENDPOINT of this test alone, set for this process and for the clients it starts."""
    home = tmp_path / "hf-home"
    settings = {
        "HF_ENDPOINT": sample_hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    kept = {
        name: os.environ[name]
        for name in ("PATH", "HOME", "LANG", "TMPDIR", "CI", "XDG_RUNTIME_DIR", "OMP_NUM_THREADS")
        if name in os.environ
    }
    return ClientEnvironment(sample_hub, home, {**kept, **settings})


@pytest.fixture(scope="session")
def streaming() -> Any:
    """The unmodified library. Its torchvision is built for CUDA and asks for two operators that a CPU torch lacks."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    found = importlib.import_module("streaming")
    found._library = library
    return found
