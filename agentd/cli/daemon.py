"""`agentd daemon`: starts the supervisor in place of this process."""

import os

import click

from agentd.cli.output import Settings
from agentd.daemon import spawn


@click.command()
@click.option("--foreground", is_flag=True, help="Show decisions on this terminal as they happen.")
@click.option("--config", metavar="FILE", help="The configuration, as before the command.")
@click.option(
    "--rules",
    "rules",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True),
    help="Rules from here instead.",
)
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
    arguments = ["--foreground"] if foreground else []
    if config or settings.config:
        arguments += ["--config", config or settings.config or ""]
    for directory in rules:
        arguments += ["--rules", directory]
    command = spawn.command("agentd.cli.supervise", *arguments)
    os.execve(command[0], command, spawn.environment())  # noqa: S606
