"""Sockets on the enforce tiers: what is denied does not happen, and what is held waits.

Judged by the effect: servers on loopback say what has arrived.
"""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.host.support.control import Message
from tests.host.support.daemon import Daemon, workload
from tests.host.support.listeners import Servers
from tests.host.support.uring import URING

pytestmark = pytest.mark.lab

READY_S = float(os.environ.get("AGENTD_TEST_READY_S", "400"))
PYTHON = "/usr/bin/python3"
DENIED, ALLOWED, HELD, KILLED = "127.77.0.1", "127.77.0.9", "127.99.0.1", "127.88.0.1"
CLOSED_PORT = 7777
ALG, VSOCK, PACKET, NETLINK, MPTCP = 38, 40, 17, 16, 262

# Runs `what(f)` for each word and says what came of it: "ok", or the name of the error.
PRELUDE = """
import ctypes, errno, os, socket, sys, time
from socket import *
def t(name, call):
    began = time.time()
    try:
        call()
        print(name, "ok", flush=True)
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, error.errno), flush=True)
"""
RULES = [
    {
        "id": "no-connect",
        "on": "network.connect",
        "match": {"cidr": ["127.77.0.0/24", "::1/128"], "except": [f"{ALLOWED}/32"]},
        "action": "deny",
    },
    {
        "id": "kill-connect",
        "on": "network.connect",
        "match": {"cidr": ["127.88.0.0/24"]},
        "action": "kill",
    },
    {
        "id": "ask-connect",
        "on": "network.connect",
        "match": {"cidr": ["127.99.0.0/24"]},
        "action": "hold",
        "approve": {"timeout": "20s", "on_timeout": "deny"},
    },
    {
        "id": "when-connect",
        "on": "network.connect",
        "match": {"cidr": ["127.66.0.0/24"]},
        "when": 'event.address == "127.66.0.1"',
        "action": "deny",
    },
    {
        "id": "no-bind",
        "on": "network.bind",
        "match": {"port": CLOSED_PORT},
        "action": "deny",
    },
    {
        "id": "no-engine",
        "on": "network.connect",
        "match": {"path": ["*/docker.sock", "@secret*"]},
        "action": "deny",
    },
    {
        "id": "no-low-level",
        "on": "network.socket",
        "match": {"family": ["raw", "packet", "alg", "vsock"]},
        "action": "deny",
    },
]


@dataclass
class Place:
    daemon: Daemon
    servers: Servers
    base: Path

    def run(self, code: str, during: Callable[[], None] | None = None) -> dict[str, str]:
        """What came of each `t(name, call)`; what had arrived before is forgotten."""
        self.servers.got.clear()
        process = subprocess.Popen(
            self.daemon.run("w", [PYTHON, "-S", "-c", PRELUDE + code]), stdout=subprocess.PIPE
        )
        if during is not None:
            during()
        output, _ = process.communicate(timeout=200)
        time.sleep(0.5)
        lines = [line.split(None, 1) for line in output.decode().splitlines()]
        return dict(line for line in lines if len(line) == 2)

    def decided(self, event_class: str, **network: object) -> list[Message]:
        return [
            event
            for event in self.daemon.events(event_class)
            if "decision" in event
            and all(event["network"].get(key) == value for key, value in network.items())
        ]

    def answer(self, verdict: str) -> Callable[[], None]:
        """Answers the next held call."""

        def during() -> None:
            deadline = time.monotonic() + 100
            while not (waiting := self.daemon.request("holds")["holds"]):
                assert time.monotonic() < deadline, "nothing was held"
                time.sleep(0.2)
            assert not self.servers.got, "it has happened before it was judged"
            self.daemon.request(verdict, id=waiting[0]["id"])

        return during


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("net")
    servers = Servers(base)
    servers.start()
    for name in ("secret-1", "public-1"):
        end = servers.bound(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + name)
        servers.serve(end, "@" + name)
    rules = [{**rule, "reason": str(rule["id"])} for rule in RULES]
    daemon = Daemon(
        base / "agentd",
        {"w.yaml": workload("w"), "r.yaml": {"rules": rules}},
        settings={"tier": os.environ.get("AGENTD_TEST_TIER", "auto")},
    )
    daemon.READY_TIMEOUT_S = READY_S
    try:
        with daemon:
            yield Place(daemon, servers, base)
    finally:
        servers.close()


def connects(*addresses: str, port: int) -> str:
    return "".join(
        f"t({each!r}, lambda: socket({'AF_INET6' if ':' in each else 'AF_INET'})"
        f".connect(({each!r}, {port})))\n"
        for each in addresses
    )


def test_connects_by_address(place: Place) -> None:
    port = place.servers.port
    mapped = f"::ffff:{DENIED}"
    found = place.run(connects(DENIED, "::1", "::", mapped, ALLOWED, port=port))
    assert found == {
        DENIED: "EPERM", "::1": "EPERM", "::": "EPERM", mapped: "EPERM", ALLOWED: "ok",
    }  # fmt: skip
    assert place.servers.got == ["tcp"]
    (event,) = place.decided("network.connect", address=DENIED, protocol="tcp", family="ipv4")[:1]
    assert event["decision"]["before_effect"] is True
    assert event["decision"]["tier"].startswith("enforce")
    assert event["decision"]["rules"] == ["no-connect"]
    untold = [event for event in place.daemon.events("network.connect") if "decision" not in event]
    assert {event["network"].get("error") for event in untold} == {None}, "told a second time"


