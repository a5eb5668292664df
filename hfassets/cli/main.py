"""`hfassets`: the entry point, and what every command's end means.

Invariant: exit 0 only if all of it worked, 1 for a failure, 2 for a usage error, 130 and 143 for an interrupt and a
termination; a user's mistake is one line on stderr, never a traceback. A command's module is imported only when that
command is called, so that help and completion are instant.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

import click

from hfassets import __version__
from hfassets.errors import CatalogError, HfassetsError, UsageError

# noun -> (module:attribute, one line of help), so that listing the commands imports none of them.
COMMANDS = {
    "adopt": ("hfassets.cli.adopt:adopt", "Take over caches and folders that somebody else has written."),
    "c4": ("hfassets.cli.c4:c4", "Write rows of C4 as JSON lines; verify and fetch them."),
    "catalog": ("hfassets.cli.catalog:catalog", "Declare what you want: catalog.yaml and its lock."),
    "distill": ("hfassets.cli.distill:distill", "Make a distillation mix: sources, quotas, filters, licences."),
    "down": ("hfassets.cli.service:down", "End Dagster's servers."),
    "doctor": ("hfassets.cli.doctor:doctor", "Say what is wrong with a deployment, and put right what can be."),
    "hub": ("hfassets.cli.hub:hub", "Download, verify, repair and prepare Hub datasets."),
    "mds": ("hfassets.cli.mds:mds", "Convert, tokenize, chunk, sample and mix text as MDS for training."),
    "prune": ("hfassets.cli.prune:prune", "Delete old runs from Dagster; no partition loses its state."),
    "register": ("hfassets.cli.register:register", "Tell Dagster of what lies on disk, by its manifests."),
    "slurm": ("hfassets.cli.slurm:slurm", "Submit commands as SLURM jobs, list jobs, drain the run queue."),
    "stage": ("hfassets.cli.stage:stage", "Copy data to the disk of the node that works with it."),
    "status": ("hfassets.cli.service:status", "Say which of Dagster's servers run, and how to reach them."),
    "up": ("hfassets.cli.service:up", "Start Dagster for yourself, without root: database, UI, daemon."),
    "upgrade": (
        "hfassets.cli.service:upgrade",
        "Drain, back up, migrate and restart it.",
    ),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None for a name that is not one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hfassets", message="%(prog)s %(version)s")
def cli() -> None:
    """Hugging Face datasets on clusters as verified, resumable assets."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see the module's invariant)."""
    before = signal.signal(signal.SIGTERM, _terminator(os.getpid()))
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output went away; the interpreter's own flush at exit must not complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted; run the same command again to go on where it stopped")
        return 128 + signal.SIGINT
    except _Terminated:
        _complain("terminated; run the same command again to go on where it stopped")
        return 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _run(arguments: list[str]) -> int:
    if "_HFASSETS_COMPLETE" in os.environ:
        cli.main(arguments, prog_name="hfassets")
    try:
        with cli.make_context("hfassets", arguments) as context:
            cli.invoke(context)
        return 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (BrokenPipeError, KeyboardInterrupt, click.Abort, _Terminated):
        raise
    except Exception as error:
        if os.environ.get("HFASSETS_DEBUG") == "1":
            traceback.print_exc()
        return _report(error)


def _report(error: Exception) -> int:
    """Say what went wrong in one line (one a mistake for a catalog) and give the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        return 2
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "hfassets"
        _complain(f"error: {error.format_message().rstrip('.')} (see {path} --help)")
        return 2
    if isinstance(error, click.ClickException):
        _complain(f"error: {error.format_message()}")
        return error.exit_code
    if isinstance(error, CatalogError):
        for line in error.errors:
            _complain(f"error: {line}")
        return 1
    if isinstance(error, HfassetsError):
        _complain(f"error: {error}")
        return 2 if isinstance(error, UsageError) else 1
    if isinstance(error, OSError) and error.filename is not None:
        _complain(f"error: {error.filename}: {error.strerror}")
        return 1
    _complain(f"internal error: {type(error).__name__}: {error} (set HFASSETS_DEBUG=1 to see where)")
    return 1


def _complain(text: str) -> None:
    line = " ".join(text.split())
    print(f"hfassets: {line}", file=sys.stderr)  # noqa: T201


class _Terminated(BaseException):
    """SIGTERM arrived: raised so that leases are given back and temporary files removed."""


def _terminator(owner: int) -> Callable[[int, FrameType | None], None]:
    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            # A forked worker that its pool ends: an exception could be swallowed there, and the pool wait for ever.
            os._exit(128 + number)
        raise _Terminated

    return terminate


if __name__ == "__main__":
    sys.exit(main())
