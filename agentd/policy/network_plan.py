"""Rules on sockets, as the entries of the kernel's table of them (bpf/include/netrules.h).

The observe tier can refuse a connect by address, port and protocol; everything else is seen there
when it has happened. The enforce tiers decide every rule on sockets before the effect: by this
table, by the path of the listener (`path_plan`), or by asking user space.
"""

import ipaddress
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from agentd.policy.rules import SEVERITY_RANK, Policy, Rule, SocketFamily
from agentd.policy.socket_paths import names_abstract, path_globs

BINDING: Final = frozenset({"deny", "hold", "kill"})
PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}  # IANA protocol numbers; 0 is any
FAMILIES: Final[dict[SocketFamily, int]] = {
    "raw": 256,  # SOCK_RAW of IPv4 or IPv6; the others are address families of linux/socket.h
    "key": 15,
    "netlink": 16,
    "packet": 17,
    "rds": 21,
    "pppox": 24,
    "can": 29,
    "tipc": 30,
    "bluetooth": 31,
    "rxrpc": 33,
    "alg": 38,
    "nfc": 39,
    "vsock": 40,
    "kcm": 41,
    "qipcrtr": 42,
    "smc": 43,
    "xdp": 44,
    "mctp": 45,
}
MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
Place = tuple[Literal[0, 4, 6], bytes, int]  # family, address, prefix length
Use = Literal["connect", "bind", "socket", "unix", "abstract", "unix-bind", "abstract-bind"]
Treatment = Literal["ask", "deny", "kill"]
_ANYWHERE: Final[Place] = (0, bytes(16), 0)
_RANK: Final[dict[Treatment, int]] = {"ask": 0, "deny": 1, "kill": 2}


@dataclass(frozen=True, slots=True)
class NetRule:
    """One entry. An exception comes before the other entries of the same `rule_id`.

    `address` has 16 bytes; IPv4 is in its mapped form with 96 added to `prefixlen`, so that the
    same rule covers an IPv4 address used through an IPv6 socket. family 0 is any address. For
    `socket` the kind of socket is in `protocol`, as in FAMILIES.
    """

    rule_id: str
    workloads: tuple[str, ...]
    family: Literal[0, 4, 6]
    address: bytes
    prefixlen: int
    port_lo: int
    port_hi: int
    protocol: int
    is_except: bool
    use: Use = "connect"
    treatment: Treatment = "deny"


@dataclass(slots=True)
class NetworkPlan:
    """What an enforce tier decides about sockets, the most severe first."""

    rules: list[NetRule] = field(default_factory=list)
    enforced: frozenset[str] = frozenset()
    """Ids of all rules that are decided before the effect."""


def compile_network(policy: Policy, by_path: Container[str]) -> NetworkPlan:
    """The entries for an enforce tier. `by_path`: ids of rules that a listener's path decides."""
    fitting = [rule for rule in policy.rules if rule.action in BINDING and rule.family == "network"]
    fitting.sort(
        key=lambda rule: (_RANK[_treatment(rule)], SEVERITY_RANK[rule.severity]), reverse=True
    )
    rules = [entry for rule in fitting for entry in _entries(rule, rule.id in by_path)]
    return NetworkPlan(rules, frozenset(rule.id for rule in fitting))


def connects_by_address(rule: Rule) -> list[NetRule]:
    """The entries of a static rule on connects: what the observe tier can decide of it."""
    return list(_by_address(rule, "connect", "deny"))


def socket_path_globs(rule: Rule) -> list[str] | None:
    """Path globs for the listeners that a rule on connects names; None where none say the same."""
    if rule.on != "network.connect" or rule.match.path is None or _is_internet(rule):
        return None
    if rule.match.protocol is not None and "unix" not in rule.match.protocol:
        return None
    return path_globs(rule.match.path) or None


def _entries(rule: Rule, by_path: bool) -> Iterator[NetRule]:
    treatment = _treatment(rule)
    if rule.on == "network.socket":
        for name in rule.match.family or FAMILIES:
            yield _net(rule, _ANYWHERE, (0, 65535), FAMILIES[name], "socket", treatment)
        return
    binds = rule.on == "network.bind"
    protocols = rule.match.protocol
    if rule.match.path is None and (protocols is None or set(protocols) != {"unix"}):
        yield from _by_address(rule, "bind" if binds else "connect", treatment)
    if _is_internet(rule) or (protocols is not None and "unix" not in protocols):
        return
    named = rule.match.path is not None
    treatment = "ask" if named else treatment
    if not by_path and path_globs(rule.match.path or ("*",)) != []:
        use: Use = "unix-bind" if binds else "unix"
        yield _net(rule, _ANYWHERE, (0, 65535), 0, use, treatment)
    if names_abstract(rule.match.path or ()):
        use = "abstract-bind" if binds else "abstract"
        yield _net(rule, _ANYWHERE, (0, 65535), 0, use, treatment)


def _by_address(rule: Rule, use: Use, treatment: Treatment) -> Iterator[NetRule]:
    for excepted in rule.match.except_ or ():
        yield _net(rule, _as_bytes(excepted), (0, 65535), 0, use, treatment, is_except=True)
    protocols = [PROTOCOLS[name] for name in rule.match.protocol or () if name in PROTOCOLS]
    for place in [_as_bytes(network) for network in rule.match.cidr or ()] or [_ANYWHERE]:
        for ports in rule.match.port or ((0, 65535),):
            for protocol in protocols or [0]:
                yield _net(rule, place, ports, protocol, use, treatment)


def _net(  # noqa: PLR0917 (the parts of an entry)
    rule: Rule,
    place: Place,
    ports: tuple[int, int],
    protocol: int,
    use: Use,
    treatment: Treatment,
    *,
    is_except: bool = False,
) -> NetRule:
    return NetRule(rule.id, rule.workloads, *place, *ports, protocol, is_except, use, treatment)


def _treatment(rule: Rule) -> Treatment:
    if rule.action == "hold" or rule.when is not None:
        return "ask"
    return "kill" if rule.action == "kill" else "deny"


def _is_internet(rule: Rule) -> bool:
    return bool(rule.match.cidr or rule.match.except_ or rule.match.port)


def _as_bytes(text: str) -> Place:
    network = ipaddress.ip_network(text)
    packed = network.network_address.packed
    if isinstance(network, ipaddress.IPv4Network):
        return 4, MAPPED.network_address.packed[:12] + packed, network.prefixlen + 96
    return 6, packed, network.prefixlen
