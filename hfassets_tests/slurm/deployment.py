"""A whole deployment on a real cluster: Dagster's servers with launcher and reconciler, and many dataset configs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import yaml
from dagster import DagsterInstance

from hfassets.demo.home import DemoHome
from hfassets.demo.hub_app import TOKEN
from hfassets.demo.hub_server import SampleHub
from hfassets.demo.ui import services
from hfassets_tests.cluster import Cluster, Postgres
from hfassets_tests.dagster_service import Service, wait_for

ROOT = Path(__file__).parents[2]
LOCATIONS = {
    "hfassets": "hfassets.definitions",
    "slurm": "hfassets.slurm.definitions",
    "trial": "hfassets_tests.slurm.location",
}
CONFIGS = 20


class SlurmService(Service):
    """A Service whose heavy runs are jobs of `cluster`."""

    cluster: Cluster
    secrets: tuple[str, ...] = ()

    def run(self, run_id: str) -> dict[str, Any]:
        """Status, tags and the messages of a run's events, oldest first."""
        return dict(
            self.graphql(
                """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status runId
                     tags { key value } eventConnection { events { ... on MessageEvent { message } } } } } }""",
                id=run_id,
            )["runOrError"]
        )

    def tags(self, run_id: str) -> dict[str, str]:
        """A run's tags."""
        return {tag["key"]: tag["value"] for tag in self.run(run_id)["tags"]}

    def messages(self, run_id: str) -> list[str]:
        """What the run page says."""
        return [event.get("message") or "" for event in self.run(run_id)["eventConnection"]["events"]]

    def job(self, run_id: str) -> str:
        """The job of a run; waits until it is recorded."""

        def recorded() -> str | None:
            document = orjson.loads(self.tags(run_id).get(".slurm/run", "{}"))
            return document.get("job_id") if document.get("run_id") == run_id else None

        return wait_for(f"run {run_id} to have a job", recorded)

    def launch_trial(self, asset: str, tags: dict[str, str] | None = None, **config: Any) -> str:
        """Materialise one of the trial location's assets."""
        return self.launch([asset], location="trial", tags=tags, **({asset: config} if config else {}))

    def check_only(self, asset: str, check: str, partition: str) -> str:
        """Evaluate a check of one partition and materialise nothing, as «Execute check» does; returns the run id."""
        outcome = self.graphql(
            """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }""",
            params={
                "selector": {
                    "repositoryName": "__repository__",
                    "repositoryLocationName": "hfassets",
                    "jobName": "__ASSET_JOB",
                    "assetSelection": [],
                    "assetCheckSelection": [{"assetKey": {"path": [asset]}, "name": check}],
                },
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
                "runConfigData": {},
            },
        )["launchRun"]
        assert outcome["__typename"] == "LaunchRunSuccess", outcome
        return str(outcome["run"]["runId"])

    def switch_on(self, schedule: str) -> None:
        """Start a schedule of the trial location."""
        outcome = self.graphql(
            """mutation ($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
                 __typename ... on PythonError { message } } }""",
            selector={
                "repositoryName": "__repository__",
                "repositoryLocationName": "trial",
                "scheduleName": schedule,
            },
        )["startSchedule"]
        assert outcome["__typename"] == "ScheduleStateResult", outcome

    def terminate(self, run_id: str, *, force: bool = False) -> None:
        """«Terminate»; with `force` the box «Force termination immediately» is ticked."""
        outcome = self.graphql(
            """mutation ($id: String!, $policy: TerminateRunPolicy!) {
                 terminateRun(runId: $id, terminatePolicy: $policy)
                 { __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }""",
            id=run_id,
            policy="MARK_AS_CANCELED_IMMEDIATELY" if force else "SAFE_TERMINATE",
        )["terminateRun"]
        assert outcome["__typename"] == "TerminateRunSuccess", outcome

    def delete(self, run_id: str) -> None:
        """«Delete» a run."""
        outcome = self.graphql("mutation ($id: String!) { deletePipelineRun(runId: $id) { __typename } }", id=run_id)[
            "deletePipelineRun"
        ]
        assert outcome["__typename"] == "DeletePipelineRunSuccess", outcome

    def reexecute(self, run_id: str) -> str:
        """«Re-execute all»; returns the new run's id."""
        outcome = self.graphql(
            """mutation ($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }""",
            params={"parentRunId": run_id, "strategy": "ALL_STEPS"},
        )["launchRunReexecution"]
        assert outcome["__typename"] == "LaunchRunSuccess", outcome
        return str(outcome["run"]["runId"])

    def printed(self, run_id: str) -> str:
        """What the run page shows under stdout and stderr of the run's step."""
        events = self.graphql(
            """query ($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
                 __typename ... on LogsCapturedEvent { fileKey } } } } } }""",
            id=run_id,
        )["runOrError"]["eventConnection"]["events"]
        key = next(event["fileKey"] for event in events if event["__typename"] == "LogsCapturedEvent")
        logs = self.graphql(
            "query ($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }",
            key=[run_id, "compute_logs", key],
        )["capturedLogs"]
        return f"{logs['stdout'] or ''}\n{logs['stderr'] or ''}"

    def worked(self, name: str = "") -> list[str]:
        """The lines of what the trial location's assets did."""
        file = self.home.root / "worked.log"
        return [line for line in (file.read_text().splitlines() if file.exists() else []) if name in line]

    def wait_tag(self, run_id: str, name: str, value: str, timeout: float = 180.0) -> None:
        """Wait until `slurm-status/<name>` of a run is `value`."""
        wait_for(
            f"slurm-status/{name} of run {run_id} to be {value}",
            lambda: self.tags(run_id).get(f"slurm-status/{name}") == value,
            timeout,
        )

    def wait_message(self, run_id: str, text: str, timeout: float = 180.0) -> str:
        """The first message of a run that contains `text`; waits for it."""
        return wait_for(
            f"«{text}» on the page of run {run_id}",
            lambda: next((message for message in self.messages(run_id) if text in message), None),
            timeout,
        )


