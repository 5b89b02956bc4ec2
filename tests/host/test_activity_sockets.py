"""What is told of sockets: connects, binds, accepts and sends, of every family."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.support.control import Message
from tests.host.support.daemon import Daemon, workload
from tests.host.support.labelled import Labelled, python, shell

SOCKET = "import os, socket, sys, threading\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("sockets")
    with Daemon(directory, {"workloads.yaml": workload("tested")}) as started:
        yield started


def network(labelled: Labelled, event_class: str) -> list[Message]:
    return [event["network"] for event in labelled.events(event_class)]


PAIR = """
family = getattr(socket, sys.argv[1])
host, target = sys.argv[2], sys.argv[3]
listener = socket.socket(family)
listener.bind((host, 0))
listener.listen()
port = listener.getsockname()[1]
print(port)
client = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET)
client.connect((target, port))
server, _ = listener.accept()
"""


@pytest.mark.parametrize(
    ("family", "host", "target", "told_family", "told"),
    [
        ("AF_INET", "127.0.0.1", "127.0.0.1", "ipv4", "127.0.0.1"),
        ("AF_INET6", "::1", "::1", "ipv6", "::1"),
        ("AF_INET6", "::", "::ffff:127.0.0.1", "ipv4", "127.0.0.1"),
    ],
)
def test_tcp(  # noqa: PLR0917 (a row of the table)
    daemon: Daemon, family: str, host: str, target: str, told_family: str, told: str
) -> None:
    labelled = python(daemon, SOCKET + PAIR, family, host, target)
    assert labelled.finish() == 0, labelled.errors
    port = int(labelled.output)
    (bound,) = network(labelled, "network.bind")
    assert (bound["address"], bound["port"]) == (host, port)
    (connected,) = network(labelled, "network.connect")
    assert connected == {
        "family": told_family,
        "protocol": "tcp",
        "address": told,
        "port": port,
        "direction": "outbound",
    }
    (accepted,) = network(labelled, "network.accept")
    assert accepted["family"] == told_family
    assert accepted["address"] == told
    assert accepted["direction"] == "inbound"


def test_connect_that_does_not_wait(daemon: Daemon) -> None:
    code = """
listener = socket.create_server(("127.0.0.1", 0))
end = socket.socket()
end.setblocking(False)
end.connect_ex(listener.getsockname())
"""
    labelled = python(daemon, SOCKET + code)
    assert labelled.finish() == 0
    (connected,) = network(labelled, "network.connect")
    assert "error" not in connected


@pytest.mark.parametrize("how", ["sendto", "sendmsg", "connect"])
@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
def test_udp(daemon: Daemon, how: str, target: str) -> None:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((target, 0))
        port = receiver.getsockname()[1]
        code = f"""
end = socket.socket(socket.{family.name}, socket.SOCK_DGRAM)
address = ({target!r}, {port})
for each in range(3):
    if {how!r} == "connect":
        end.connect(address)
    elif {how!r} == "sendto":
        end.sendto(b"x", address)
    else:
        end.sendmsg([b"x"], [], 0, address)
"""
        labelled = python(daemon, SOCKET + code)
        assert labelled.finish() == 0, labelled.errors
    events = labelled.events("network.connect")
    assert [event.get("count", 1) for event in events] == [1, 2]
    assert events[0]["network"]["protocol"] == "udp"
    assert events[0]["network"]["address"] == target
    assert events[0]["network"]["port"] == port


def test_failures_carry_the_error(daemon: Daemon, tmp_path: Path) -> None:
    code = """
free = socket.create_server(("127.0.0.1", 0))
address = free.getsockname()
free.close()
socket.socket().connect_ex(address)
socket.socket(socket.AF_UNIX).connect_ex(sys.argv[1])
try:
    socket.socket().bind(("192.0.2.1", 0))
except OSError:
    pass
