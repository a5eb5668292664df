"""`hfassets distill`: the files of a mix made, its summary and its licences; with the flags of the older document."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfassets.cli.distill_logits import logits
from hfassets.cli.distill_tokenize import tokenize
from hfassets.cli.options import PATH, no_token, places, state_option
from hfassets.cli.output import json_option, show
from hfassets.cli.progress import ProgressDisplay
from hfassets.errors import PartialFailureError, UsageError
from hfassets.report.tables import build_table
from hfassets.report.units import format_bytes

if TYPE_CHECKING:
    from hfassets.catalog.mixes import Mix
    from hfassets.distillation.mix import MixResult
    from hfassets.distillation.mix_run import MixRun

DEFAULT_FOLDER = Path("data/distillation")
# s. A command waits for whoever writes the same file, saying so.
LEASE_WAIT = 86_400.0


class Batch(click.ParamType[tuple[int, int]]):
    """`i/n`: slice i (from 1) of n."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(i - 1, n)."""
        if isinstance(value, tuple):
            return value
        first, _, second = str(value).partition("/")
        if not first.isdecimal() or not second.isdecimal() or not 1 <= int(first) <= int(second):
            self.fail(f"{value!r} is no slice; it looks like 3/10", param, ctx)
        return int(first) - 1, int(second)


config_option = click.option(
    "--config", type=PATH, help="A YAML file with what differs from the built-in mix [default: nothing]."
)


@click.group(invoke_without_command=True)
@config_option
@click.option("--mix", "name", metavar="NAME", help="A mix of the catalog, in place of --config.")
@click.option("--total-samples", type=click.IntRange(1), help="Rows in all [default: the mix's, else 100,000].")
@click.option("--output-dir", type=PATH, help=f"The folder for the files [default: the mix's, else {DEFAULT_FOLDER}].")
@click.option("--dataset", "datasets", multiple=True, metavar="SOURCE", help="Only this source; can be repeated.")
@click.option("--dry-run", is_flag=True, help="Say what it would take; no data is fetched.")
@click.option("--batch", type=Batch(), metavar="I/N", help="Slice i of n: slices have no text in common.")
@click.option("--workers", type=click.IntRange(1), help="Sources made at once [default: the mix's, else 1].")
@click.option("--cache-dir", type=PATH, help="The Hub cache for source files [default: the catalog's, HF_HUB_CACHE].")
@click.option("--max-retries", type=click.IntRange(0), default=5, show_default=True, help="For each request.")
@click.option("--backoff-factor", type=click.FloatRange(0), default=1.0, show_default=True, help="In s, doubled.")
@click.option("--offline", is_flag=True, help="Use what the Hub cache holds; as HF_HUB_OFFLINE=1 does.")
@click.option("--force", is_flag=True, help="Make everything again, over whatever has these names.")
@state_option
@json_option
@no_token
@click.pass_context
def distill(context: click.Context, /, **given: Any) -> None:
    """Make a distillation mix: chat, code, mathematics and questions of fact, in the shares that it asks for.

    Without a command: make the files <output-dir>/<category>/<source>.jsonl. What is there is kept, a file that is to
    have more rows is extended, and a run that was killed goes on where it stopped.
    """
    if context.invoked_subcommand is None:
        _make(given)


def _make(given: dict[str, Any]) -> None:
    from hfassets.distillation.dry_run import estimate
    from hfassets.distillation.mix import make_mix

    if given["offline"]:
        os.environ["HF_HUB_OFFLINE"] = "1"
    run = _run(given)
    with ProgressDisplay() as progress:
        if given["dry_run"]:
            estimates = estimate(run, progress)
            chosen = [one for one in estimates if not given["datasets"] or one.source in given["datasets"]]
        else:
            made = make_mix(run, given["datasets"], progress, given["workers"])
    if given["dry_run"]:
        _show_estimates(given["json_path"], run, chosen)
    else:
        _show(given["json_path"], made)
        made.check()


def _run(given: dict[str, Any]) -> MixRun:
    from hfassets.distillation.from_catalog import catalog_mix, load_mix, mix_run
    from hfassets.distillation.mix_run import MixRun

    if given["config"] is not None and given["name"] is not None:
        raise UsageError("--config and --mix name two mixes; give one")
    habits: dict[str, Any] = {"batch": given["batch"], "force": given["force"], "lease_wait": LEASE_WAIT}
    if given["name"] is not None:
        partition = catalog_mix(given["name"])
        run = mix_run(partition.catalog, partition.mix, partition.commits, partition.tokenizer_commit, **habits)
        return replace(
            run,
            mix=_with_total(run.mix, given["total_samples"]),
            output=given["output_dir"].absolute() if given["output_dir"] else run.output,
        )
    mix = load_mix(given["config"])
    where = places(given["state_dir"], given["cache_dir"])
    return MixRun(
        mix=_with_total(mix, given["total_samples"]),
        output=(given["output_dir"] or mix.output_dir or DEFAULT_FOLDER).absolute(),
        hub_cache=where.hub_cache,
        state=where.state,
        max_retries=given["max_retries"],
        backoff_factor=given["backoff_factor"],
        **habits,
    )