def many_configs(configs: int, rows: int = 200) -> dict[str, bytes]:
    """The files of a dataset of many small configs."""
    files, entries = {}, []
    for number in range(configs):
        name = f"c{number:02}"
        lines = (orjson.dumps({"id": row, "text": f"{number} {row}"}) for row in range(rows))
        files[f"{name}/train.jsonl"] = b"\n".join(lines) + b"\n"
        entries.append({"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*"}]})
    files["README.md"] = f"---\n{yaml.safe_dump({'configs': entries})}---\n# Many\n".encode()
    return files


def write_config(home: DemoHome, *, postgres: Postgres | None, launcher: dict[str, Any] | None = None) -> None:
    """slurm/dagster.slurm.yaml as it stands, but for the storage on one host, and shorter waits."""
    document = yaml.safe_load((ROOT / "slurm" / "dagster.slurm.yaml").read_text())
    if postgres is None:
        del document["storage"]
    document["run_monitoring"]["poll_interval_seconds"] = 5
    document["run_launcher"]["config"] |= {
        "resources": {"nodes": 1, "cpus": 1, "memory": "900M", "time": "00:10:00"},
        "submissions_per_second": 20.0,
        "export": ["TRIAL_FOLDER"],
        "secrets_file": str(home.root / "secrets.env"),
        "notices": {"file": str(home.root / "notices.jsonl")},
        **(launcher or {}),
    }
    home.dagster.mkdir(parents=True, exist_ok=True)
    (home.dagster / "dagster.yaml").write_text(yaml.safe_dump(document))


def deadly_sbatch(folder: Path) -> Path:
    """A folder for PATH whose `sbatch` kills its caller, once, where a file kill-before or kill-after says so."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    script = bin_folder / "sbatch"
    script.write_text(
        "#!/bin/bash\n"
        f"mv {folder}/kill-before {folder}/killed 2>/dev/null && kill -9 $PPID && exit 1\n"
        f'answer=$({shutil.which("sbatch")} "$@") || exit $?\n'
        f"mv {folder}/kill-after {folder}/killed 2>/dev/null && kill -9 $PPID && exit 1\n"
        'echo "$answer"\n'
    )
    script.chmod(0o755)
    return bin_folder


MORE = """\
slurm:
  teacher_logits: {memory: 4000M}
  distillation_tokens: {mode: parts, memory: 1500M}
  preprocessed_dataset: {mode: parts, memory: 1500M}
