"""A control server for the command line: answers from a table, records what was asked."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentd.cli.main import cli

Answer = dict[str, Any] | list[dict[str, Any]] | bytes


class ControlServer:
    """Serves one request a connection, as the contract of the control socket says.

    `answers[op]` is one object, a list of objects (a stream, then end), or raw bytes; a list of
    answers in `script` is used up first, one a connection (None: close without an answer).
    """

    def __init__(self, path: Path, answers: "dict[str, Answer] | None" = None) -> None:
        self.path = path
        self.answers: dict[str, Answer] = answers or {}
        self.script: list[Answer | None] = []
        self.requests: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    continue
                request = json.loads(line)
                self.requests.append(request)
                answer: Answer | None
                if self.script:
                    answer = self.script.pop(0)
                else:
                    unknown = {"ok": False, "error": "unknown operation", "code": "bad-request"}
                    answer = self.answers.get(request["op"], unknown)
                if answer is None:
                    continue
                try:
                    connection.sendall(_bytes(answer))
                except OSError:
                    continue

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def _bytes(answer: Answer) -> bytes:
    if isinstance(answer, bytes):
        return answer
    objects = answer if isinstance(answer, list) else [answer]
    return b"".join(json.dumps(one).encode() + b"\n" for one in objects)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    """A control server on a socket of its own."""
    running = ControlServer(tmp_path / "control.sock")
    yield running
    running.close()


@pytest.fixture
def agentd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `agentd --socket SOCKET ARGUMENTS...` in this process."""
    monkeypatch.delenv("AGENTD_CONFIG", raising=False)
    monkeypatch.delenv("AGENTD_SOCKET", raising=False)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(
            cli, ["--socket", str(tmp_path / "control.sock"), *arguments], prog_name="agentd"
        )

    return invoke
