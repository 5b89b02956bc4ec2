"""One readable line for an event: used by `agentd watch` and by the daemon in the foreground.

Works on the native envelope as a plain dict and never trusts its shape: a field that is missing or
of another type is left out. What comes from watched processes is cleaned (see `agentd.ui.text`).
"""

from collections.abc import Callable

from agentd.ui import verdict
from agentd.ui.text import fields, number, shorten, show

_CLASS_MARKS = {
    "loss": ("LOSS", "1;33"),
    "tamper": ("TAMPR", "1;31"),
    "policy.rejected": ("ERROR", "1;31"),
    "daemon.start": ("READY", "1;32"),
}
_MARK_WIDTH = 6
_ARGUMENT_ROOM = 120


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object, room: int = 80) -> str:
    return "" if value is None else show(value, room, 1)


def _clock(event: dict[str, object]) -> str:
    """`17:40:00.123Z` of an RFC 3339 time in UTC, as it stands in the event."""
    time = event.get("time")
    if not isinstance(time, str) or len(time) < 20 or time[10:11] != "T":
        return "--:--:--.---Z"
    return shorten(time[11:23].rstrip("Z").ljust(12, "0"), 12) + "Z"


def _who(event: dict[str, object]) -> str:
    workload = _text(event.get("workload"), 32)
    session = event.get("session")
    short = shorten(session.removeprefix("s-"), 8) if isinstance(session, str) else ""
    return f"{workload or '-'}/{short}" if short else workload


def process_name(process: object) -> str:
    """`node[4312]` of a process object: the name from comm, else exe, else argv."""
    known = _dict(process)
    argv = known.get("argv")
    first = argv[0] if isinstance(argv, list) and argv else ""
    names = (known.get("comm"), known.get("exe"), first)
    name = next((str(part) for part in names if isinstance(part, str) and part), None)
    pid = known.get("pid")
    if name is None and pid is None:
        return ""
    return f"{shorten((name or '?').rsplit('/', 1)[-1], 24)}[{_text(pid, 12)}]"


def _command(argv: object, exe: object) -> str:
    if isinstance(argv, list) and argv:
        return " ".join(show(part, 60, 0) for part in argv[:12]) + (" …" if len(argv) > 12 else "")
    return _text(exe)


def _mcp(event: dict[str, object]) -> str:
    mcp = _dict(event.get("mcp"))
    server = _dict(mcp.get("server"))
    peer = _text(server.get("name"), 40) or process_name(server)
    words = [_text(mcp.get("method"), 48)]
    if mcp.get("tool") is not None:
        words.append(_text(mcp.get("tool"), 64))
    arguments = mcp.get("arguments")
    if isinstance(arguments, dict) and arguments:
        words.append(fields(arguments, _ARGUMENT_ROOM))
    from_server = mcp.get("direction") == "server-to-client"
    if mcp.get("kind") == "response":
        error = mcp.get("error")
        words.insert(0, "reply to" if words[0] else "reply")
        if error is not None:
            detail = _dict(error)
            words.append(
                f"error {_text(detail.get('code'), 12)} {_text(detail.get('message'), 80)}"
            )
        elif mcp.get("is_error"):
            words.append("tool error")
        took = verdict.duration(mcp.get("latency_us"))
        words.append(f"in {took}" if took else "")
    if peer:
        words.append(f"{'<-' if from_server else '->'} {peer}")
    anomalies = mcp.get("anomalies")
    if isinstance(anomalies, list) and anomalies:
        words.append(f"anomalies: {show(anomalies, 80, 1)}")
    return " ".join(word for word in words if word)


def _noise(event: dict[str, object]) -> str:
    return f"non-JSON on an MCP channel: {_mcp(event)}"


def _file(event: dict[str, object]) -> str:
    file = _dict(event.get("file"))
    operation = _text(file.get("op"), 12) or "open"
    access = _text(file.get("access"), 8)
    words = [operation, f"({access})" if access else "", _text(file.get("path"), 160)]
    if file.get("to") is not None:
        words.append(f"-> {_text(file.get('to'), 160)}")
    return " ".join(word for word in words if word)


def _network(event: dict[str, object]) -> str:
    network = _dict(event.get("network"))
    verb = str(event.get("class", "")).rpartition(".")[2]
    path = _text(network.get("path"), 160)
    if path:
        return f"{verb} unix {path}"
    address = _text(network.get("address"), 64)
    shown = f"[{address}]" if ":" in address else address
    return f"{verb} {_text(network.get('protocol'), 8)} {shown}:{_text(network.get('port'), 8)}"


def _exec(event: dict[str, object]) -> str:
    program = _dict(event.get("exec"))
    return f"exec {_command(program.get('argv'), program.get('exe') or program.get('filename'))}"


def _target(event: dict[str, object]) -> str:
    for name in ("trace", "signal", "control"):
        target = _dict(event.get(name))
        if target:
            how = _text(target.get("signal") or target.get("access"), 16)
            whom = f"{_text(target.get('exe'), 80)} ({_text(target.get('pid'), 12)})"
            return " ".join(word for word in (name, how, "->", whom) if word)
    return _other(event)


def _door(event: dict[str, object]) -> str:
    for name in ("namespace", "mount", "bpf"):
        subject = _dict(event.get(name))
        if subject:
            return f"{name} {fields(subject, _ARGUMENT_ROOM)}"
    return _other(event)


