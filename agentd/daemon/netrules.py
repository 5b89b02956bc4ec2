"""Entries on sockets -> the values of the kernel's table, and the numbers its records carry."""

from dataclasses import dataclass
from typing import Final

from agentd.kernel.maps import SocketRuleValue
from agentd.kernel.net_wire import (
    MAX_SOCKET_RULES,
    RULE_ABSTRACT,
    RULE_ASK,
    RULE_BIND,
    RULE_EXCEPT,
    RULE_IPV6,
    RULE_KILL,
    RULE_SOCKET,
    RULE_UNIX,
)
from agentd.policy.network_plan import NetRule, Treatment, Use

_USES: Final[dict[Use, int]] = {
    "connect": 0,
    "bind": RULE_BIND,
    "socket": RULE_SOCKET,
    "unix": RULE_UNIX,
    "abstract": RULE_ABSTRACT,
    "unix-bind": RULE_UNIX | RULE_BIND,
    "abstract-bind": RULE_ABSTRACT | RULE_BIND,
}
_TREATMENTS: Final[dict[Treatment, int]] = {"ask": RULE_ASK, "deny": 0, "kill": RULE_KILL}
OVERFLOW: Final = "too-many-network-rules"


class Numbers:
    """Rule ids by number. A number means the same rule for ever: a late record names its own."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}

    def of(self, name: str) -> int:
        """The number of a rule."""
        number = self._numbers.setdefault(name, len(self._names))
        if number == len(self._names):
            self._names.append(name)
        return number

    def name(self, number: int) -> str:
        """The rule with this number."""
        return self._names[number] if number < len(self._names) else "unknown"


@dataclass(frozen=True, slots=True)
class Found:
    """The values, and what they do not say; "" if they say everything."""

    rules: list[SocketRuleValue]
    left_out: str = ""


def socket_rules(entries: list[NetRule], numbers: Numbers, *, asks: bool) -> Found:
    """The values for one workload.

    Where there are more than the kernel has room for, it asks about every call (`asks`: it can), or
    the last rules are left out.
    """
    if len(entries) <= MAX_SOCKET_RULES:
        return Found([_value(entry, numbers) for entry in entries])
    text = f"{len(entries)} entries of network rules; the kernel has room for {MAX_SOCKET_RULES}"
    if asks:
        number = numbers.of(OVERFLOW)
        every = [
            SocketRuleValue(bytes(16), 0, 0, 0, 65535, number, RULE_ASK | use)
            for use in _USES.values()
        ]
        return Found(every, f"{text}: every call on a socket waits for the daemon")
    fitting = [_value(entry, numbers) for entry in entries[:MAX_SOCKET_RULES]]
    names = dict.fromkeys(entry.rule_id for entry in entries[MAX_SOCKET_RULES:])
    return Found(fitting, f"{text}: left out are those of {', '.join(names)}")


def _value(entry: NetRule, numbers: Numbers) -> SocketRuleValue:
    flags = _USES[entry.use] | _TREATMENTS[entry.treatment]
    flags |= RULE_EXCEPT if entry.is_except else 0
    flags |= RULE_IPV6 if entry.family == 6 else 0
    return SocketRuleValue(
        entry.address,
        entry.prefixlen,
        entry.protocol,
        entry.port_lo,
        entry.port_hi,
        numbers.of(entry.rule_id),
        flags,
    )
