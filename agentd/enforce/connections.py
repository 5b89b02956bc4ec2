"""Connections that are there when the rules change: finds those of given processes, cuts some.

Runs as a process of its own (`main`): it enters network namespaces and imports much. A connection
is known by the inode of its socket, as /proc/PID/fd has it, and is looked for in this network
namespace and in the process's own. Both ends see one that was cut as aborted: ECONNABORTED here, a
reset there.
"""

import contextlib
import ctypes
import json
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.diag import SOCK_DESTROY, DiagSocket, inet_diag_req

_CLONE_NEWNET: Final = 0x40000000
_NETLINK_SOCK_DIAG: Final = 4
_NLMSG_ERROR: Final = 2
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_OPEN_STATES: Final = sum(1 << state for state in (1, 2, 3, 4, 5, 8))
"""All TCP states with a peer that may still send or receive (net/tcp_states.h)."""
_LISTEN: Final = 10
_KINDS: Final = tuple(
    (family, protocol)
    for family in (socket.AF_INET, socket.AF_INET6)
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
)


@dataclass(frozen=True, slots=True)
class Connection:
    """One socket that is connected, and a process that has it open."""

    pid: int
    inode: int
    namespace: int
    """Which process's network namespace it is in; 0 for this one's."""
    family: int
    protocol: int
    source: str
    source_port: int
    address: str
    port: int
    interface: int
    cookie: int


def find(pids: Iterable[int]) -> list[Connection]:
    """The connections that these processes have made; each is told for one of them.

    One at the port of a listener was made by the other end, and is left out.
    """
    owners: dict[int, int] = {}
    namespaces = {_namespace(os.getpid()): 0}
    for pid in pids:
        for inode in _socket_inodes(pid):
            owners.setdefault(inode, pid)
        namespaces.setdefault(_namespace(pid), pid)
    found = []
    for number, pid in namespaces.items():
        if number is not None and owners:
            with _inside(pid):
                found += _dump(owners, pid)
    return found


def cut(connection: Connection) -> str:
    """Destroys a connection; "" or why that is not possible (CONFIG_INET_DIAG_DESTROY)."""
    request = inet_diag_req()
    request["sdiag_family"] = connection.family
    request["sdiag_protocol"] = connection.protocol
    request["idiag_states"] = _OPEN_STATES
    request["idiag_sport"] = connection.source_port
    request["idiag_dport"] = connection.port
    request["idiag_src"] = _words(connection.family, connection.source)
    request["idiag_dst"] = _words(connection.family, connection.address)
    request["idiag_if"] = connection.interface
    request["idiag_cookie"] = connection.cookie
    request["header"]["type"] = SOCK_DESTROY
    request["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
    request["header"]["sequence_number"] = 1
    request.encode()
    try:
        with (
            _inside(connection.namespace),
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link,
        ):
            link.settimeout(5.0)
            link.send(bytes(request.data))
            answer = link.recv(8192)
    except OSError as error:
        return str(error)
    _, kind, *_ = _HEADER.unpack_from(answer)
    code = struct.unpack_from("=i", answer, _HEADER.size)[0] if kind == _NLMSG_ERROR else 0
    return "" if not code else os.strerror(-code)


def _dump(owners: dict[int, int], namespace: int) -> list[Connection]:
    found: list[Connection] = []
    listening: set[int] = set()
    with DiagSocket() as diag:
        diag.bind()
        for family, protocol in _KINDS:
            states = _OPEN_STATES | 1 << _LISTEN
            for each in diag.get_sock_stats(family, states=states, protocol=protocol):
                if each["idiag_state"] == _LISTEN:
                    listening.add(each["idiag_sport"])
                elif each["idiag_inode"] in owners:
                    owner = owners[each["idiag_inode"]]
                    found.append(_connection(each, owner, namespace, protocol))
    return [
        each
        for each in found
        if each.protocol != socket.IPPROTO_TCP or each.source_port not in listening
    ]


def _connection(message: Any, pid: int, namespace: int, protocol: int) -> Connection:
    return Connection(
        pid=pid,
        inode=message["idiag_inode"],
        namespace=namespace,
        family=message["idiag_family"],
        protocol=protocol,
        source=message["idiag_src"],
        source_port=message["idiag_sport"],
        address=message["idiag_dst"],
        port=message["idiag_dport"],
        interface=message["idiag_if"],
        cookie=message["idiag_cookie"],
    )


def _socket_inodes(pid: int) -> Iterator[int]:
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    for link in links:
        with contextlib.suppress(OSError):
            target = str(link.readlink())
            if target.startswith("socket:["):
                yield int(target[8:-1])


def _namespace(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return None


@contextlib.contextmanager
def _inside(pid: int) -> Iterator[None]:
    """In the network namespace of a process; 0: where this one is. Raises OSError."""
    if not pid:
        yield
        return
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _words(family: int, address: str) -> tuple[int, ...]:
    packed = socket.inet_pton(family, address)
    return struct.unpack(">4I", packed.ljust(16, b"\0"))


def main() -> int:
    """Reads pids, tells their connections, reads which of them to cut, tells what came of it."""
    found = find(json.loads(sys.stdin.readline() or "[]"))
    print(json.dumps([asdict(each) for each in found]), flush=True)
    chosen = json.loads(sys.stdin.readline() or "[]")
    print(json.dumps([cut(found[index]) for index in chosen]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
