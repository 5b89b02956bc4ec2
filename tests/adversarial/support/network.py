"""Ways to reach an address or a socket that a rule denies; servers on loopback say what arrives.

`{denied}`, `{denied6}` and `{asked_address}` are closed, the last but for a person; `{free}` is
open, on `{port}`, and `{closed_port}` is closed on every address.
"""

from typing import TYPE_CHECKING, Any, Final

from tests.adversarial.support.case import UNTRIED, Case

if TYPE_CHECKING:
    from tests.adversarial.support.arena import Arena
    from tests.adversarial.support.targets import Closed

DENIED, ASKED, FREE = "127.77.0.1", "127.78.0.1", "127.79.0.1"
_FAMILIES: Final = ("raw", "packet", "alg", "vsock")


def names(servers: "Closed") -> dict[str, str]:
    return {
        "denied": DENIED,
        "denied6": "::1",
        "asked_address": ASKED,
        "free": FREE,
        "port": str(servers.port),
        "closed_port": str(servers.closed_port),
        "sockets": str(servers.base),
    }


def rules(servers: "Closed") -> list[dict[str, Any]]:
    def rule(rule_id: str, match: dict[str, Any], action: str = "deny") -> dict[str, Any]:
        return {"id": rule_id, "on": "network.connect", "match": match, "action": action}

    return [
        rule("no-network", {"cidr": [f"{DENIED}/32", "::1/128"]}),
        rule("no-port", {"port": servers.closed_port}),
        rule("no-engine", {"path": ["*/docker.sock", "*/systemd/private", "@secret*"]}),
        rule("ask-network", {"cidr": [f"{ASKED}/32"]}, "hold")
        | {"approve": {"timeout": "5m", "on_timeout": "deny"}},
        {
            "id": "no-low-level",
            "on": "network.socket",
            "match": {"family": [*_FAMILIES]},
            "action": "deny",
        },
    ]


def _reached(arena: "Arena") -> bool:
    return arena.servers.is_reached()


def _connect(family: str, address: str, port: str = "{port}") -> str:
    return f"socket.socket(socket.{family}).connect(({address!r}, {port}))"


def _unix(name: str, kind: str = "SOCK_STREAM") -> str:
    return f"socket.socket(socket.AF_UNIX, socket.{kind}).connect({name})"


_UDP = "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
_LATE = "The connect is seen when it has happened; the process is killed after it."
_MADE = "The socket is made and seen, and the process is killed at some moment after it."


def _address(
    name: str, source: str, observe: str = "denied", enforce: str = "denied", note: str = ""
) -> Case:
    return Case(name, source, observe, enforce, note, _reached)


def _path(name: str, source: str) -> Case:
    return Case(name, source, "detected", "denied", _LATE, _reached)


def _kind(name: str, source: str) -> Case:
    return Case(name, source + "\ndone()", UNTRIED, "denied", _MADE)


CASES = (
    _address("IPv4 by address", _connect("AF_INET", "{denied}")),
    _address("IPv6 by address", _connect("AF_INET6", "{denied6}")),
    _address("IPv4 mapped into IPv6", _connect("AF_INET6", "::ffff:{denied}")),
    _address("an unspecified IPv6 address, which is loopback", _connect("AF_INET6", "::")),
    _address("by port", _connect("AF_INET", "{free}", "{closed_port}")),
    _address("by port, IPv6", _connect("AF_INET6", "::ffff:{free}", "{closed_port}")),
    Case(
        "an address that a person is asked about",
        _connect("AF_INET", "{asked_address}"),
        "detected",
        "held",
        "On the observe tier such rules are judged after the connect. " + _LATE,
        _reached,
        asks=True,
    ),
    _address("sendto without connect", _UDP + "u.sendto(b'x', ('{denied}', {port}))"),
    _address("sendmsg without connect", _UDP + "u.sendmsg([b'x'], [], 0, ('{denied}', {port}))"),
    _address(
        "sendmsg, IPv4 mapped into IPv6",
        "u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "u.sendmsg([b'x'], [], 0, ('::ffff:{denied}', {port}))",
    ),
    _address(
        "sendto with an address of no family",
        _UDP + "a = struct.pack('=HH4s8x', 0, socket.htons({port}), socket.inet_aton('{denied}'))\n"
        "call(44, u.fileno(), b'x', 1, 0, a, 16)",
    ),
    _address("connected UDP", _UDP + "u.connect(('{denied}', {port})); u.send(b'x')"),
    _address(
        "UDP connected to another address, then sendto",
        _UDP + "u.connect(('{free}', {closed_port} + 1)); u.sendto(b'x', ('{denied}', {port}))",
    ),
    _address(
        "MSG_FASTOPEN, which needs no connect",
        "socket.socket().sendto(b'x', 0x20000000, ('{denied}', {port}))",
        "denied",
    ),
    _address(
        "TCP_FASTOPEN_CONNECT, which connects at the first write",
        "s = socket.socket(); s.setsockopt(6, 30, 1)\n"
        "s.connect(('{denied}', {port})); s.send(b'x')",
    ),
    _address("MPTCP", "socket.socket(2, 1, 262).connect(('{denied}', {port}))"),
    _address(
        "a connected socket, disconnected and connected anew",
        "s = socket.socket(); s.connect(('{free}', {port} + 0))\n"
        "call(42, s.fileno(), bytes(16), 16); s.connect(('{denied}', {port}))",
    ),
    _address(
        "a double fork, with the connect in the grandchild",
        "def act():\n os.setsid()\n pass_on(in_child(lambda: "
        + _connect("AF_INET", "{denied}")
        + "))\npass_on(in_child(act))",
    ),
    _address(
        "a forwarder outside the session",
        "s = socket.create_connection(('{free}', {forwarder})); s.send(b'x'); s.recv(1)",
        "gap",
        "gap",
        "What an unlabelled process does for others is not the session's. A rule that denies the"
        " forwarder's own address closes this.",
    ),
    _path("a Unix socket by path", _unix("'{sockets}/docker.sock'")),
    _path("by a relative path", "os.chdir('{sockets}'); " + _unix("'./docker.sock'")),
    _path(
        "by a symlink", "os.symlink('{sockets}/docker.sock', '{work}/s'); " + _unix("'{work}/s'")
    ),
    _path("by a hard link", "os.link('{sockets}/docker.sock', '{work}/h'); " + _unix("'{work}/h'")),
    _path("through /proc/self/root", _unix("'/proc/self/root{sockets}/docker.sock'")),
    _path(
        "through a directory descriptor",
        "d = os.open('{sockets}', os.O_PATH); " + _unix("f'/proc/self/fd/{d}/docker.sock'"),
    ),
    _path("a service manager's socket", _unix("'{sockets}/systemd/private'")),
    _path(
        "a datagram to a path, without connect",
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '{sockets}/d/docker.sock')",
    ),
    _path("an abstract Unix socket", _unix("'\\0secret-{port}'")),
    _kind("a raw socket", "socket.socket(2, 3, 1)"),
    _kind("a raw IPv6 socket", "socket.socket(10, 3, 58)"),
    _kind("a packet socket", "socket.socket(17, 3, 0)"),
    Case(
        "AF_ALG",
        "socket.socket(38, 5, 0); done()",
        UNTRIED,
        note="The kernel of the machine that tests the observe tier has no such sockets.",
    ),
    _kind("vsock", "socket.socket(40, 1, 0)"),
)
