"""The rules on the side doors of a session: other processes, namespaces, mounts, bpf().

They are decided in the kernel by act, on the enforce tiers; what they say of the executable of the
other process, or of a mount point, is a matter of path globs like any other.
"""

import signal
from typing import Final, Literal

from agentd.policy.rules import Rule

SideAct = Literal[
    "trace-read",
    "trace-attach",
    "signal",
    "ns-user",
    "ns-create",
    "ns-join",
    "mount",
    "bind",
    "move",
    "umount",
    "bpf",
]

SIDE_KINDS: Final = frozenset(
    {"process.trace", "process.signal", "process.namespace", "system.mount", "system.bpf"}
)

HOOKS: Final[dict[SideAct, str]] = {
    "trace-read": "ptrace_access_check",
    "trace-attach": "ptrace_access_check",
    "signal": "task_kill",
    "ns-user": "userns_create",
    "ns-create": "capable",
    "ns-join": "capable",
    "mount": "sb_mount",
    "bind": "sb_mount",
    "move": "move_mount",
    "umount": "sb_umount",
    "bpf": "bpf",
}
"""The LSM hook that each act is judged in."""

_ACTS: Final[dict[str, dict[str, SideAct]]] = {
    "process.trace": {"read": "trace-read", "attach": "trace-attach"},
    "process.namespace": {"user": "ns-user", "create": "ns-create", "join": "ns-join"},
    "system.mount": {"mount": "mount", "bind": "bind", "move": "move", "umount": "umount"},
}
KINDS: Final = {on: tuple(acts) for on, acts in _ACTS.items()}
"""What `access` (process.trace) and `kind` (the others) can be."""

SIGNALS: Final = range(1, 65)


def side_acts(rule: Rule) -> tuple[SideAct, ...]:
    """What a rule on a side door is about; () for other rules."""
    match rule.on:
        case "process.signal":
            return ("signal",)
        case "system.bpf":
            return ("bpf",)
        case "process.trace" | "process.namespace" | "system.mount":
            given: tuple[str, ...] = rule.match.access or rule.match.kind or ()
            return tuple(act for name, act in _ACTS[rule.on].items() if not given or name in given)
        case _:
            return ()


def signals_of(rule: Rule) -> int:
    """The signals that a rule of process.signal is about, as a bit set."""
    return sum(1 << number for number in rule.match.signal or SIGNALS)


def waits_in_vain(rule: Rule) -> str | None:
    """Why a rule that asks (`hold`, or with `when`) can be asked about only in part, if so."""
    if rule.action != "hold" and (rule.when is None or rule.action not in {"deny", "kill"}):
        return None
    refused = "is not held but decided by the workload's on_failure"
    acts = set(side_acts(rule))
    match rule.on:
        case "process.trace":
            return f"what is not ptrace() itself (/proc, process_vm_readv) {refused}"
        case "process.namespace" if acts & {"ns-create", "ns-join"}:
            return f"unshare() of other than user namespaces, and setns(), {refused}"
        case "process.signal":
            return f"a signal to a whole process group {refused}"
        case _:
            return None


def signal_number(value: object) -> int:
    """9, "9", "KILL" or "SIGKILL" -> 9. Raises ValueError for what is no signal of Linux."""
    text = str(value).strip().upper()
    if text.isdigit() and int(text) in SIGNALS:
        return int(text)
    name = text if text.startswith("SIG") else f"SIG{text}"
    try:
        return int(signal.Signals[name])
    except KeyError:
        raise ValueError(f"{value!r} is not a signal") from None


def signal_name(number: int) -> str:
    """SIGKILL for 9; the number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
