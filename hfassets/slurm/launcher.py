"""The run launcher: heavy runs become SLURM jobs, the rest run where Dagster's own launcher runs them.

Invariant: a run has one owner an event. This launcher submits, resumes, signals and answers for health; the reconciler
fails, adopts and cancels. What it knows of a run's job is the tag `.slurm/run`, which counts only when it names that
very run (a re-execution copies tags). Nothing is concluded about a job while the controller does not answer.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance, DagsterRun, Field, Noneable, Permissive, StringSource
from dagster._core.events import EngineEventData
from dagster._core.launcher import (
    CheckRunHealthResult,
    DefaultRunLauncher,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from hfassets.slurm import tags
from hfassets.slurm.attempts import Attempts, Intent
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.diagnosis import debug_text
from hfassets.slurm.endings import settle
from hfassets.slurm.errors import DeferredError, SlurmError
from hfassets.slurm.local_runs import LocalRuns
from hfassets.slurm.queue import SharedQueue
from hfassets.slurm.request import is_heavy, resolve, runs_with_the_daemon
from hfassets.slurm.settings import ROUTES, Settings, parse_settings, references
from hfassets.slurm.submission import Place, Submitter, plan_attempt
from hfassets.slurm.tags import RunRecord
from hfassets.slurm.termination import terminate
from hfassets.slurm.workload import expectation, workload

LOCAL_STARTS = 2
"""Local runs started at once. A code server has few threads, keeps one for each start until the run's process has
imported its code, and is taken for dead, with its runs, when none is left to answer heartbeats."""
CONFIG: dict[str, Any] = {
    "route": Field(
        StringSource, is_required=False, description=f"Which runs become SLURM jobs: {' | '.join(ROUTES)} [heavy]."
    ),
    "folder": Field(
        Noneable(StringSource),
        is_required=False,
        description="Scripts, logs and records of jobs; compute nodes must see it [<DAGSTER_HOME>/slurm].",
    ),
    "cluster": Field(Noneable(StringSource), is_required=False, description="Another cluster than the default (-M)."),
    "site": Field(Noneable(StringSource), is_required=False, description="A site profile (YAML); see slurm/profiles."),
    "resources": Field(Permissive(), is_required=False, description="What every job asks for unless told otherwise."),
    "profiles": Field(Permissive(), is_required=False, description="Named sets of resources."),
    "network": Field(
        Noneable(StringSource), is_required=False, description="Who has one: everywhere | daemon | partition:X."
    ),
    "environment": Field(Permissive(), is_required=False, description="Variables of every job; never a secret."),
    "export": Field(
        Noneable([str]), is_required=False, description="Names of variables to take over from the launching process."
    ),
    "preamble": Field(Noneable([str]), is_required=False, description="Shell lines before the worker (module load …)."),
    "activate": Field(Noneable(StringSource), is_required=False, description="A script to source (a virtual env's)."),
    "wrapper": Field(
        Noneable([str]), is_required=False, description="Words before the interpreter (srun --environment=…)."
    ),
    "extra_args": Field(Noneable([str]), is_required=False, description="More sbatch options, as they stand."),
    "python": Field(Noneable(StringSource), is_required=False, description="The interpreter on the nodes, full path."),
    "secrets_file": Field(
        Noneable(StringSource), is_required=False, description="NAME=value lines that jobs read; mode 600."
    ),
    "submissions_per_second": Field(Noneable(float), is_required=False, description="sbatch calls of a host [5]."),
    "notices": Field(
        {
            "file": Field(Noneable(StringSource), is_required=False, description="A file, one JSON object a line."),
            "webhook": Field(Noneable(StringSource), is_required=False, description="A URL; give it as env: NAME."),
        },
        is_required=False,
        description="Where failed runs are told of.",
    ),
    "max_jobs": Field(Noneable(int), is_required=False, description="Jobs of this instance in the queue at once."),
}


class SlurmRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """`run_launcher: {module: hfassets.slurm, class: SlurmRunLauncher, config: …}` in dagster.yaml."""

    def __init__(self, config: Mapping[str, Any], inst_data: ConfigurableClassData | None = None) -> None:
        self._config = config
        self._inst_data = inst_data
        self._inner = DefaultRunLauncher()
        self._starting = threading.BoundedSemaphore(LOCAL_STARTS)
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What the launcher was configured with."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The schema of `config`."""
        return CONFIG

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> SlurmRunLauncher:
        """Made by Dagster. Raises SlurmError for a config that cannot work."""
        return cls(config_value, inst_data)

    def register_instance(self, instance: DagsterInstance) -> None:
        """Raises SlurmError when dagster.yaml and the launcher do not fit together."""
        super().register_instance(instance)
        self._inner.register_instance(instance)
        problem = monitoring_problem(instance)
        if problem:
            raise SlurmError(problem)
        # Mistakes in the config are to be seen when Dagster starts, not with the first run.
        _ = self.settings

    @cached_property
    def settings(self) -> Settings:
        """The launcher's settings."""
        return parse_settings(self._config, Path(self._instance.root_directory))

    @cached_property
    def attempts(self) -> Attempts:
        """What is on disk about jobs."""
        return Attempts(self.settings.folder)

    @cached_property
    def client(self) -> SlurmClient:
        """The cluster's commands."""
        return SlurmClient(self.settings.cluster)

    @cached_property
    def queue(self) -> SharedQueue:
        """The queue, asked for once by all processes of the host."""
        return SharedQueue(self.client)

    @cached_property
    def submitter(self) -> Submitter:
        """Submits what is intended."""
        return Submitter(self.settings, self.client, self.queue, self.attempts)

    @cached_property
    def storage_id(self) -> str:
        """Which Dagster instance this is."""
        return str(self._instance.run_storage.get_run_storage_id())  # type: ignore[attr-defined]

    @cached_property
    def local_runs(self) -> LocalRuns:
        """The health of runs that are no jobs."""
        return LocalRuns(self._instance)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Submit the run's job, or have the run started on the code server's host.

        A run that cannot be resolved, or that the cluster refuses for good, is failed with that one line.
        """
        run = context.dagster_run
        try:
            work = workload(run, context.workspace)
            if is_heavy(work) or (self.settings.route == "all" and not runs_with_the_daemon(work, self.settings.site)):
                request = resolve(work, self.settings.site)
                if (said := expectation(run, context.workspace)) is not None:
                    self._instance.add_run_tags(run.run_id, tags.expectation(run, said))
                self._launch(run, 1, request)
                return
        except SlurmError as error:
            # Raised on, it would be shown with a traceback, and as an error of the queue.
            self._instance.report_run_failed(run, f"No SLURM job for this run: {error}")
            return
        self._instance.add_run_tags(run.run_id, tags.local(run))
        with self._starting:
            self._inner.launch_run(context)

    @property
    def supports_resume_run(self) -> bool:
        """A worker that died is replaced by another job."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Submit another job for a run that has begun."""
        run = context.dagster_run
        if tags.record(run) is None:
            raise SlurmError(f"run {run.run_id} is no SLURM job, and only those are resumed")
        latest = self.attempts.latest(run.run_id)
        try:
            work = workload(run, context.workspace)
            self._launch(run, (latest.attempt if latest else 1) + 1, resolve(work, self.settings.site))
        except SlurmError as error:
            self._instance.report_run_failed(run, f"No new SLURM job for this run: {error}")

    def terminate(self, run_id: str) -> bool:
        """Ask the run's worker to stop: a signal, a while to clean up, then the job is cancelled.

        True when the job was there and is ending. A job that still waits is cancelled at once.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        found = tags.record(run)
        if found is None:
            return bool(self._inner.terminate(run_id))
        stepped = any(word.endswith("srun") for word in self.settings.site.wrapper)
        return terminate(self._instance, self.client, self.queue, run, found, stepped=stepped)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Dagster asks for each started run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """FAILED only where a new job is to go on with the run; everything else is the reconciler's to conclude."""
        found = tags.record(run)
        if found is None:
            return self.local_runs.check(run)
        end = settle(found, self.queue.snapshot(), self.client, self.attempts, time.time())
        worker = f"{found.job_id}:{found.attempt}"
        if end is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=worker)
        status = WorkerStatus.FAILED if end.resume else WorkerStatus.RUNNING
        return CheckRunHealthResult(status, end.message, run_worker_id=worker)

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """What is known of the run's job, and the end of what it wrote to stderr."""
        found = tags.record(run)
        if found is None:
            return self._inner.get_run_worker_debug_info(run, include_container_logs=include_container_logs)
        return debug_text(found, self.client, self.attempts, logs=include_container_logs is not False)

    def join(self, timeout: int = 30) -> None:
        """Wait for the runs that this process started on this host; jobs need nobody to wait for them."""
        self._inner.join(timeout)

    def dispose(self) -> None:
        """Let go of what the inner launcher holds."""
        self._inner.dispose()

    def submit_attempt(self, run: DagsterRun, intent: Intent) -> str | None:
        """Submit what was intended; the job id, or None when the cluster does not take it now.

        Raises RefusedError when it never will.
        """
        try:
            job_id, cluster = self.submitter.submit(intent, self.storage_id)
        except DeferredError as error:
            self._instance.add_run_tags(run.run_id, tags.status(state="DEFERRED", reason=str(error)))
            self._instance.report_engine_event(
                f"The SLURM job is not submitted yet: {error}. It will be, as soon as the cluster takes it.", run
            )
            return None
        self.record_job(run, intent, job_id, cluster, f"Submitted SLURM job {job_id} (attempt {intent.attempt}).")
        return job_id

    def record_job(self, run: DagsterRun, intent: Intent, job_id: str, cluster: str | None, message: str) -> None:
        """Tell the run which job it is."""
        found = RunRecord(run.run_id, job_id, cluster, intent.attempt)
        self._instance.add_run_tags(
            run.run_id, {**found.as_tag(), **tags.status(job=job_id, state="SUBMITTED", attempt=intent.attempt)}
        )
        folder = self.attempts.attempt_folder(run.run_id, intent.attempt)
        self._instance.report_engine_event(
            message, run, EngineEventData({"script and logs": str(folder), "options": " ".join(intent.directives)})
        )

    def _launch(self, run: DagsterRun, attempt: int, request: Any) -> None:
        intent, script = plan_attempt(
            self.settings,
            self.attempts,
            self.storage_id,
            run.run_id,
            attempt,
            request,
            self._place(run),
            os.environ,
        )
        self.attempts.record_intent(intent, script)
        self._instance.add_run_tags(
            run.run_id,
            {
                **RunRecord(run.run_id, None, self.settings.cluster, attempt).as_tag(),
                **tags.status(state="SUBMITTING", attempt=attempt),
            },
        )
        self.submit_attempt(run, intent)

    def _place(self, run: DagsterRun) -> Place:
        origin = run.job_code_origin
        home = Path(self._instance.root_directory)
        if origin is None:
            return Place(home, sys.executable, home, self._needs)
        repository = origin.repository_origin
        folder = getattr(repository.code_pointer, "working_directory", None)
        return Place(home, repository.executable_path, Path(folder) if folder else home, self._needs)

    @cached_property
    def _needs(self) -> frozenset[str]:
        """Variables that dagster.yaml refers to; a worker launches nothing, so the launcher's own are left out."""
        file = Path(self._instance.root_directory) / "dagster.yaml"
        document = yaml.safe_load(file.read_text()) if file.exists() else None
        return frozenset(references({key: value for key, value in (document or {}).items() if key != "run_launcher"}))


def monitoring_problem(instance: DagsterInstance) -> str | None:
    """What of `run_monitoring` in dagster.yaml would make Dagster declare waiting or requeued jobs dead."""
    settings = "start_timeout_seconds: 1000000000, max_resume_run_attempts: 5"
    if not instance.run_monitoring_enabled:
        return f"dagster.yaml: run_monitoring is off, and SLURM runs need it: {{enabled: true, {settings}}}"
    if instance.run_monitoring_start_timeout_seconds < 10**8:
        return (
            f"dagster.yaml: run_monitoring.start_timeout_seconds is {instance.run_monitoring_start_timeout_seconds}:"
            f" a job that waits longer in the queue would be declared dead; set {{{settings}}}"
        )
    if instance.run_monitoring_max_resume_run_attempts < 1:
        return (
            "dagster.yaml: run_monitoring.max_resume_run_attempts is 0: a job that SLURM requeues or stops at its time"
            f" limit would fail its run; set {{{settings}}}"
        )
    return None