def _exit(event: dict[str, object]) -> str:
    end = _dict(event.get("exit"))
    signal = end.get("signal")
    return f"exit by signal {_text(signal, 8)}" if signal else f"exit {_text(end.get('code'), 8)}"


def _fork(event: dict[str, object]) -> str:
    return f"fork -> {_text(_dict(event.get('fork')).get('child'), 12)}"


def _session(event: dict[str, object]) -> str:
    task = _dict(event.get("task"))
    objective = _text(task.get("objective"), 120)
    words = "session started" if event.get("class") == "session.start" else "session ended"
    return f"{words}: {objective}" if objective else words


def _loss(event: dict[str, object]) -> str:
    loss = _dict(event.get("loss"))
    count = "an unknown number of" if loss.get("count") == 0 else _text(loss.get("count"), 20)
    return f"{count} records lost ({_text(loss.get('source'), 40)})"


def _policy_loaded(event: dict[str, object]) -> str:
    policy = _dict(event.get("policy"))
    rules, workloads = _text(policy.get("rules"), 12), _text(policy.get("workloads"), 12)
    notes = policy.get("notes")
    late = f"; {len(notes)} notes (agentd doctor)" if isinstance(notes, list) and notes else ""
    return f"policy loaded: {rules} rules, {workloads} workloads{late}"


def _policy_rejected(event: dict[str, object]) -> str:
    problems = _dict(event.get("policy")).get("problems")
    known = problems if isinstance(problems, list) else []
    shown = " | ".join(show(problem, 300, 0) for problem in known[:3])
    more = f" (+{len(known) - 3} more)" if len(known) > 3 else ""
    return f"policy rejected, the last good one stays in force: {shown}{more}"


def _daemon_start(event: dict[str, object]) -> str:
    daemon = _dict(event.get("daemon"))
    version, tier = _text(daemon.get("version"), 24), _text(daemon.get("tier"), 24)
    return " ".join(f"agentd {version} watches, tier {tier}".split())


def _daemon_stop(event: dict[str, object]) -> str:
    del event
    return "agentd stops"


# What `_other` leaves out, because the rest of the line shows it or nobody reads it there.
_ENVELOPE = frozenset(
    (
        "v",
        "id",
        "seq",
        "boot",
        "host",
        "time",
        "class",
        "workload",
        "session",
        "task",
        "posture",
        "process",
        "count",
        "decision",
    )
)


def _other(event: dict[str, object]) -> str:
    rest = {name: value for name, value in event.items() if name not in _ENVELOPE}
    return f"{_text(event.get('class'), 40)} {fields(rest, _ARGUMENT_ROOM)}".rstrip()


def describe(event: dict[str, object]) -> str:
    """What an event, or the subject of a hold, is about, whatever its class; cleaned."""
    for name, function in (("mcp", _mcp), ("file", _file), ("exec", _exec), ("network", _network)):
        if name in event:
            return function(event)
    return _other(event)


_DESCRIBE: dict[str, Callable[[dict[str, object]], str]] = {
    "mcp.request": _mcp,
    "mcp.response": _mcp,
    "mcp.notification": _mcp,
    "mcp.noise": _noise,
    "file.open": _file,
    "file.delete": _file,
    "file.rename": _file,
    "network.connect": _network,
    "network.bind": _network,
    "network.accept": _network,
    "process.exec": _exec,
    "process.exit": _exit,
    "process.fork": _fork,
    "process.trace": _target,
    "process.signal": _target,
    "process.control": _target,
    "process.namespace": _door,
    "system.mount": _door,
    "system.bpf": _door,
    "session.start": _session,
    "session.end": _session,
    "hold.open": describe,
    "hold.decided": describe,
    "loss": _loss,
    "policy.loaded": _policy_loaded,
    "policy.rejected": _policy_rejected,
    "daemon.start": _daemon_start,
    "daemon.stop": _daemon_stop,
}


def _mark(event: dict[str, object], decision: dict[str, object]) -> verdict.Mark:
    chosen = verdict.mark(decision)
    if chosen is not None:
        return chosen
    name = event.get("class")
    return _CLASS_MARKS.get(name, verdict.PLAIN) if isinstance(name, str) else verdict.PLAIN


def render(event: dict[str, object], colour: bool) -> str:
    """One line (no newline) for an event of the native envelope; never raises, whatever it holds.

    Time is UTC. `colour` adds ANSI colours; nothing else in the line is a control character.
    """
    decision = _dict(event.get("decision"))
    mark, style = _mark(event, decision)
    padded = mark.ljust(_MARK_WIDTH)
    name = event.get("class")
    what = _DESCRIBE.get(name, _other) if isinstance(name, str) else _other
    words = [
        _who(event),
        process_name(event.get("process")),
        what(event),
        verdict.sentence(decision),
    ]
    count = number(event.get("count"))
    if count is not None and count > 1:
        words.append(f"x{count:.0f}")
    line = "  ".join(word for word in words if word)
    if colour:
        return f"\x1b[2m{_clock(event)}\x1b[0m \x1b[{style}m{padded}\x1b[0m {line}"
    return f"{_clock(event)} {padded} {line}"
