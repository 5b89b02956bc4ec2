"""The command line of `agentd run`; the work is in `agentd.cli.run`."""

import re
from datetime import UTC, datetime, timedelta

import click

from agentd.cli import run as runner
from agentd.cli.output import Settings

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 366 * 86400


def expiry(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Turn 90s, 30m, 2h or 1d from now into the time at which it ends (RFC 3339, UTC).

    Raises click.BadParameter for what is no duration, or one of more than a year.
    """
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9})([smhd])", value)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST_S:
        raise click.BadParameter(f"{value!r} is no duration; write 90s, 30m, 2h or 1d", ctx, param)
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")


@click.command()
@click.option("--workload", "-w", required=True, metavar="NAME", help="The workload it belongs to.")
@click.option("--task", metavar="TEXT", help="What this session is to do; policy can use it.")
@click.option("--requester", metavar="WHO", help="Who asked for the task.")
@click.option("--expires", callback=expiry, metavar="2h", help="When the task ends.")
@click.argument("argv", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context,
    *,
    workload: str,
    task: str | None,
    requester: str | None,
    expires: str | None,
    argv: tuple[str, ...],
) -> None:
    """Run CMD as a new session of a workload, labelled before its first instruction.

    Terminal, signals and exit code are CMD's own.
    """
    for name, value in (("--workload", workload), ("--task", task), ("--requester", requester)):
        if value is not None and not _is_text(value):
            raise click.UsageError(f"{name} is not UTF-8: {value!r}")
    if task is None and (requester or expires):
        raise click.UsageError("--requester and --expires describe a task: add --task TEXT")
    described = {"objective": task, "requester": requester, "expires": expires}
    details = {name: value for name, value in described.items() if value is not None}
    settings = ctx.find_object(Settings) or Settings()
    ctx.exit(runner.run(settings.socket_path(), workload, details or None, list(argv)))


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
