"""`agentd unload`: ends what a daemon has left in the kernel."""

import os
import time
from pathlib import Path

import click

from agentd.cli.client import DaemonUnavailableError
from agentd.cli.exits import Exit
from agentd.cli.output import CommandError, Settings, json_option, print_json
from agentd.kernel.libbpf import is_loaded
from agentd.kernel.pins import Pins

_PATIENCE_S = 120.0


@click.command()
@json_option
@click.pass_obj
def unload(settings: Settings, as_json: bool) -> None:
    """End all enforcement that outlives the daemon, and free it (as root).

    A daemon that is stopped or killed leaves its denials in force. After this, agents that run now
    are governed by nobody until they are started anew. It returns when the kernel has taken the
    last program off its hook, which takes some ten seconds.
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
    programs = pins.attached()
    found = pins.remove()
    deadline = time.monotonic() + _PATIENCE_S
    while programs := [program for program in programs if is_loaded(program)]:
        if time.monotonic() > deadline:
            raise CommandError(
                f"{pins.directory} is gone, but after {_PATIENCE_S:.0f} s the kernel still has"
                f" {len(programs)} of its programs; `bpftool prog show id {programs[0]}` tells who"
                " holds one"
            )
        time.sleep(0.05)
    if as_json:
        print_json({"unloaded": found, "directory": str(pins.directory)})
    elif found:
        click.echo(f"unloaded; {pins.directory} is gone")
    else:
        click.echo("nothing to unload")
