"""The control socket under callers that mean harm, or that are many."""

import os
import subprocess
from collections.abc import Iterator

import psutil
import pytest

from tests.host.support.control import ControlClient, ControlError
from tests.host.support.daemon import Daemon, workload
from tests.host.support.labelled import PYTHON, python


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("control")
    with Daemon(directory, {"tested.yaml": workload("tested")}) as started:
        yield started


def test_who_has_connected_must_still_run_to_decide(daemon: Daemon) -> None:
    """The kernel forgets the label of a process that ends; its child has the connection."""
    code = """
import json, os, socket, sys, time
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
answers = control.makefile()
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
for request in ({"op": "approve", "id": "h1"}, {"op": "reload"}, {"op": "watch"},
                {"op": "run", "workload": "tested"}):
    control.sendall(json.dumps(request).encode() + b"\\n")
    answer = json.loads(answers.readline())
    print(request["op"], answer.get("code"), answer.get("error"))
"""
    labelled = python(daemon, code, daemon.socket)
    assert labelled.finish() == 0, labelled.errors
    lines = labelled.output.decode().splitlines()
    assert [line.split()[:2] for line in lines] == [
        [op, "denied"] for op in ("approve", "reload", "watch", "run")
    ]
    assert all("does not run any more" in line for line in lines[2:])


def test_a_connection_that_was_handed_over_decides_nothing(daemon: Daemon) -> None:
    """By a process that has ended since; another one of the session asks."""
    code = """
import json, os, socket, sys
here, there = socket.socketpair()
connector = os.fork()
if not connector:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(sys.argv[1])
        control.sendall(b'{"op": "ping"}\\n')
        control.recv(4096)
        socket.send_fds(there, [b"x"], [control.fileno()])
    os._exit(0)
_, [number], _, _ = socket.recv_fds(here, 1, 1)
os.waitpid(connector, 0)
with socket.socket(fileno=number) as control:
    control.sendall(b'{"op": "approve", "id": "h1"}\\n')
    print(json.loads(control.recv(4096))["error"])
"""
    labelled = python(daemon, code, daemon.socket)
    assert labelled.finish() == 0, labelled.errors
    assert "inside a session" in labelled.output.decode()


@pytest.mark.parametrize(
    "filters",
    [{"classes": 5}, {"classes": [5]}, {"verdict": "deny"}, {"workload": 5}, {"rule": ["x"]}],
)
def test_watch_refuses_filters_that_are_none(daemon: Daemon, filters: dict[str, object]) -> None:
    with ControlClient(daemon.socket) as client:
        with pytest.raises(ControlError) as refused:
            client.request("watch", **filters)
        assert refused.value.code == "bad-request"


def test_connections_of_one_user_leave_room(daemon: Daemon) -> None:
    """More than the engine may have files open: it serves the others as before."""
    engine = daemon.engine()
    assert engine is not None
    _, hard = engine.rlimit(psutil.RLIMIT_NOFILE)
    engine.rlimit(psutil.RLIMIT_NOFILE, (400, hard))
    code = """
import socket, sys
held = []
for each in range(450):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.readline()
"""
    command = [PYTHON, "-S", "-c", code, str(daemon.socket)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == b"connected\n"
        with ControlClient(daemon.socket) as client:
            for _ in range(3):
                assert client.request("ping")["pid"] == engine.pid
        assert engine.num_fds() < 400
        crowd.communicate(b"\n")
    assert daemon.engine() == engine


def test_many_sessions_at_once(daemon: Daemon) -> None:
    """More than wait to be accepted while the engine does something else."""
    engine = daemon.engine()
    assert engine is not None
    command = daemon.run("tested", ["/bin/true"])
    engine.suspend()
    try:
        started = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(80)]
        waiting = [psutil.Process(each.pid) for each in started]
        for each in waiting:
            while len(each.children()) < 2 and each.is_running():
                os.sched_yield()
    finally:
        engine.resume()
    errors = {each.communicate(timeout=30)[1] for each in started}
    assert errors == {b""}
    assert {each.returncode for each in started} == {0}


@pytest.mark.parametrize("op", ["holds", "watch", "approve", "deny", "reload"])
def test_what_tools_are_called_with_is_not_for_everybody(daemon: Daemon, op: str) -> None:
    """A user without privileges, outside every session."""
    code = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as control:
    control.connect(sys.argv[1])
    control.sendall(b'{"op": "%s", "id": "h1"}\\n' % sys.argv[2].encode())
    print(json.loads(control.recv(4096))["code"])
"""
    directory = os.open(daemon.runtime_dir, os.O_PATH)  # the way to it is not for everybody
    path = f"/proc/self/fd/{directory}/{daemon.socket.name}"
    try:
        done = subprocess.run(
            [PYTHON, "-c", code, path, op], capture_output=True, text=True, timeout=60,
            check=True, user=65534, group=65534, extra_groups=[], cwd="/", pass_fds=[directory],
        )  # fmt: skip
    finally:
        os.close(directory)
    assert done.stdout == "denied\n"