distillation:
- name: small
  total_samples: 30
  category_ratios: {instruction_chat: 0, code: 0, math_reasoning: 1, factual_qa: 0}
  datasets: {math: {enabled: false}, numina_cot: {enabled: false}}
  tokens: {tokenizer: EleutherAI/pythia-70m, max_seq_length: 128, part_size: 4kB}
  teacher_config: {enabled: true, model_path: EleutherAI/pythia-70m}
staging:
- name: blocks
  source: {dataset: many, config: c00}
  tokenizer: EleutherAI/pythia-70m
  block_size: 8
  part_size: 1kB
"""


@contextmanager
def deployment(
    folder: Path,
    cluster: Cluster,
    *,
    postgres: Postgres | None = None,
    launcher: dict[str, Any] | None = None,
    configs: int = CONFIGS,
    environment: dict[str, str] | None = None,
) -> Iterator[SlurmService]:
    """Servers, a Hub with one dataset of many configs, their raw files fetched; nothing prepared yet."""
    home = DemoHome(folder)
    with ExitStack() as exits:
        hub = exits.enter_context(SampleHub(folder / "hub-store"))
        hub.add_repo("team/many", many_configs(configs))
        (folder / "catalog.yaml").write_text(
            "hub: {endpoint: '${HF_ENDPOINT}', backoff_factor: 0.05}\n"
            f"storage: {{hub_cache: {folder}/hub, datasets_cache: {folder}/datasets, output_root: {folder}/data}}\n"
            "datasets: [{repo: team/many, name: many}]\n"
            "c4: [{name: rows, num_samples: 200, max_lines_per_file: 50, slurm: {cpus: 1}}]\n" + MORE
        )
        with patch.dict(os.environ, {**cluster.environment, **(environment or {})}):
            write_config(home, postgres=postgres, launcher=launcher)
            os.environ["PATH"] = f"{deadly_sbatch(folder)}:{os.environ['PATH']}"
            os.environ["PYTHONPATH"] = str(ROOT)
            os.environ["TRIAL_FOLDER"] = str(folder)
            os.environ["DAGSTER_LOG_FOLDER"] = str(folder / "compute-logs")
            if postgres is not None:
                os.environ |= {
                    "DAGSTER_PG_HOST": "127.0.0.1",
                    "DAGSTER_PG_PORT": str(postgres.port),
                    "DAGSTER_PG_USER": postgres.user,
                    "DAGSTER_PG_PASSWORD": postgres.password,
                    "DAGSTER_PG_DATABASE": postgres.database,
                }
            home.create(hub.url)
            os.environ["HF_TOKEN"] = TOKEN
            secrets = {name: os.environ.get(name, "") for name in ("HF_TOKEN", "DAGSTER_PG_PASSWORD")}
            secrets_file = folder / "secrets.env"
            secrets_file.touch(0o600)
            secrets_file.write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
            home.synchronise()
            fetch = [sys.executable, "-m", "hfassets.cli.main", "hub", "download", "--raw-only"]
            subprocess.run([*fetch, "--dataset-name", "team/many", "--revision", hub.commit("team/many")], check=True)
            with DagsterInstance.get() as instance:
                instance.event_log_storage.set_concurrency_slots("heavy", 1000)
            env = dict(os.environ)
            servers = exits.enter_context(services(home, locations=LOCATIONS))
        service = SlurmService(servers.url, home, hub, env, servers.processes, exits)
        service.cluster = cluster
        service.secrets = (TOKEN, *((postgres.password,) if postgres is not None else ()))
        yield service


def tick_passes(service: SlurmService, count: int = 1) -> None:
    """Wait until the reconciler has ticked `count` more times."""
    for _ in range(count):
        service.wait_for_tick("slurm_reconciler", time.time(), "slurm")
