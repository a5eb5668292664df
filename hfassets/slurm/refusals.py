"""What the cluster's words mean: for good or for now, and what to change. Pure.

Invariant: the cluster's own words are always part of the error. What is not in the table is a refusal for good: asking
again for ever would hide it.
"""

from __future__ import annotations

import re

from hfassets.slurm.errors import DeferredError, RefusedError, SlurmError, UnreachableError

# The answer may have been lost on its way back: the request may have been taken.
_UNREACHABLE = re.compile(
    r"unable to contact slurm controller|socket timed out|connection refused|connection timed out|zero bytes were"
    r" transmitted|unable to establish controller|slurm backup controller in standby|communication connection failure"
    r"|protocol authentication error|munge encode failed|slurm_persist_conn|network is unreachable|no route to host",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"temporarily unable to accept job|job submit limit|MaxSubmitJob|submit(ted)? jobs? limit|too many (pending|jobs)"
    r"|resource temporarily unavailable|slurmctld is (starting|shutting)|cannot fork|system is in maintenance"
    r"|rate limit|requests? per|active jobs? limit",
    re.IGNORECASE,
)
# (the cluster's words, what to change); the first that matches.
_ADVICE = tuple(
    (re.compile(pattern, re.IGNORECASE), advice)
    for pattern, advice in (
        (r"partition", "set slurm/partition to one of `sinfo`, or leave it out for the default"),
        (r"time limit|timelimit", "lower slurm/time, or choose a slurm/partition that allows it"),
        (r"memory", "lower slurm/memory: no node of that partition has so much"),
        (r"node configuration|node count|more processors|cpu count", "lower slurm/cpus, slurm/nodes, slurm/memory or"
         " slurm/gpus: no node of that partition has so much"),
        (r"account", "set slurm/account to one of yours (`sacctmgr show assoc user=$USER`)"),
        (r"qos", "set slurm/qos to one that your account and the partition allow"),
        (r"reservation", "set slurm/reservation to one of `scontrol show reservation`, or leave it out"),
        (r"feature", "set slurm/constraint to features of `sinfo -o %f`"),
        (r"generic resource|gres", "set slurm/gres or slurm/gpus to what `sinfo -o %G` has"),
        (r"node name", "the nodes to leave out or to use are not of this cluster"),
        (r"user id|permission|denied|not authorized", "you may not submit here; ask the site's administrators"),
        (r"batch script|script", "look at the script in the run's folder"),
        (r"signal", "set slurm/signal like B:TERM@120"),
    )
)  # fmt: skip


def refusal(stderr: str) -> SlurmError:
    """The error for what a command wrote to stderr when it failed."""
    words = own_words(stderr)
    if _UNREACHABLE.search(words):
        return UnreachableError(f"the SLURM controller does not answer ({words})", unknown=True)
    if _LATER.search(words):
        return DeferredError(words)
    advice = next((advice for pattern, advice in _ADVICE if pattern.search(words)), None)
    return RefusedError(f"{words}; {advice}" if advice else words)


def own_words(stderr: str) -> str:
    """The cluster's words as one line, each said once, without the prefixes that only name the command."""
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line.strip()) for line in stderr.splitlines()]
    kept = [re.sub(r"^Batch job submission failed: ", "", line) for line in lines if line]
    return "; ".join(dict.fromkeys(kept))[:500] or "it gave no reason"
