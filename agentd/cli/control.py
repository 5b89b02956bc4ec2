"""`agentd reload` and `agentd status`: small requests to the running daemon."""

import click

from agentd.cli.exits import Exit
from agentd.cli.output import Settings, json_option, print_json
from agentd.ui.text import clean, show

_RELOAD_TIMEOUT_S = 60.0


@click.command()
@json_option
@click.pass_context
def reload(ctx: click.Context, as_json: bool) -> None:
    """Make the daemon read its rules again.

    Rules that do not load leave the last good set in force, and the exit code is 78.
    """
    settings = ctx.find_object(Settings) or Settings()
    answer = settings.client(_RELOAD_TIMEOUT_S).request("reload")
    found = answer.get("problems")
    problems = found if isinstance(found, list) else []
    if as_json:
        print_json({name: value for name, value in answer.items() if name != "ok"})
    else:
        rules, workloads = _count(answer.get("rules")), _count(answer.get("workloads"))
        click.echo(f"{rules} rules and {workloads} workloads in force")
        for problem in problems:
            click.echo(clean(problem) if isinstance(problem, str) else show(problem, 400), err=True)
    if problems:
        ctx.exit(Exit.CONFIG)


def _count(value: object) -> str:
    return str(len(value)) if isinstance(value, list | dict) else show(value, 20)


@click.command()
@json_option
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show the daemon's version, tier and counters."""
    client = settings.client()
    answer = {**client.request("ping"), **client.request("status")}
    answer.pop("ok", None)
    if as_json:
        print_json(answer)
        return
    for name, value in flat(answer):
        click.echo(f"{show(name, 60):32} {show(value, 200)}")


def flat(values: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """`a.b` names and plain values of nested objects, in their order."""
    pairs: list[tuple[str, object]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + str(name), value))
    return pairs
