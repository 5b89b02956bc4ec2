"""What a call on a socket is about: the `network` object of an event, and the subject of rules."""

import os
import socket
from functools import lru_cache
from typing import Any, Final

from agentd.daemon.places import given_path, path_of, true_path, unix_path
from agentd.kernel.decide_wire import HOOK_BIND, HOOK_SOCKET
from agentd.kernel.maps import HoldValue
from agentd.kernel.net_wire import FAMILY_RAW
from agentd.kernel.wire import U64
from agentd.policy.network_plan import FAMILIES
from agentd.workloads.identity import readable

_FAMILIES: Final[dict[int, str]] = {
    socket.AF_INET: "ipv4",
    socket.AF_INET6: "ipv6",
    socket.AF_UNIX: "unix",
}
_KINDS: Final = {number: name for name, number in FAMILIES.items()}
_TYPES: Final = {1: "stream", 2: "dgram", 3: "raw", 4: "rdm", 5: "seqpacket", 6: "dccp"}
_RAW: Final = 3
# What reaches the same service is one protocol to a rule: MPTCP and SMC are TCP, UDP-Lite is UDP.
_PROTOCOLS: Final = {
    1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmp", 132: "sctp", 136: "udp", 256: "tcp",
    262: "tcp",
}  # fmt: skip
_MAPPED: Final = bytes(10) + b"\xff\xff"


def class_of(hook: int) -> str:
    """The class of event of a HOOK_ on sockets."""
    return {HOOK_BIND: "network.bind", HOOK_SOCKET: "network.socket"}.get(hook, "network.connect")


def internet(family: int, protocol: int, address: bytes, port: int) -> dict[str, Any]:
    """An endpoint of IPv4 or IPv6; an IPv4 address used through an IPv6 socket is one of IPv4."""
    if address.startswith(_MAPPED):
        family = socket.AF_INET
    return {
        "family": _FAMILIES.get(family, str(family)),
        "protocol": _PROTOCOLS.get(protocol, str(protocol)),
        "address": _text(address),
        "port": port,
    }


def connected(connection: dict[str, Any]) -> dict[str, Any]:
    """A connection that is there (`enforce.connections.Connection`)."""
    family, protocol = connection["family"], connection["protocol"]
    address = socket.inet_pton(family, connection["address"])
    if family == socket.AF_INET:
        address = _MAPPED + address
    network = internet(family, protocol, address, connection["port"])
    return network | {"direction": "outbound"}


def unix(path: str) -> dict[str, Any]:
    """A Unix socket, by its path or `@name`."""
    return {"family": "unix", "protocol": "unix", "path": path}


def kind(family: int, type_: int, protocol: int) -> dict[str, Any]:
    """A socket that is neither of IP nor Unix, or is raw. `protocol` is the family's own."""
    if family in {socket.AF_INET, socket.AF_INET6} and type_ == _RAW:
        family = FAMILY_RAW
    return {
        "family": _KINDS.get(family) or _FAMILIES.get(family, str(family)),
        "type": _TYPES.get(type_, str(type_)),
        "protocol": protocol,
    }


def given_unix(path: bytes, real: bytes, *, relative: bool) -> dict[str, Any]:
    """A Unix socket as a program gave it; `real`: the components of its true path.

    `relative`: those are of the directory that the path begins in.
    """
    network = unix(unix_path(path))
    if real:
        found = path_of(real)
        if relative:
            found = readable(true_path(given_path(real, path.split(b"\0", 1)[0])))
        if found != network["path"]:
            network |= {"path": found, "given": network["path"]}
    return network


def held(hold: HoldValue, names: bytes) -> dict[str, Any] | None:
    """What a held call is about (`struct subject`); None if the name of a Unix socket is lost."""
    what = hold.address
    family, type_, protocol, port = (what >> shift & 0xFFFF for shift in (48, 32, 16, 0))
    if hold.syscall == HOOK_SOCKET:
        return kind(family, type_, protocol)
    if family != socket.AF_UNIX:
        return internet(family, protocol, U64.pack(hold.ino) + U64.pack(hold.peer_ino), port)
    name = names[: hold.length]
    if not name:
        return None
    if name.startswith(b"\0"):
        return unix(unix_path(name))
    if hold.syscall == HOOK_BIND:
        return unix(_bound_path(hold, name.split(b"\0", 1)[0]))
    return unix(path_of(name))


def _bound_path(hold: HoldValue, given: bytes) -> str:
    """Where a Unix socket is about to be: the task is stopped in the directory it starts from."""
    try:
        start = os.readlink(b"/proc/%d/cwd" % hold.tid)
    except OSError:
        start = b"/"
    return readable(true_path(os.path.join(start, given)))


@lru_cache(maxsize=4096)
def _text(packed: bytes) -> str:
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)
