"""`agentd doctor`: what this kernel can do for agentd, why, and what would mend the rest."""

from dataclasses import asdict

import click

from agentd.cli.diagnosis import Diagnosis, examine
from agentd.cli.exits import Exit
from agentd.cli.output import Settings, json_option, print_json, print_table
from agentd.kernel import host, tiers
from agentd.ui.text import clean, show

_PURPOSES = {
    "ring_buffer": "records reach user space",
    "raw_tracepoint": "attribution, file, exec and MCP hooks",
    "send_signal": "holds and kills from inside the kernel",
    "probe_read": "paths, arguments and messages",
    "bpf_loop": "walks of paths and messages",
    "cgroup_connect": "connects refused in the kernel",
    "tp_btf": "typed tracepoints",
    "fentry": "hooks of the enforce tiers",
    "fmod_ret": "the enforce-fmodret tier",
    "lsm": "the enforce-lsm tier",
    "tracepoint": "not used here",
    "kprobe": "not used here",
    "uprobe": "MCP inside TLS",
}
_ROOM = 110


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what this kernel can do for agentd, and why.

    Loads, fires and unloads tiny programs on acts of this process alone; changes nothing. Exit
    code 0 if agentd can run here, 1 if not.
    """
    diagnosis = examine(ctx.find_object(Settings) or Settings())
    if as_json:
        print_json(asdict(diagnosis))
    else:
        _print(diagnosis)
    ctx.exit(Exit.FAILED if diagnosis.tier == tiers.NONE else Exit.OK)


def _print(found: Diagnosis) -> None:
    for name, value in facts(found):
        click.echo(f"{name:<13} {value}")
    click.echo("\nWhat was tried")
    print_table(
        ("FAMILY", "", "FOR", "FOUND"),
        [
            (one.name, "ok" if one.works else "no", _PURPOSES.get(one.name, ""), one.why)
            for one in found.families
        ],
        _ROOM,
    )
    click.echo(f"\nWhat rules do in tier {found.tier}")
    kinds = [(one.rules, one.acts, one.how) for one in found.rules]
    print_table(("RULES", "ACT", "HOW"), kinds, _ROOM)
    for note in found.rule_notes:
        click.echo(f"{note.rule_id}: {clean(note.text)}")
    for problem in found.rule_problems:
        click.echo(f"not read: {clean(problem)}")
    if found.mends:
        click.echo("\nWhat would help")
        for step in found.mends:
            click.echo(f"- {step}")


def facts(found: Diagnosis) -> list[tuple[str, str]]:
    """The facts of a diagnosis as names and one line each."""
    tier = found.tier
    if found.kernel_tier != found.tier:
        tier += f" (the kernel allows {found.kernel_tier}, which this version does not use yet)"
    elif found.tier == tiers.NONE and found.privilege.missing:
        tier += " (as far as this user may see)"
    return [
        ("tier", tier),
        ("kernel", f"{found.release} {found.machine}"),
        ("BTF", "present" if found.btf else "absent: programs cannot fit themselves to it"),
        ("libbpf", found.libbpf or "not installed"),
        ("LSM", ", ".join(found.lsm.active or []) or f"unknown: {found.lsm.source}"),
        ("lockdown", found.lockdown),
        ("cgroups", f"{found.cgroup_mode}, v2 at {found.cgroup2 or '(not mounted)'}"),
        ("mounts", ", ".join(f"{kind} {at or '-'}" for kind, at in found.mounts.items())),
        ("kernel config", _config(found)),
        ("capabilities", _privilege(found)),
        ("daemon", _daemon(found.daemon)),
    ]


def _config(found: Diagnosis) -> str:
    if not found.config.source:
        return "cannot be read (no /proc/config.gz, no /boot/config-*)"
    off = [name for name, value in found.config.options.items() if value == "n"]
    if not off:
        return f"all of what matters is on ({found.config.source})"
    listed = ", ".join(f"{name} ({host.CONFIG_HINTS[name]})" for name in off)
    return f"off: {listed} ({found.config.source})"


def _privilege(found: Diagnosis) -> str:
    if not found.privilege.missing:
        return f"all that agentd needs (uid {found.privilege.uid})"
    missing = ", ".join(f"{name} ({use})" for name, use in found.privilege.missing.items())
    return f"uid {found.privilege.uid} lacks {missing}"


def _daemon(answer: dict[str, object] | None) -> str:
    if answer is None:
        return "not running, or not on this socket"
    return f"running, version {show(answer.get('version'))}, pid {show(answer.get('pid'))}"
