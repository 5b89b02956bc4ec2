"""`agentd holds`, `approve` and `deny`: what waits for a person, and that person's answer."""

import click
from click.shell_completion import CompletionItem

from agentd.cli.output import Settings, age, json_option, objects, print_json, print_table
from agentd.errors import AgentdError
from agentd.ui import live
from agentd.ui.text import show


@click.command()
@json_option
@click.pass_obj
def holds(settings: Settings, as_json: bool) -> None:
    """List what is stopped and waits for a decision, oldest first."""
    waiting = objects(settings.client().request("holds").get("holds"))
    if as_json:
        print_json({"holds": waiting})
        return
    if not waiting:
        click.echo("nothing is held")
        return
    rows = [_row(hold) for hold in waiting]
    print_table(("ID", "AGE", "LIMIT", "THEN", "WORKLOAD", "PROCESS", "RULE", "WHAT"), rows, 100)


def _row(hold: dict[str, object]) -> tuple[str, ...]:
    subject = hold.get("subject")
    what = live.describe(subject) if isinstance(subject, dict) else ""
    reason = show(hold.get("reason") or "", 100)
    return (
        show(hold.get("id")),
        age(hold.get("age_s")),
        age(hold.get("timeout_s")),
        show(hold.get("on_timeout")),
        f"{show(hold.get('workload'), 40)}/{show(hold.get('session'), 16).removeprefix('s-')}",
        live.process_name(hold.get("process")),
        show(hold.get("rule"), 63),
        f"{what} ({reason})" if reason else what,
    )


def _complete_ids(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ids of the present holds, for the shell."""
    del param
    given = ctx.find_root().params
    settings = Settings(given.get("config"), given.get("socket"))
    try:
        waiting = objects(settings.client(1.0, 0.0).request("holds").get("holds"))
    except AgentdError:
        return []
    return [
        CompletionItem(name, help=show(hold.get("rule"), 63))
        for hold in waiting
        if isinstance(name := hold.get("id"), str) and name.startswith(incomplete)
    ]


_ID = click.argument("hold_id", metavar="ID", shell_complete=_complete_ids)
_NOTE = click.option("--note", metavar="TEXT", help="Why; it goes into the decision record.")


@click.command()
@_ID
@_NOTE
@json_option
@click.pass_obj
def approve(settings: Settings, hold_id: str, note: str | None, as_json: bool) -> None:
    """Let the held act ID go on.

    You must be root or in the group agentd, and not inside any workload.
    """
    _decide(settings, "approve", hold_id, note, as_json=as_json)


@click.command()
@_ID
@_NOTE
@json_option
@click.pass_obj
def deny(settings: Settings, hold_id: str, note: str | None, as_json: bool) -> None:
    """Refuse the held act ID.

    You must be root or in the group agentd, and not inside any workload.
    """
    _decide(settings, "deny", hold_id, note, as_json=as_json)


def _decide(settings: Settings, op: str, hold_id: str, note: str | None, *, as_json: bool) -> None:
    answer = settings.client().request(op, repeatable=False, id=hold_id, note=note)
    if as_json:
        print_json({"id": answer.get("id"), "verdict": answer.get("verdict")})
    else:
        done = "approved" if op == "approve" else "denied"
        click.echo(f"{show(answer.get('id'))} {done}")
