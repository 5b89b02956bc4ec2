"""Rules that change while sessions run, rules that are wrong, and rules that act too late."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.host.support.control import Message
from tests.host.support.daemon import Daemon, workload
from tests.host.support.labelled import PYTHON, Labelled, python
from tests.host.support.processes import wait_until

StartDaemon = Callable[..., Daemon]

READER = """
import sys
for line in sys.stdin:
    open(line.strip()).close()
    print("read", flush=True)
"""
CONNECTOR = """
import errno, socket, sys
for line in sys.stdin:
    with socket.socket() as end:
        code = end.connect_ex(("127.66.0.1", int(line)))
    print(errno.errorcode.get(code, "connected"), flush=True)
"""


def deny(path: Path) -> Message:
    return {
        "rules": [
            {"id": "no-read", "on": "file.open", "match": {"path": str(path)}, "action": "deny"}
        ]
    }


def ask(labelled: Labelled, line: object) -> bytes:
    """One line to the program, and the line that it answers; b"" once it is dead."""
    process = labelled.process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n".encode())
    process.stdin.flush()
    return process.stdout.readline()


def loaded(daemon: Daemon) -> int:
    return len(daemon.events("policy.loaded"))


def test_changed_file_acts_on_a_session_that_runs(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """Also for a file that the session has opened before, and whose inode was not watched."""
    daemon = start_daemon(rules={"w.yaml": workload("tested")})
    secret = tmp_path / "secret"
    secret.write_text("x")
    labelled = python(daemon, READER)
    assert ask(labelled, secret) == b"read\n"
    daemon.write_rules("r.yaml", deny(secret))
    wait_until(lambda: loaded(daemon) == 2, 2.0, "loaded within two seconds")
    assert ask(labelled, secret) == b""
    assert labelled.finish() == -9
    assert labelled.decisions("file.open")[0]["decision"]["before_effect"] is True


def test_changed_network_rule(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(rules={"w.yaml": workload("tested")})
    with socket.create_server(("127.66.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        labelled = python(daemon, CONNECTOR)
        assert ask(labelled, port) == b"connected\n"
        rule = {
            "id": "no-connect",
            "on": "network.connect",
            "match": {"cidr": "127.66.0.0/16"},
            "action": "deny",
        }
        daemon.write_rules("r.yaml", {"rules": [rule]})
        daemon.request("reload")
        assert ask(labelled, port) == b"EPERM\n"
        (daemon.rules_dir / "r.yaml").unlink()
        daemon.request("reload")
        assert ask(labelled, port) == b"connected\n"
        assert labelled.finish() == 0


def test_posture_changes(start_daemon: StartDaemon, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    daemon = start_daemon(
        rules={"w.yaml": workload("tested", posture="observe"), "r.yaml": deny(secret)}
    )
    labelled = python(daemon, READER)
    assert ask(labelled, secret) == b"read\n"
    daemon.write_rules("w.yaml", workload("tested", posture="enforce"))
    daemon.request("reload")
    assert ask(labelled, secret) == b""
    labelled.finish()
    first, last = labelled.decisions("file.open")
    assert first["decision"]["would"] is True
    assert "would" not in last["decision"]


def test_bad_file_leaves_the_last_good_set(start_daemon: StartDaemon, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    daemon = start_daemon(rules={"w.yaml": workload("tested"), "r.yaml": deny(secret)})
    bad = daemon.rules_dir / "r.yaml"
    bad.write_text("rules:\n  - id: no-read\n    on: file.opened\n    action: deny\n")
    rejected = daemon.wait_for(lambda event: event["class"] == "policy.rejected", 2.0)
    (problem,) = [text for text in rejected["policy"]["problems"] if "opened" in text]
    assert problem.startswith(f"{bad}:3: ")
    assert f"{bad}:3: " in daemon.log.read_text()
    answer = daemon.request("reload")
    assert answer["problems"]
    assert answer["rules"] == 1
    labelled = python(daemon, READER)
    assert ask(labelled, secret) == b""
    labelled.finish()
    daemon.write_rules("r.yaml", deny(secret))
    wait_until(lambda: loaded(daemon) == 2, 2.0, "mended")


def test_a_pipe_among_the_files_is_rejected_at_once(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(rules={"w.yaml": workload("tested")})
    pipe = daemon.rules_dir / "x.yaml"
    os.mkfifo(pipe)
    rejected = daemon.wait_for(lambda event: event["class"] == "policy.rejected", 3.0)
    assert rejected["policy"]["problems"][0].startswith(f"{pipe}: not a regular file; remove it")
    answer = daemon.request("reload")
    assert answer["problems"]
    assert answer["workloads"] == 1
    pipe.unlink()
    wait_until(lambda: loaded(daemon) == 2, 2.0, "mended")


class OnAFullDisk(Daemon):
    """A daemon whose log takes no byte."""

    def begin(self) -> None:
        self.log.touch()
        with Path("/dev/full").open("wb") as full:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=full, stderr=full
            )


def test_a_log_on_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    with OnAFullDisk(tmp_path, {"w.yaml": workload("tested")}) as daemon:
        engine = daemon.engine()
        (daemon.rules_dir / "bad.yaml").write_text("rules: 1\n")
        assert daemon.request("reload")["problems"]
        assert daemon.engine() == engine


def test_reload_by_command_and_by_signal(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(rules={"w.yaml": workload("tested")})
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: loaded(daemon) == 2, 2.0, "loaded after SIGHUP")
    assert daemon.request("reload")["problems"] == []
    wait_until(lambda: loaded(daemon) == 3, 2.0, "loaded on request")


def test_an_agent_cannot_reload(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(rules={"w.yaml": workload("tested")})
    code = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as control:
    control.connect(sys.argv[1])
    control.sendall(b'{"op": "reload"}\\n')
    print(json.loads(control.makefile().readline())["code"])
"""
    labelled = python(daemon, code, daemon.socket)
    labelled.finish()
    assert labelled.output == b"denied\n"


