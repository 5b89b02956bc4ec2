"""`agentd daemon`: starts the supervisor in place of this process."""

import os
import site
import sys
from pathlib import Path

import click

import agentd
from agentd.cli.output import Settings


@click.command()
@click.option("--foreground", is_flag=True, help="Show decisions on this terminal as they happen.")
@click.option("--config", metavar="FILE", help="The configuration, as before the command.")
@click.option("--rules", "rules", multiple=True, metavar="DIR", help="Rules from here instead.")
@click.pass_obj
def daemon(
    settings: Settings,
    *,
    foreground: bool,
    config: str | None,
    rules: tuple[str, ...],
) -> None:
    """Start the daemon (as root); it says READY when it watches.

    Stops on SIGTERM or Ctrl-C and releases everything it holds.
    """
    # A fresh interpreter: the supervisor lives for months, and should not carry the command
    # line's libraries (5 MB) in it.
    arguments = [sys.executable, "-m", "agentd.cli.supervise"]
    if foreground:
        arguments.append("--foreground")
    if config or settings.config:
        arguments += ["--config", config or settings.config or ""]
    for directory in rules:
        arguments += ["--rules", directory]
    os.execve(sys.executable, arguments, environment())  # noqa: S606


def environment() -> dict[str, str]:
    """The environment of the daemon and of what it starts.

    The working directory stays off Python's path: it may be anybody's, and these are root's
    processes. A checkout that is not installed is put on the path instead.
    """
    changed = {**os.environ, "PYTHONSAFEPATH": "1"}
    root = Path(agentd.__file__).resolve().parent.parent
    if str(root) not in site.getsitepackages():
        present = os.environ.get("PYTHONPATH")
        changed["PYTHONPATH"] = f"{root}{os.pathsep}{present}" if present else str(root)
    return changed
