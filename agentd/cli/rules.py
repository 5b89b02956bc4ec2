"""`agentd rules check`, `test` and `list`: rule files, without a daemon."""

from collections.abc import Sequence
from pathlib import Path

import click

from agentd.cli.exits import Exit
from agentd.cli.output import SHIPPED_RULES, Settings, json_option, print_json, print_table
from agentd.errors import ConfigError, ConfigErrors
from agentd.policy import loader, rule_tests
from agentd.policy.compiler import compile_plan
from agentd.policy.rule_tests import Result
from agentd.policy.rules import Policy, Rule
from agentd.ui.text import clean, show

_PATHS = click.argument(
    "paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATHS]..."
)


@click.group()
def rules() -> None:
    """Check, test and list rules.

    PATHS are rule files or directories; without any, what the daemon would load: the shipped rules
    and those of the configuration's directories.
    """


def problem_fields(problem: ConfigError) -> dict[str, object]:
    """A problem as JSON values."""
    return {
        "file": str(problem.file),
        "line": problem.line,
        "message": problem.message,
        "mend": problem.mend,
    }


def load(ctx: click.Context, paths: Sequence[Path], *, as_json: bool) -> Policy:
    """The policy in `paths`; where it has problems, prints them all and ends with 78."""
    settings = ctx.find_object(Settings) or Settings()
    try:
        if paths:
            # What these files switch off need not be among them.
            return loader.load(paths, beside=[SHIPPED_RULES])
        return loader.load(settings.rule_sources())
    except ConfigErrors as errors:
        if as_json:
            print_json({"ok": False, "problems": [problem_fields(one) for one in errors.errors]})
        for problem in errors.errors:
            click.echo(clean(str(problem)), err=True)
        ctx.exit(Exit.CONFIG)


@rules.command()
@_PATHS
@json_option
@click.pass_context
def check(ctx: click.Context, paths: tuple[Path, ...], as_json: bool) -> None:
    """Read rules and say what is wrong with them: FILE:LINE: what; mend.

    Rules that the observe tier cannot decide before the effect are named; that is no error.
    """
    policy = load(ctx, paths, as_json=as_json)
    notes = compile_plan(policy).notes
    if as_json:
        counts = {"rules": len(policy.rules), "workloads": len(policy.workloads)}
        noted = [{"rule": note.rule_id, "text": note.text} for note in notes]
        disabled = sorted(policy.disabled)
        print_json({"ok": True, **counts, "problems": [], "notes": noted, "disabled": disabled})
        return
    click.echo(f"{len(policy.rules)} rules and {len(policy.workloads)} workloads: ok")
    for rule, source in policy.disabled.items():
        click.echo(f"{source}: note: {rule} is switched off")
    for note in notes:
        click.echo(f"{policy.sources[note.rule_id]}: note: {note.rule_id}: {clean(note.text)}")


@rules.command()
@_PATHS
@json_option
@click.pass_context
def test(ctx: click.Context, paths: tuple[Path, ...], as_json: bool) -> None:
    """Run the examples that rules carry; 1 if one comes out wrong."""
    report = rule_tests.run(load(ctx, paths, as_json=as_json))
    failures = [result for result in report.results if not result.ok]
    if as_json:
        print_json(
            {
                "ok": report.ok,
                "examples": len(report.results),
                "failures": [_failure(result) for result in failures],
                "untested": report.untested,
            }
        )
    else:
        for result in failures:
            what = f"{result.kind} example {show(result.example, 200)}"
            why = clean(result.explanation)
            click.echo(f"{result.file}:{result.line}: {result.rule}: {what}: {why}", err=True)
        for rule in report.untested:
            click.echo(f"note: {rule} has no example of some kind (match, pass)", err=True)
        passed = len(report.results) - len(failures)
        click.echo(f"{passed} examples passed, {len(failures)} failed")
    if failures:
        ctx.exit(Exit.FAILED)


@rules.command("list")
@_PATHS
@json_option
@click.pass_context
def list_rules(ctx: click.Context, paths: tuple[Path, ...], as_json: bool) -> None:
    """List rules: id, event, action, severity, workloads, where it is written."""
    policy = load(ctx, paths, as_json=as_json)
    if as_json:
        print_json({"rules": [_fields(rule, policy) for rule in policy.rules]})
        return
    rows = [
        (
            rule.id,
            rule.on,
            rule.action,
            rule.severity,
            ",".join(rule.workloads),
            str(policy.sources[rule.id]),
        )
        for rule in policy.rules
    ]
    print_table(("ID", "ON", "ACTION", "SEVERITY", "WORKLOADS", "WRITTEN AT"), rows, 63)


def _failure(result: Result) -> dict[str, object]:
    return {
        "rule": result.rule,
        "file": str(result.file),
        "line": result.line,
        "kind": result.kind,
        "example": result.example,
        "explanation": result.explanation,
    }


def _fields(rule: Rule, policy: Policy) -> dict[str, object]:
    source = policy.sources[rule.id]
    return {
        "id": rule.id,
        "on": rule.on,
        "action": rule.action,
        "severity": rule.severity,
        "workloads": list(rule.workloads),
        "reason": rule.told,
        "tags": list(rule.tags),
        "file": str(source.file),
        "line": source.line,
    }