def test_kill_comes_before_the_effect(place: Place) -> None:
    assert place.run(connects(KILLED, port=place.servers.port) + "print('still here', 1)\n") == {}
    assert place.servers.got == []


def test_a_condition_is_judged_before_the_effect(place: Place) -> None:
    found = place.run(connects("127.66.0.1", port=place.servers.port))
    assert found == {"127.66.0.1": "EPERM"}
    assert place.servers.got == []


@pytest.mark.parametrize(("verdict", "result"), [("approve", "ok"), ("deny", "EPERM")])
def test_a_person_decides_on_a_connect(place: Place, verdict: str, result: str) -> None:
    code = connects(HELD, port=place.servers.port)
    assert place.run(code, place.answer(verdict)) == {HELD: result}
    assert place.servers.got == (["tcp"] if verdict == "approve" else [])


def test_nobody_answers(place: Place) -> None:
    assert place.run(connects(HELD, port=place.servers.port)) == {HELD: "EPERM"}
    assert place.servers.got == []


def test_sends_that_name_their_destination(place: Place) -> None:
    port = place.servers.port
    found = place.run(f"""
u, s, m = socket(AF_INET, SOCK_DGRAM), socket(), socket(AF_INET, SOCK_STREAM, {MPTCP})
t("sendto", lambda: u.sendto(b"x", ({DENIED!r}, {port})))
t("sendmsg", lambda: u.sendmsg([b"x"], [], 0, ({DENIED!r}, {port})))
t("fastopen", lambda: s.sendto(b"x", 0x20000000, ({DENIED!r}, {port})))
t("mptcp", lambda: m.connect(({DENIED!r}, {port})))
t("free", lambda: u.sendto(b"x", ({ALLOWED!r}, {port})))
""")
    assert found == {
        "sendto": "EPERM", "sendmsg": "EPERM", "fastopen": "EPERM", "mptcp": "EPERM", "free": "ok",
    }  # fmt: skip
    assert place.servers.got == ["udp"]


def test_a_person_decides_on_a_send(place: Place) -> None:
    code = f"""
u = socket(AF_INET, SOCK_DGRAM)
t("held", lambda: u.sendto(b"x", ({HELD!r}, {place.servers.port})))
"""
    assert place.run(code, place.answer("approve")) == {"held": "ok"}
    assert place.servers.got == ["udp"]


def test_binds(place: Place) -> None:
    found = place.run(f"""
t("closed", lambda: socket().bind(("0.0.0.0", {CLOSED_PORT})))
t("open", lambda: socket().bind(("0.0.0.0", {CLOSED_PORT + 1})))
""")
    assert found == {"closed": "EPERM", "open": "ok"}
    assert place.decided("network.bind", port=CLOSED_PORT)


def test_unix_sockets_by_the_listeners_name(place: Place) -> None:
    base = place.base
    (base / "alias").symlink_to(base / "docker.sock")
    (base / "hard").hardlink_to(base / "docker.sock")
    found = place.run(f"""
def to(name, kind=SOCK_STREAM):
    return lambda: socket(AF_UNIX, kind).connect(name)
os.chdir({str(base)!r})
t("path", to({str(base / "docker.sock")!r}))
t("relative", to("./docker.sock"))
t("symlink", to("alias"))
t("hardlink", to("hard"))
t("datagram", to("d/docker.sock", SOCK_DGRAM))
t("sendto", lambda: socket(AF_UNIX, SOCK_DGRAM).sendto(b"x", "d/docker.sock"))
t("free", to("free.sock"))
t("abstract", to("\\0secret-1"))
t("other", to("\\0public-1"))
""")
    refused = ("path", "relative", "symlink", "hardlink", "datagram", "sendto", "abstract")
    assert found == dict.fromkeys(refused, "EPERM") | {"free": "ok", "other": "ok"}
    assert sorted(place.servers.got) == ["@public-1", "free.sock"]
    assert place.decided("network.connect", path=str(base / "docker.sock"))
    assert place.decided("network.connect", path="@secret-1")


def test_kinds_of_sockets(place: Place) -> None:
    found = place.run(f"""
t("raw", lambda: socket(AF_INET, SOCK_RAW, 1))
t("packet", lambda: socket({PACKET}, SOCK_RAW, 0))
t("alg", lambda: socket({ALG}, SOCK_SEQPACKET, 0))
t("vsock", lambda: socket({VSOCK}, SOCK_STREAM, 0))
t("netlink", lambda: socket({NETLINK}, SOCK_RAW, 0))
""")
    refused = dict.fromkeys(("raw", "packet", "alg", "vsock"), "EPERM")
    assert found == refused | {"netlink": "ok"}
    assert {event["network"]["family"] for event in place.decided("network.socket")} == {*refused}


def test_io_uring(place: Place) -> None:
    found = place.run(
        URING
        + f"""
a, b, c = (socket.socket() for _ in range(3))
ring = Ring()
t("denied", lambda: ring.connect(a.fileno(), {DENIED!r}, {place.servers.port}))
t("held", lambda: ring.connect(b.fileno(), {HELD!r}, {place.servers.port}))
t("free", lambda: ring.connect(c.fileno(), {ALLOWED!r}, {place.servers.port}))
"""
    )
    assert found == {"denied": "EPERM", "held": "EPERM", "free": "ok"}
    assert place.servers.got == ["tcp"]