"""
    labelled = python(daemon, SOCKET + code, tmp_path / "nothing")
    assert labelled.finish() == 0
    refused, missing = network(labelled, "network.connect")
    assert refused["error"] == "Connection refused"
    assert refused["address"] == "127.0.0.1"
    assert refused["port"] > 0
    assert missing["error"] == "No such file or directory"
    assert missing["path"] == str(tmp_path / "nothing")
    (bound,) = [n for n in network(labelled, "network.bind") if "error" in n]
    assert bound["error"] == "Cannot assign requested address"


def test_unix_path(daemon: Daemon, tmp_path: Path) -> None:
    code = """
os.chdir(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind("s")
listener.listen()
client = socket.socket(socket.AF_UNIX)
client.connect("./s")
listener.accept()
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind("d")
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "d")
"""
    labelled = python(daemon, SOCKET + code, tmp_path)
    assert labelled.finish() == 0, labelled.errors
    stream, datagram = f"{tmp_path}/s", f"{tmp_path}/d"
    assert [n["path"] for n in network(labelled, "network.bind")] == [stream, datagram]
    connects = network(labelled, "network.connect")
    assert connects[0] == {
        "family": "unix",
        "protocol": "unix",
        "path": stream,
        "given": "./s",
        "direction": "outbound",
    }
    assert connects[1]["path"] == datagram
    assert connects[1]["given"] == "d"
    (accepted,) = network(labelled, "network.accept")
    assert accepted["path"] == stream


def test_one_relative_name_in_many_directories(daemon: Daemon, tmp_path: Path) -> None:
    code = """
for number in range(7):
    os.makedirs(f"{sys.argv[1]}/{number}")
    os.chdir(f"{sys.argv[1]}/{number}")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("s")
    listener.listen()
    for _ in range(2):
        socket.socket(socket.AF_UNIX).connect("s")
"""
    labelled = python(daemon, SOCKET + code, tmp_path)
    assert labelled.finish() == 0, labelled.errors
    places = [f"{tmp_path}/{number}/s" for number in range(7)]
    assert [n["path"] for n in network(labelled, "network.bind")] == places
    connects = [n["path"] for n in network(labelled, "network.connect")]
    assert connects == [place for place in places for _ in range(2)]


def test_unix_abstract_and_longest_path(daemon: Daemon, tmp_path: Path) -> None:
    name = "x" * (107 - len(str(tmp_path)) - 1)
    code = """
for address in ("\\0agentd test", sys.argv[1]):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    socket.socket(socket.AF_UNIX).connect(address)
"""
    labelled = python(daemon, SOCKET + code, tmp_path / name)
    assert labelled.finish() == 0, labelled.errors
    paths = [n["path"] for n in network(labelled, "network.connect")]
    assert paths == ["@agentd test", str(tmp_path / name)]


def test_many_connects_are_counted(daemon: Daemon) -> None:
    code = """
listener = socket.create_server(("127.0.0.1", 0))
for each in range(1000):
    with socket.socket() as end:
        end.connect(listener.getsockname())
        listener.accept()[0].close()
"""
    labelled = python(daemon, SOCKET + code)
    assert labelled.finish() == 0, labelled.errors
    for event_class in ("network.connect", "network.accept"):
        told = [event.get("count", 1) for event in labelled.events(event_class)]
        assert told == [2**n for n in range(10)]
    assert labelled.events("session.end")[0]["totals"]["network"] == 2001


def test_a_shell_works_as_ever(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(
        ".PHONY: all\nall: a.o b.o\na.o b.o:\n\t@touch $@; echo made $@\n"
    )
    labelled = shell(daemon, f"ls {tmp_path}; make -s -j4 -C {tmp_path}; echo $?")
    assert labelled.finish() == 0
    lines = labelled.output.decode().splitlines()
    assert lines[0] == "Makefile"
    assert sorted(lines[1:3]) == ["made a.o", "made b.o"]
    assert lines[3] == "0"
