"""`agentd unload`: ends what a daemon has left in the kernel."""

import os
from pathlib import Path

import click

from agentd.cli.client import DaemonUnavailableError
from agentd.cli.exits import Exit
from agentd.cli.output import CommandError, Settings
from agentd.kernel.pins import Pins


@click.command()
@click.pass_obj
def unload(settings: Settings) -> None:
    """End all enforcement that outlives the daemon, and free it (as root).

    A daemon that is stopped or killed leaves its denials in force. After this, agents that run now
    are governed by nobody until they are started anew.
    """
    if os.geteuid() != 0:
        raise CommandError("unload must run as root", Exit.DENIED)
    try:
        settings.client(retry_s=0.0).request("ping")
    except DaemonUnavailableError:
        pass
    else:
        raise CommandError("the daemon runs; stop it first (systemctl stop agentd)")
    pins = Pins(Path(settings.socket_path()).parent)
    if pins.remove():
        click.echo(f"unloaded; {pins.directory} is gone")
    else:
        click.echo("nothing to unload")
