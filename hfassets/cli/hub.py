"""`hfassets hub`: download, prepare and test-load, with the flags that users of the older scripts know."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hfassets.cli.hub_verify import verify
from hfassets.cli.options import PATH, Size, hub_cache_option, no_token, options, places, state_option
from hfassets.cli.output import json_option, show
from hfassets.cli.progress import ProgressDisplay
from hfassets.errors import HfassetsError, PartialFailureError, UsageError
from hfassets.report.tables import build_table
from hfassets.report.units import counted, format_bytes, format_seconds

if TYPE_CHECKING:
    from hfassets.hub.download import DownloadRequest, DownloadResult
    from hfassets.hub.load_check import LoadReport
    from hfassets.hub.options import HubOptions
    from hfassets.hub.plan import PlanSummary

# s. A command waits for whoever writes the same thing, saying so: both end well, and nothing is fetched twice.
LEASE_WAIT = 86_400.0

dataset_options = options(
    click.option("--dataset-name", required=True, metavar="REPO", help="The dataset's repo id, like owner/name."),
    click.option("--subset-name", metavar="CONFIGS", help="Configs, separated by commas [default: all]."),
)
offline_option = click.option("--offline", is_flag=True, help="Use what the caches hold; as HF_HUB_OFFLINE=1 does.")
num_proc_option = click.option("--num-proc", type=click.IntRange(1), help="Processes that prepare a config.")

fetch_options = options(
    dataset_options,
    click.option("--split", metavar="SPLIT", help="Accepted for old scripts: all splits are always prepared."),
    click.option("--cache-dir", type=PATH, help="The cache of `datasets`, for Arrow files."),
    hub_cache_option,
    click.option("--revision", default="main", show_default=True, help="A branch, a tag or a commit."),
    num_proc_option,
    click.option("--workers", type=click.IntRange(1), default=8, show_default=True, help="Files fetched at once."),
    click.option("--max-retries", type=click.IntRange(0), default=5, show_default=True, help="For each request."),
    click.option(
        "--backoff-factor", type=click.FloatRange(0), default=1.0, show_default=True, help="In s, doubled each retry."
    ),
    click.option(
        "--transfer", type=click.Choice(["http", "hf_transfer", "xet"]), default="http", show_default=True,
        help="Only http has our budget, retries and resume.",
    ),
    click.option("--include", multiple=True, metavar="GLOB", help="Only these files of the repo."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Not these."),
    click.option(
        "--files", type=click.Choice(["config", "all"]), default="config", show_default=True,
        help="The files of a config, or the whole repo (rows that name other files need it).",
    ),
    click.option("--max-bytes", type=Size(), help="Refuse to fetch more than this, like 200GB."),
    click.option("--force-prepare", is_flag=True, help="Prepare again what is prepared."),
    click.option("--trust-remote-code", is_flag=True, help="Accepted for old scripts: scripts are never run."),
    offline_option,
    state_option,
    json_option,
    no_token,
)  # fmt: skip


@click.group()
def hub() -> None:
    """Download, verify, repair and prepare datasets of the Hugging Face Hub.

    The token is taken from HF_TOKEN, HUGGING_FACE_HUB_TOKEN or the login file, the Hub's address from HF_ENDPOINT.
    """


@hub.command()
@fetch_options
@click.option("--force-redownload", is_flag=True, help="Fetch and prepare again what is there.")
@click.option("--raw-only", is_flag=True, help="Only the raw files, nothing prepared.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and how long the limit makes it.")
def download(**given: Any) -> None:
    """Fetch the raw files of a dataset, each proven by its hash, and prepare them for `load_dataset`."""
    _fetch(given)


@hub.command()
@fetch_options
def prepare(**given: Any) -> None:
    """Prepare a dataset for `load_dataset`; raw files that are missing are fetched unless offline."""
    _fetch(given, prepare_only=True)


def _fetch(given: dict[str, Any], *, prepare_only: bool = False) -> None:
    from hfassets.hub.download import DownloadError, DownloadRequest, download_dataset, parse_configs, plan_download

    raw_only, dry_run = given.get("raw_only", False), given.get("dry_run", False)
    if given["cache_dir"] is None and not (raw_only or dry_run):
        raise UsageError("--cache-dir is missing: the folder for Arrow files (or --raw-only for raw files alone)")
    if given["split"] not in (None, "train"):
        click.echo(f"notice: --split {given['split']} is ignored, all splits are prepared", err=True)
    if given["trust_remote_code"]:
        click.echo("notice: --trust-remote-code is ignored, scripts of a dataset are never run", err=True)
    where = places(given["state_dir"], given["hub_cache"])
    request = DownloadRequest(
        repo_id=given["dataset_name"],
        hub_cache=where.hub_cache,
        datasets_cache=given["cache_dir"] or Path(),
        state=where.state,
        configs=parse_configs(given["subset_name"]),
        revision=given["revision"],
        include=given["include"],
        exclude=given["exclude"],
        files=given["files"],
        transfer=given["transfer"],
        workers=given["workers"],
        max_bytes=given["max_bytes"],
        num_proc=given["num_proc"],
        raw_only=raw_only,
        prepare_only=prepare_only,
        force_redownload=given.get("force_redownload", False),
        force_prepare=given["force_prepare"],
        lease_wait=LEASE_WAIT,
    )
    hub_options = _hub_options(given["max_retries"], given["backoff_factor"], given["offline"])
    json_path = given["json_path"]
    with ProgressDisplay() as progress:
        if dry_run:
            _show_plan(json_path, request, plan_download(request, hub_options, progress))
            return
        try:
            result = download_dataset(request, hub_options, progress)
        except DownloadError as error:
            _show_download(json_path, request, error.result, error)
            raise
    _show_download(json_path, request, result)


def _hub_options(max_retries: int = 5, backoff_factor: float = 1.0, offline: bool = False) -> HubOptions:
    from hfassets.hub.options import hub_options

    if offline:
        # For `datasets` as well, which reads its environment when it is imported.
        os.environ["HF_HUB_OFFLINE"] = "1"
    return hub_options(max_retries=max_retries, backoff_factor=backoff_factor)


def _show_plan(json_path: str | None, request: DownloadRequest, plans: Iterable[tuple[str, PlanSummary]]) -> None:
    plans = tuple(plans)
    columns = ["config", "files>", "size>", "cached>", "to fetch>", "bytes>", "requests>", "hours>"]
    rows = [
        (config, plan.files, format_bytes(plan.bytes), plan.cached_files, plan.fetch_files,
         format_bytes(plan.fetch_bytes), plan.requests, f"{plan.hours:.2f}")
        for config, plan in plans
    ]  # fmt: skip
    document = {
        "repo_id": request.repo_id,
        "dry_run": True,
        "configs": [{"config": config, **_fields(plan)} for config, plan in plans],
    }
    limits = {str(plan.quota.requests) + f" requests in {plan.quota.window_s:.0f} s" for _, plan in plans}
    lines = [f"Present limit: {limit}." for limit in sorted(limits)]
    show(json_path, document, build_table(columns, rows).rich(), "", *lines, "Nothing was fetched.")


def _show_download(
    json_path: str | None, request: DownloadRequest, result: DownloadResult, error: HfassetsError | None = None
) -> None:
    from hfassets.hub.download import WHOLE_REPO

    taken = {snapshot.config or WHOLE_REPO: snapshot for snapshot in result.snapshots}
    prepared = {dataset.config: dataset for dataset in result.prepared}
    failed = dict(error.failures) if isinstance(error, PartialFailureError) else {}
    rows, configs = [], []
    for config in dict.fromkeys([*taken, *prepared, *failed]):
        raw, arrow = taken.get(config), prepared.get(config)
        state = "FAILED" if config in failed else "was ready" if arrow and arrow.reused else "ok"
        rows.append((
            config, state,
            len(raw.files) if raw else None,
            format_bytes(raw.bytes_fetched) if raw else "",
            format_bytes(raw.bytes_cached) if raw else "",
            sum(arrow.splits.values()) if arrow else None,
            format_bytes(arrow.size) if arrow else "",
        ))  # fmt: skip
        configs.append({
            "config": config,
            "ok": config not in failed,
            "error": failed.get(config),
            "raw": raw and {name: value for name, value in _fields(raw).items() if name != "files"}
            | {"files": len(raw.files)},
            "prepared": arrow and {name: value for name, value in _fields(arrow).items() if name != "files"}
            | {"files": len(arrow.files)},
        })  # fmt: skip
    waits: dict[str, list[float]] = defaultdict(list)
    for wait in result.waits:
        waits[wait.reason].append(wait.seconds)
    document = {
        "repo_id": result.repo_id,
        "revision": request.revision,
        "commit": result.commit,
        "hub_cache": request.hub_cache,
        "configs": configs,
        "configs_ok": len(configs) - len(failed),
        "configs_failed": len(failed),
        "bytes_fetched": sum(snapshot.bytes_fetched for snapshot in result.snapshots),
        "bytes_cached": sum(snapshot.bytes_cached for snapshot in result.snapshots),
        "waited_s": round(result.waited_s, 3),
        "waits": [
            {"reason": reason, "times": len(each), "seconds": round(sum(each), 3)} for reason, each in waits.items()
        ],
        "report": result.report,
    }
    good = counted(len(configs) - len(failed), "config")
    show(
        json_path,
        document,
        f"{result.repo_id} at {result.commit}: {good} ok, {len(failed)} failed",
        build_table(["config", "state", "files>", "fetched>", "cached>", "rows>", "Arrow>"], rows).rich(),
        *_waited(result.waited_s, waits),
        *(["To load:", *(f"  {dataset.load_call}" for dataset in result.prepared)] if result.prepared else []),
        *([f"Raw files: {next(iter(taken.values())).folder}"] if request.raw_only and taken else []),
    )


def _waited(seconds: float, waits: dict[str, list[float]]) -> list[str]:
    if not waits:
        return []
    lines = [f"Waited {format_seconds(seconds)} for the Hub:"]
    ranked = sorted(waits.items(), key=lambda item: -sum(item[1]))
    lines += [f"  {counted(len(each), 'time')}, {format_seconds(sum(each))}: {reason}" for reason, each in ranked[:10]]
    return [*lines, *([f"  and {len(ranked) - 10} more reasons"] if len(ranked) > 10 else [])]


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@hub.command(name="test-load")
@dataset_options
@click.option("--split", default="train", show_default=True, help="A split, or some of its rows: train[0:100].")
@click.option("--cache-dir", type=PATH, help="The cache of `datasets` [default: HF_DATASETS_CACHE].")
@click.option(
    "--method",
    type=click.Choice(["builder_load", "default"]),
    default="builder_load",
    show_default=True,
    help="Take what is prepared, or call load_dataset.",
)
@click.option("--streaming", is_flag=True, help="Read from the Hub row by row, prepare nothing.")
@click.option("--revision", help="A branch, a tag or a commit [default: the newest, or the newest that is prepared].")
@num_proc_option
@offline_option
@json_option
@no_token
def test_load(
    dataset_name: str,
    subset_name: str | None,
    split: str,
    cache_dir: Path | None,
    method: Literal["builder_load", "default"],
    streaming: bool,
    revision: str | None,
    num_proc: int | None,
    offline: bool,
    json_path: str | None,
) -> None:
    """Load what was prepared as a training script would, and show its columns and first rows."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from hfassets.hub.download import parse_configs
    from hfassets.hub.load_check import LoadRequest, check_load

    request = LoadRequest(
        repo_id=dataset_name,
        configs=parse_configs(subset_name),
        split=split or None,
        cache_dir=cache_dir,
        method=method,
        streaming=streaming,
        num_proc=num_proc,
        revision=revision,
    )
    with ProgressDisplay() as progress:
        report = check_load(request, progress)
    _show_load(json_path, report)
    if report.failures:
        total = len({one.config for one in report.loaded}) + len(report.failures)
        raise PartialFailureError(f"configs of {dataset_name}", report.failures, total)


def _show_load(json_path: str | None, report: LoadReport) -> None:
    rows = []
    for one in report.loaded:
        more = f", and {one.more_columns} more" if one.more_columns else ""
        rows.append(
            (one.config, one.split, "streamed" if one.rows is None else one.rows, ", ".join(one.columns) + more)
        )
    rows += [(config, "", "FAILED", "") for config, _ in report.failures]
    lines: list[str] = []
    if len(report.loaded) == 1 and not report.failures:
        only = report.loaded[0]
        lines = ["", f"Features: {only.features}"]
        for number, sample in enumerate(only.samples):
            lines += [f"Row {number}:", *(f"  {name}: {' '.join(value.split())}" for name, value in sample.items())]
    show(json_path, report, build_table(["config", "split", "rows>", "columns"], rows).rich(), *lines)


hub.add_command(verify)
