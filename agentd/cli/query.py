"""`agentd query`: events from the journal, by time, workload, class, rule, verdict, session."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import click

from agentd.cli.exits import Exit
from agentd.cli.output import Settings, fail, json_option, print_json_line, wants_colour
from agentd.cli.watch import VERDICTS
from agentd.events.query import Found, JournalReader, Query, parse_time
from agentd.events.store import is_corrupt
from agentd.ui import live


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_time(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@click.command()
@click.option(
    "--since", metavar="TIME", callback=_moment, help="10m (ago), 2026-11-23, or with a time."
)
@click.option("--until", metavar="TIME", callback=_moment, help="Before this time.")
@click.option("--workload", metavar="GLOB", default="", help="Only this workload.")
@click.option("--class", "classes", multiple=True, metavar="GLOB", help="Such as 'file.*'.")
@click.option("--rule", metavar="GLOB", default="", help="Only decisions of this rule.")
@click.option("--verdict", "verdicts", multiple=True, type=click.Choice(VERDICTS))
@click.option("--session", metavar="ID", default="", help="Only this session.")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="The newest so many; 0 for all.",
)
@click.option("--journal", metavar="FILE", help="Read this journal.  [default: the daemon's]")
@json_option
@click.pass_obj
def query(
    settings: Settings,
    *,
    since: int | None,
    until: int | None,
    workload: str,
    classes: tuple[str, ...],
    rule: str,
    verdicts: tuple[str, ...],
    session: str,
    limit: int,
    journal: str | None,
    as_json: bool,
) -> None:
    """Search the journal, also while no daemon runs. Oldest first; all conditions must hold.

    With --json one event a line.
    """
    path = Path(journal) if journal else settings.load_config().journal_path
    wanted = Query(
        since_ns=since,
        until_ns=until,
        workload=workload,
        classes=classes,
        rule=rule,
        verdicts=verdicts,
        session=session,
        limit=limit or None,
        newest_first=bool(limit),
    )
    colour = wants_colour()
    for found in _find(path, wanted):
        event = json.loads(found.body)
        if as_json:
            print_json_line(event)
        else:
            click.echo(live.render(event, colour=colour), color=True)


def _find(path: Path, wanted: Query) -> Iterator[Found]:
    try:
        reader = JournalReader(path)
        try:
            found = reader.find(wanted)
            # The newest are asked for backwards, and read forwards.
            yield from reversed(list(found)) if wanted.newest_first else found
        finally:
            reader.close()
    except sqlite3.Error as error:
        if not path.exists():
            fail(f"there is no journal at {path}; start the daemon, or name one with --journal")
        if is_corrupt(error):
            fail(f"the journal {path} is damaged: {error}")
        fail(f"the journal {path} cannot be read: {error}; are you root?", Exit.DENIED)
