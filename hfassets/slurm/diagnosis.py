"""What people need to know of a run's job when something went wrong: one text, from SLURM and from its logs."""

from __future__ import annotations

from hfassets.slurm.attempts import Attempts, tail
from hfassets.slurm.client import SlurmClient
from hfassets.slurm.errors import SlurmError
from hfassets.slurm.states import JobDetail, clock
from hfassets.slurm.tags import RunRecord

MIB = 1024**2


def debug_text(found: RunRecord, client: SlurmClient, attempts: Attempts, *, logs: bool = True, said: str = "") -> str:
    """State, reason, exit code or signal, node, time, memory, the last of stderr, and the command to look further.

    `said`: what stands above it already and is not repeated.
    """
    lines = [f"attempt {found.attempt}, SLURM job {found.job_id or 'not submitted yet'}"]
    end = attempts.end(found.run_id, found.attempt)
    if end is not None and end.message not in said:
        lines.append(end.message)
    if found.job_id is not None:
        try:
            detail = client.detail(found.job_id)
        except SlurmError as error:
            lines.append(f"SLURM does not say more now: {error}")
        else:
            lines += describe(detail) if detail else ["SLURM has forgotten the job"]
        lines.append(f"look further with: {look_further(found)}")
    stderr = attempts.stderr(found.run_id, found.attempt)
    if logs:
        lines += ["", f"the last of {stderr}:", tail(stderr) or "(nothing)"]
    return "\n".join(lines)


def describe(detail: JobDetail) -> list[str]:
    """A job in words, one line a fact; what is not known is left out."""
    facts = [f"state {detail.state.value}" + (f", reason {detail.reason}" if detail.reason not in ("", "None") else "")]
    if detail.signal:
        facts.append(f"ended by signal {detail.signal}")
    elif detail.exit_code is not None:
        facts.append(f"exit code {detail.exit_code}")
    if detail.nodes:
        facts.append(f"on {detail.nodes}")
    if detail.elapsed_s is not None:
        limit = f" of {clock(detail.limit_s)}" if detail.limit_s else ""
        facts.append(f"ran for {clock(detail.elapsed_s)}{limit}")
    if detail.restarts:
        facts.append(f"requeued by SLURM {detail.restarts} times")
    if detail.max_rss_bytes:
        facts.append(f"peak memory {detail.max_rss_bytes / MIB:,.0f} MiB")
    if detail.cancelled_by:
        facts.append(f"cancelled by {detail.cancelled_by}")
    return facts


def look_further(found: RunRecord) -> str:
    """The command that shows all that SLURM knows."""
    cluster = f" -M {found.cluster}" if found.cluster else ""
    return f"scontrol{cluster} show job {found.job_id}"
