"""The command line's entry: global options, and sub-commands imported only when they run."""

import errno
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import click

from agentd import __version__, paths
from agentd.cli.client import ControlError
from agentd.cli.exits import EPILOG, Exit
from agentd.cli.output import CommandError, Settings
from agentd.errors import AgentdError, ConfigError, ConfigErrors
from agentd.ui.text import clean

# name: (module, attribute, one line of help); the module is not imported for the help.
_COMMANDS = {
    "daemon": ("daemon", "daemon", "Start the daemon (as root)."),
    "run": ("run_command", "run", "Run a command as a session of a workload."),
    "watch": ("watch", "watch", "Show events as they happen."),
    "ps": ("ps", "ps", "Show workloads, their sessions and processes."),
    "holds": ("holds", "holds", "List what waits for a decision."),
    "approve": ("holds", "approve", "Let a held act go on."),
    "deny": ("holds", "deny", "Refuse a held act."),
    "query": ("query", "query", "Search the journal."),
    "rules": ("rules", "rules", "Check, test and list rules."),
    "reload": ("control", "reload", "Make the daemon read its rules again."),
    "status": ("control", "status", "Show the daemon's counters."),
    "unload": ("unload", "unload", "End enforcement that outlives the daemon."),
    "doctor": ("doctor", "doctor", "Say what this kernel can do, and why."),
    "completion": ("completion", "completion", "Print a shell completion script."),
}


# A full disk or quota, a terminal that has gone, a descriptor that is only for reading.
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


class LazyGroup(click.Group):
    """A group that imports a sub-command's module when that sub-command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which a newcomer meets them."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a sub-command."""
        del ctx
        known = _COMMANDS.get(cmd_name)
        if known is None:
            return None
        module, attribute, _ = known
        command: click.Command = getattr(importlib.import_module(f"agentd.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the sub-commands without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run; what is expected to go wrong becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except (CommandError, ControlError) as error:
            _complain(str(error))
            ctx.exit(error.exit_code)
        except (ConfigError, ConfigErrors) as error:
            _complain(str(error))
            ctx.exit(Exit.CONFIG)
        except AgentdError as error:
            _complain(str(error))
            ctx.exit(Exit.FAILED)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            # The reader went away (`agentd watch | head`); keep the interpreter's last flush quiet.
            _silence(sys.stdout)
            ctx.exit(Exit.OK)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and end the process; also `--help` and complaints may find no place to go."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            # What cannot be written to a stream has no file name.
            if error.filename is not None or error.errno not in _UNWRITABLE:
                raise
            _complain(f"the output cannot be written: {os.strerror(error.errno)}")
            _silence(sys.stdout)
            sys.exit(Exit.FAILED)


def _complain(message: str) -> None:
    try:
        for line in message.splitlines():
            click.echo(f"agentd: {clean(line)}", err=True)
    except OSError:  # the exit code still says it
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """What is still in the stream's buffer goes nowhere when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    metavar="FILE",
    envvar="AGENTD_CONFIG",
    help=f"The daemon's configuration.  [default: {paths.CONFIG_FILE}]",
)
@click.option(
    "--socket",
    metavar="PATH",
    envvar="AGENTD_SOCKET",
    help=f"The daemon's control socket.  [default: {paths.RUNTIME_DIR / paths.CONTROL_SOCKET}]",
)
@click.version_option(__version__, prog_name="agentd")
@click.pass_context
def cli(ctx: click.Context, config: str | None, socket: str | None) -> None:
    """Govern AI agent workloads on this host: see, judge, hold and stop what they do.

    Start with `agentd doctor`, then `agentd daemon` in one terminal and
    `agentd run --workload NAME -- COMMAND` in another.
    """
    ctx.obj = Settings(config, socket)


def main() -> None:
    """Entry of the `agentd` script and of `python -m agentd`."""
    # Closed by whoever started the command: what is printed goes nowhere, as for other programs.
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no box drawing shows an escape instead of ending the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="agentd")
