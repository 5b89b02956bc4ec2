import json
import socket
import threading
import time
from pathlib import Path

import pytest

from agentd.cli import client
from agentd.cli.client import (
    ControlClient,
    ControlError,
    DaemonUnavailableError,
    RequestRefusedError,
)
from agentd.cli.exits import Exit
from tests.unit.cli.conftest import ControlServer


def test_request_sends_what_is_given_and_returns_the_answer(server: ControlServer) -> None:
    server.answers["approve"] = {"ok": True, "id": "h-1", "verdict": "allow"}
    answer = ControlClient(str(server.path)).request("approve", id="h-1", note=None)
    assert answer == {"ok": True, "id": "h-1", "verdict": "allow"}
    assert server.requests == [{"op": "approve", "id": "h-1"}]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("denied", Exit.DENIED), ("not-found", Exit.FAILED), ("bad-request", Exit.USAGE), (7, 1)],
)
def test_refusals_are_typed(server: ControlServer, code: object, exit_code: Exit) -> None:
    server.answers["deny"] = {"ok": False, "error": "no", "code": code}
    with pytest.raises(RequestRefusedError, match=r"^no$") as caught:
        ControlClient(str(server.path)).request("deny", id="x")
    assert caught.value.exit_code == exit_code


def test_waits_for_a_restarting_engine(server: ControlServer) -> None:
    server.script = [None, None, {"ok": True, "pid": 1}]
    assert ControlClient(str(server.path)).request("ping")["pid"] == 1
    assert len(server.requests) == 3


def test_never_repeats_what_may_have_taken_effect(server: ControlServer) -> None:
    server.script = [None, {"ok": True}]
    with pytest.raises(DaemonUnavailableError, match="may or may not"):
        ControlClient(str(server.path)).request("approve", repeatable=False, id="x")
    assert len(server.requests) == 1


def test_waits_for_a_socket_that_appears(tmp_path: Path) -> None:
    path = tmp_path / "late.sock"
    servers: list[ControlServer] = []

    def start() -> None:
        time.sleep(0.2)
        servers.append(ControlServer(path, {"ping": {"ok": True}}))

    thread = threading.Thread(target=start)
    thread.start()
    assert ControlClient(str(path)).request("ping") == {"ok": True}
    thread.join()
    servers[0].close()


def test_gives_up_at_once_where_no_daemon_ever_was(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(DaemonUnavailableError, match=r"No such file.*start it with"):
        ControlClient(str(tmp_path / "absent" / "control.sock")).request("ping")
    assert time.monotonic() - begun < 1


def test_gives_up_when_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
        with pytest.raises(DaemonUnavailableError, match="Connection refused"):
            ControlClient(str(path), retry_s=0.1).request("ping")


def test_a_path_too_long_for_a_socket_is_an_expected_error() -> None:
    with pytest.raises(DaemonUnavailableError, match="cannot be used"):
        ControlClient("/" + "x" * 300).request("ping")


def test_silence_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(DaemonUnavailableError, match=r"within 0\.1 s"):
            ControlClient(str(path), timeout_s=0.1).request("ping")


@pytest.mark.parametrize("raw", [b"hello\n", b"[1]\n", b"\xff\n"])
def test_other_protocols_are_recognised(server: ControlServer, raw: bytes) -> None:
    server.answers["ping"] = raw
    with pytest.raises(ControlError, match="agentd's socket"):
        ControlClient(str(server.path)).request("ping")


def test_answers_are_bounded(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 100)
    server.answers["ps"] = {"ok": True, "workloads": ["x" * 200]}
    with pytest.raises(ControlError, match="longer than 100 bytes"):
        ControlClient(str(server.path)).request("ps")


def test_stream_yields_until_the_end(server: ControlServer) -> None:
    server.answers["watch"] = [{"ok": True}, {"seq": 1}, {"seq": 2}]
    events = ControlClient(str(server.path)).stream("watch", classes=["mcp.*"])
    assert [next(events), next(events)] == [{"seq": 1}, {"seq": 2}]
    with pytest.raises(DaemonUnavailableError, match="closed"):
        next(events)
    assert json.dumps(server.requests[0]) == '{"op": "watch", "classes": ["mcp.*"]}'