def _with_total(mix: Mix, total: int | None) -> Mix:
    return mix if total is None else mix.model_copy(update={"total_samples": total})


def _show(json_path: str | None, made: MixResult) -> None:
    rows: list[tuple[object, ...]] = []
    for one in made.files:
        state = "short" if one.rows < made.asked[one.source] else "was ready" if one.reused else "ok"
        dropped = sum(one.account.refused.values())
        rows.append(
            (one.category, one.source, state, made.asked[one.source], one.rows, dropped, format_bytes(one.size))
        )
    rows += [("", name, "FAILED", made.asked[name], None, None, "") for name, _ in made.failures]
    table = build_table(["category", "source", "state", "asked>", "rows>", "not used>", "size>"], rows)
    show(json_path, {**made.document, "failures": made.failures}, table.rich(), f"Summary: {made.summary}")


def _show_estimates(json_path: str | None, run: MixRun, estimates: list[Any]) -> None:
    rows = [
        (
            one.category,
            one.source,
            one.asked,
            "unknown" if one.rows is None else f"{one.rows:,}",
            "unknown" if one.size is None else format_bytes(one.size),
            one.license,
            "gated, granted" if one.access == "gated" else one.access if one.granted else "see below",
        )
        for one in estimates
    ]
    columns = ["category", "source", "asked>", "rows there>", "bytes there>", "licence of the data", "access"]
    notes = [f"{one.source}: {one.access}" for one in estimates if not one.granted]
    notices = run.quotas().notices
    show(
        json_path,
        {"mix": run.mix.name, "total_samples": run.mix.total_samples, "sources": estimates, "notices": notices},
        build_table(columns, rows).rich(),
        *notes,
        *notices,
        f"Files would go to {run.output}",
    )
    closed = [(one.source, one.access) for one in estimates if not one.granted]
    if closed:
        raise PartialFailureError("sources", closed, len(estimates))


@distill.command()
@config_option
@click.option("--mix", "name", metavar="NAME", help="A mix of the catalog, in place of --config.")
@click.option("--output-dir", type=PATH, help=f"Where the files are [default: the mix's, else {DEFAULT_FOLDER}].")
@state_option
@json_option
def summary(json_path: str | None, **given: Any) -> None:
    """Write download_summary.json anew from the files that are there, and show it."""
    from hfassets.distillation.summary import write_summary

    run = _run({**_DEFAULTS, **given})
    shared = run.quotas()
    path, document = write_summary(run.output, run.mix, shared)
    rows: list[tuple[object, ...]] = []
    for category, of in document["categories"].items():
        for name in (name for name in shared.rows if run.mix.datasets[name].category == category):
            stats = document["datasets"].get(name)
            got = None if stats is None else stats["samples"]
            size = "" if stats is None else format_bytes(stats["bytes"])
            rows.append((category, name, shared.rows[name], got, size, "missing" if stats is None else ""))
        rows.append((category, "all", of["asked"], of["samples"], "", ""))
    table = build_table(["category", "source", "asked>", "rows>", "size>", ""], rows)
    show(json_path, document, table.rich(), f"Summary: {path}")


@distill.command()
@config_option
@click.option("--mix", "name", metavar="NAME", help="A mix of the catalog, in place of --config.")
@json_option
def licenses(json_path: str | None, **given: Any) -> None:
    """The licence of each source's data: on what it rests, whether commercial use is allowed, what must be said."""
    from hfassets.distillation.licences import licence_of

    run = _run({**_DEFAULTS, **given})
    found = {name: licence_of(name, source.license) for name, source in run.mix.datasets.items()}
    rows = [
        (name, run.mix.datasets[name].hf_path, one.data, one.commercial, one.attribution, one.evidence)
        for name, one in found.items()
    ]
    columns = ["source", "repo", "licence of the data", "commercial use", "attribution", "evidence"]
    show(json_path, {"mix": run.mix.name, "licenses": found}, build_table(columns, rows).rich())


_DEFAULTS: dict[str, Any] = {
    "config": None,
    "name": None,
    "batch": None,
    "force": False,
    "total_samples": None,
    "output_dir": None,
    "state_dir": None,
    "cache_dir": None,
    "max_retries": 5,
    "backoff_factor": 1.0,
}


distill.add_command(tokenize)
distill.add_command(logits)
