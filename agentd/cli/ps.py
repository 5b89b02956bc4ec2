"""`agentd ps`: workloads, their sessions, and each session's process tree."""

import click

from agentd.cli.output import Settings, json_option, objects, print_json
from agentd.ui.text import shorten, show

_ARGV_ROOM = 100


@click.command()
@click.argument("workloads", nargs=-1)
@click.option("--all", "-a", "show_all", is_flag=True, help="Also workloads without a session.")
@json_option
@click.pass_obj
def ps(settings: Settings, workloads: tuple[str, ...], show_all: bool, as_json: bool) -> None:
    """Show WORKLOADS (default: all), their sessions and process trees."""
    found = [
        workload
        for workload in objects(settings.client().request("ps").get("workloads"))
        if not workloads or workload.get("name") in workloads
    ]
    if as_json:
        print_json({"workloads": found})
        return
    shown = [one for one in found if show_all or workloads or objects(one.get("sessions"))]
    for workload in shown:
        for line in workload_lines(workload):
            click.echo(line)
    if not shown:
        click.echo("no sessions" + ("" if show_all else f" ({len(found)} workloads known; -a)"))


def workload_lines(workload: dict[str, object]) -> list[str]:
    """A workload's heading and, below it, its sessions as trees."""
    sessions = objects(workload.get("sessions"))
    noun = "session" if len(sessions) == 1 else "sessions"
    posture = show(workload.get("posture"), 12)
    lines = [f"{show(workload.get('name'), 63)}  {posture}  {len(sessions)} {noun}"]
    for number, session in enumerate(sessions, 1):
        last = number == len(sessions)
        lines.append(f"{'└─' if last else '├─'} {_session_heading(session)}")
        indent = "   " if last else "│  "
        lines += [indent + line for line in tree_lines(objects(session.get("processes")))]
    return lines


def _session_heading(session: dict[str, object]) -> str:
    words = [show(session.get("id"), 24)]
    started = session.get("started")
    if started is not None:
        words.append(f"since {show(started, 32)}")
    task = session.get("task")
    if isinstance(task, dict):
        words.append(f"task: {show(task.get('objective'), 100)}")
    labels = session.get("labels")
    if isinstance(labels, list) and labels:
        words.append("labels: " + ", ".join(show(label, 40) for label in labels[:16]))
    return "  ".join(words)


def tree_lines(processes: list[dict[str, object]]) -> list[str]:
    """A forest of processes (`pid`, `ppid`, `argv`, `exe`) drawn with branches, by pid.

    A process whose parent is not in the list is a root; one that claims to be its own ancestor is
    drawn once.
    """
    known = {pid for one in processes if isinstance(pid := one.get("pid"), int)}
    children: dict[object, list[dict[str, object]]] = {}
    for process in sorted(processes, key=_pid):
        parent = process.get("ppid")
        is_child = isinstance(parent, int) and parent in known and parent != process.get("pid")
        children.setdefault(parent if is_child else None, []).append(process)
    lines: list[str] = []
    drawn: set[int] = set()

    def draw(siblings: list[dict[str, object]]) -> None:
        # Depth first without recursion: a tree may be deeper than Python's stack.
        stack = [("", siblings, 0)]
        while stack:
            indent, row, position = stack.pop()
            if position >= len(row):
                continue
            stack.append((indent, row, position + 1))
            process = row[position]
            if id(process) in drawn:
                continue
            drawn.add(id(process))
            last = position + 1 == len(row)
            lines.append(f"{indent}{'└─' if last else '├─'} {_process(process)}")
            below = children.get(process.get("pid"), [])
            stack.append((indent + ("   " if last else "│  "), below, 0))

    draw(children.get(None, []))
    draw([process for process in processes if id(process) not in drawn])
    return lines


def _pid(process: dict[str, object]) -> int:
    pid = process.get("pid")
    return pid if isinstance(pid, int) else 0


def _process(process: dict[str, object]) -> str:
    argv = process.get("argv")
    words = [part for part in argv if isinstance(part, str)] if isinstance(argv, list) else []
    command = " ".join(words[:32]) or show(process.get("exe"), _ARGV_ROOM)
    return f"{show(process.get('pid'), 12)} {shorten(command, _ARGV_ROOM)}"
