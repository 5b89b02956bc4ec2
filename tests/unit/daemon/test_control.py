"""Answers that come later, and the order of answers on one connection."""

import json
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentd.daemon.control import Control, Peer

if TYPE_CHECKING:
    from agentd.daemon.report import Reporter
    from agentd.kernel.maps import KernelMaps


class NoSessions:
    """The kernel's maps of a host without a session."""

    def label_of(self, _pid: int) -> None:
        return None


class Server:
    """A control socket with operations `now`, `later` and `hostile`, and a client of it."""

    def __init__(self, path: Path) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        kernel, reporter = cast("KernelMaps", NoSessions()), cast("Reporter", None)
        self.control = Control(listener, "agentd", kernel, reporter)
        self.control.handlers |= {"now": self._now, "later": self._later, "hostile": self._hostile}
        self.waiting: list[Peer] = []
        self.client = socket.socket(socket.AF_UNIX)
        self.client.connect(str(path))
        self.client.settimeout(5)
        self._lines = self.client.makefile("rb")
        accepted = self.control.accept()
        assert accepted is not None
        self.fd = accepted

    def _now(self, _peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        return {"number": request["number"]}

    def _hostile(self, _peer: Peer, _request: dict[str, Any]) -> dict[str, Any]:
        deep: list[Any] = []
        for _ in range(500):
            deep = [deep]
        return {"text": "a\ud800", "number": 1 << 70, "deep": deep}

    def _later(self, peer: Peer, _request: dict[str, Any]) -> None:
        self.waiting.append(peer)

    def ask(self, *requests: dict[str, Any]) -> None:
        self.client.sendall(b"".join(json.dumps(each).encode() + b"\n" for each in requests))
        while select.select([self.fd], [], [], 0)[0]:
            self.control.serve(self.fd, readable=True, writable=False)

    def heard(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def silent(self) -> bool:
        return not select.select([self.client], [], [], 0)[0]

    def close(self) -> None:
        self._lines.close()
        self.client.close()
        self.control.close()
        self.control.listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "control.sock")
    yield server
    server.close()


def test_an_answer_that_comes_later_keeps_the_order(server: Server) -> None:
    server.ask({"op": "now", "number": 1}, {"op": "later"}, {"op": "now", "number": 2})
    assert server.heard() == {"ok": True, "number": 1}
    server.ask({"op": "now", "number": 3})
    assert server.silent()
    server.control.answer(server.waiting.pop(), {"done": True})
    assert [server.heard() for _ in range(3)] == [
        {"ok": True, "done": True},
        {"ok": True, "number": 2},
        {"ok": True, "number": 3},
    ]
    server.ask({"op": "later"})
    server.control.answer(server.waiting.pop(), {"done": 2})
    assert server.heard() == {"ok": True, "done": 2}


def test_whoever_does_not_wait_gets_no_answer(server: Server) -> None:
    server.ask({"op": "later"})
    server.client.shutdown(socket.SHUT_RDWR)
    assert not server.control.serve(server.fd, readable=True, writable=False)
    server.control.answer(server.waiting.pop(), {"done": True})
    assert not server.control.has(server.fd)


def test_one_request_has_its_turn_at_once(server: Server) -> None:
    requests = b"".join(b'{"op": "now", "number": %d}\n' % number for number in range(3))
    server.client.sendall(requests)
    for number in range(3):
        assert server.control.serve(server.fd, readable=True, writable=False)
        assert json.loads(server.client.recv(65536)) == {"ok": True, "number": number}


def test_a_request_in_parts(server: Server) -> None:
    for part in (b'{"op": "now", ', b'"number": 1}\n{"op"'):
        server.client.sendall(part)
        assert server.control.serve(server.fd, readable=True, writable=False)
    assert server.heard() == {"ok": True, "number": 1}
    server.client.sendall(b': "now", "number": 2}\n')
    assert server.control.serve(server.fd, readable=True, writable=False)
    assert server.heard() == {"ok": True, "number": 2}


def test_a_request_without_end_is_not_kept(server: Server) -> None:
    server.client.sendall(b"x" * (1 << 16))
    while server.control.serve(server.fd, readable=True, writable=False):
        server.client.sendall(b"x" * (1 << 16))
    assert not server.control.has(server.fd)


def test_what_json_cannot_carry_ends_nothing(server: Server) -> None:
    """A held call is listed in the agent's own words."""
    server.ask({"op": "hostile"}, {"op": "now", "number": 1})
    answer = server.heard()
    assert (answer["ok"], answer["text"], answer["number"]) == (True, "a?", str(1 << 70))
    assert server.heard() == {"ok": True, "number": 1}
