"""What the kernel tells of acts at a session's side doors, as events and as the rules see it."""

from typing import Any, Final

from agentd.kernel import decide_wire
from agentd.kernel.decide_wire import (
    ACT_BIND,
    ACT_MOUNT,
    ACT_MOVE,
    ACT_NS_CREATE,
    ACT_NS_JOIN,
    ACT_NS_USER,
    ACT_TRACE_ATTACH,
    ACT_UMOUNT,
    HOOK_BPF,
    HOOK_CONTROL,
    HOOK_MOUNT,
    HOOK_NAMESPACE,
    HOOK_SIGNAL,
    HOOK_TRACE,
)
from agentd.policy.side import signal_name

Described = tuple[str, dict[str, Any], dict[str, Any]]

HOOKS: Final = frozenset(
    {HOOK_TRACE, HOOK_SIGNAL, HOOK_NAMESPACE, HOOK_MOUNT, HOOK_BPF, HOOK_CONTROL}
)
PATHLESS: Final = frozenset({HOOK_NAMESPACE, HOOK_BPF})
"""Their holds come without a path."""

_KINDS: Final = {
    ACT_NS_USER: "user",
    ACT_NS_CREATE: "create",
    ACT_NS_JOIN: "join",
    ACT_MOUNT: "mount",
    ACT_BIND: "bind",
    ACT_MOVE: "move",
    ACT_UMOUNT: "umount",
}
_NAMESPACES: Final = {
    0x80: "time",
    0x20000: "mount",
    0x2000000: "cgroup",
    0x4000000: "uts",
    0x8000000: "ipc",
    0x10000000: "user",
    0x20000000: "pid",
    0x40000000: "net",
}
"""CLONE_NEW... of linux/sched.h."""


def described(hook: int, acts: int, path: str, target: int, detail: int) -> Described:
    """The event's class, its own parts, and the subject as the rules see it.

    `path`, `target` and `detail` as in `struct refusal_record`.
    """
    kind = "|".join(name for act, name in _KINDS.items() if acts & 1 << act)
    subject: dict[str, Any]
    match hook:
        case decide_wire.HOOK_TRACE:
            access = "attach" if acts & 1 << ACT_TRACE_ATTACH else "read"
            subject = {"exe": path, "pid": target, "access": access}
            return "process.trace", {"trace": subject}, subject
        case decide_wire.HOOK_SIGNAL:
            subject = {"exe": path, "pid": target, "signal": signal_name(detail)}
            return "process.signal", {"signal": subject}, subject
        case decide_wire.HOOK_NAMESPACE:
            types = [name for flag, name in _NAMESPACES.items() if detail & flag]
            subject = {"kind": kind, "types": types}
            return "process.namespace", {"namespace": subject}, subject
        case decide_wire.HOOK_MOUNT:
            subject = {"kind": kind, "path": path}
            return "system.mount", {"mount": subject}, subject
        case decide_wire.HOOK_BPF:
            subject = {"command": str(detail)}
            return "system.bpf", {"bpf": subject}, subject
        case _:
            subject = {"exe": path, "pid": target}
            return "process.control", {"control": subject}, subject
