"""`agentd watch`: events as they happen, one line each."""

import time

import click

from agentd.cli.client import DaemonUnavailableError
from agentd.cli.output import Settings, json_option, print_json_line, wants_colour
from agentd.ui import live

VERDICTS = ("allow", "audit", "deny", "hold", "kill")
_RECONNECT_PAUSE_S = 0.2


@click.command()
@click.option("--class", "classes", multiple=True, metavar="GLOB", help="Such as 'mcp.*'.")
@click.option("--workload", metavar="GLOB", help="Only events of these workloads.")
@click.option("--verdict", "verdicts", multiple=True, type=click.Choice(VERDICTS))
@click.option("--rule", metavar="GLOB", help="Only decisions in which a matching rule took part.")
@click.option("--decisions", is_flag=True, help="Only events that carry a decision.")
@click.option("--limit", "-n", type=click.IntRange(min=1), help="Stop after this many events.")
@json_option
@click.pass_obj
def watch(
    settings: Settings,
    *,
    classes: tuple[str, ...],
    workload: str | None,
    verdicts: tuple[str, ...],
    rule: str | None,
    decisions: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show events as they happen, until interrupted.

    Goes on over a restart of the engine. Options that may be given several times are "any of";
    different options must all hold.
    """
    wanted = {
        "classes": list(classes) or None,
        "workload": workload,
        "verdict": list(verdicts or (VERDICTS if decisions else ())) or None,
        "rule": rule,
    }
    colour = wants_colour()
    left = limit
    connected = False
    while True:
        try:
            for event in settings.client().stream("watch", **wanted):
                connected = True
                if decisions and not isinstance(event.get("decision"), dict):
                    continue
                if as_json:
                    print_json_line(event)
                else:
                    click.echo(live.render(event, colour=colour), color=True)
                if left is not None:
                    left -= 1
                    if not left:
                        return
        except DaemonUnavailableError:
            if not connected:
                raise
            connected = False
            click.echo("agentd: the daemon closed the connection; trying again", err=True)
            time.sleep(_RECONNECT_PAUSE_S)