def test_rules_that_act_late_say_so(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """At load, on standard error, and in the event of each use."""
    victim = tmp_path / "victim"
    rule = {
        "id": "no-delete",
        "on": "file.delete",
        "match": {"path": f"{tmp_path}/**"},
        "action": "deny",
    }
    daemon = start_daemon(rules={"w.yaml": workload("tested"), "r.yaml": {"rules": [rule]}})
    (note,) = daemon.events("policy.loaded")[0]["policy"]["notes"]
    assert note["rule"] == "no-delete"
    assert "agentd: rule no-delete: " in daemon.log.read_text()
    code = """
import os, sys
os.chdir("/usr")
for number in range(400):
    try:
        os.unlink("nonexistent-%d" % number)
    except OSError:
        pass
os.unlink(sys.argv[1])
sys.stdin.readline()
"""
    victim.write_text("x")
    labelled = Labelled(daemon, [PYTHON, "-S", "-c", code, victim])
    assert labelled.process.wait(10) == -9
    labelled.finish()
    (event,) = labelled.decisions("file.delete")
    assert event["decision"]["before_effect"] is False
    assert event["decision"]["outcome"] == "killed"
    assert not victim.exists()


def test_every_delete_is_judged(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """However many the process has done before in the same directory."""
    rule = {
        "id": "audit-delete",
        "on": "file.delete",
        "match": {"path": f"{tmp_path}/n777"},
        "action": "audit",
    }
    daemon = start_daemon(rules={"w.yaml": workload("tested"), "r.yaml": {"rules": [rule]}})
    code = """
import os, sys
os.chdir(sys.argv[1])
for number in range(1000):
    os.close(os.open("n%d" % number, os.O_WRONLY | os.O_CREAT))
for number in range(1000):
    os.unlink("n%d" % number)
"""
    labelled = python(daemon, code, tmp_path)
    assert labelled.finish() == 0
    assert [e["file"]["path"] for e in labelled.decisions()] == [f"{tmp_path}/n777"]
    assert len(labelled.events("file.delete")) < 80
