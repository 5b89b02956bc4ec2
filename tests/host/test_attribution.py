"""Labels: at the first instruction, through every kind of fork and exec, and never by pid alone."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.host.conftest import StartDaemon
from tests.host.support.control import ControlError, Message
from tests.host.support.daemon import Daemon, every_write_told, workload
from tests.host.support.labelled import PYTHON, Labelled, python, shell
from tests.host.support.processes import wait_until

LIBC = "import ctypes, os, signal, subprocess, sys, threading, time\nlibc = ctypes.CDLL(None)\n"
WRITE = "os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600))\n"
"""An act that is told: whoever does it shows whose session it is in."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("attribution")
    rules = {
        "tested.yaml": workload("tested"),
        "told.yaml": workload("told"),
        "rules.yaml": every_write_told("told"),
    }
    with Daemon(directory, rules) as started:
        yield started


def wrote(labelled: Labelled, file: Path) -> Message:
    """The event of the act, which must be the session's."""
    found = [e for e in labelled.events("file.open") if e["file"]["path"] == str(file)]
    assert found, labelled.events()
    return found[0]


def test_label_before_the_first_instruction(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "effect"
    labelled = Labelled(daemon, ["/bin/touch", file])
    assert labelled.finish() == 0
    classes = [event["class"] for event in labelled.events()]
    assert classes[:2] == ["session.start", "process.exec"]
    assert classes[-2:] == ["process.exit", "session.end"]
    start, execed = labelled.events()[:2]
    assert execed["exec"]["exe"] == os.path.realpath("/bin/touch")
    assert execed["process"]["pid"] == start["process"]["pid"]
    assert start["process"]["ancestry"][0]["pid"] in {labelled.process.pid, os.getpid()}
    assert wrote(labelled, file)["workload"] == "tested"


FORKS = {
    "fork": "if os.fork() == 0:\n  ACT\n  os._exit(0)\nos.wait()",
    "vfork": "subprocess.run([sys.executable, '-S', '-E', '-c', CODE, sys.argv[1]])",
    "thread": "threading.Thread(target=lambda: exec(CODE)).start()",
    "fork-by-thread": (
        "def body():\n  if os.fork() == 0:\n    ACT\n    os._exit(0)\n  os.wait()\n"
        "threading.Thread(target=body).start()"
    ),
    "exec-chain": (
        "inner = [sys.executable, '-S', '-E', '-c', CODE, sys.argv[1]]\n"
        "os.execv('/bin/sh', ['sh', '-c', 'exec env nice \"$@\"', 'x', *inner])"
    ),
    "daemon": (
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork():\n    os._exit(0)\n"
        "  while os.getppid() == os.getsid(0): time.sleep(0.001)\n  ACT\n  os._exit(0)\nos.wait()"
    ),
    "clone-parent": (
        "pid = libc.syscall(56, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)\n"
        "if pid == 0:\n  ACT\n  os._exit(0)\ntime.sleep(0.3)"
    ),
    "clone3": (
        "args = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD)\n"
        "pid = libc.syscall(435, args, 88)\n"
        "if pid == 0:\n  ACT\n  os._exit(0)\nos.wait()"
    ),
    "pid-namespace": (
        "libc.unshare(0x20000000)\nif os.fork() == 0:\n  assert os.getpid() == 1\n"
        "  if os.fork() == 0:\n    ACT\n    os._exit(0)\n  os.wait()\n  os._exit(0)\nos.wait()"
    ),
    "exec-by-thread": (
        "line = ['/bin/touch', sys.argv[1]]\n"
        "threading.Thread(target=os.execv, args=('/bin/touch', line)).start()\ntime.sleep(10)"
    ),
    "uid-change": "os.setgid(65534); os.setuid(65534)\nopen(sys.argv[1], 'w')",
}


@pytest.mark.parametrize("how", FORKS)
def test_label_is_inherited(daemon: Daemon, tmp_path: Path, how: str) -> None:
    tmp_path.chmod(0o777)
    for above in list(tmp_path.parents)[:2]:
        above.chmod(0o755)
    file = tmp_path / "effect"
    code = LIBC + f"CODE = {'import os, sys;' + WRITE!r}\n"
    code += FORKS[how].replace("ACT", WRITE.strip())
    labelled = python(daemon, code, file)
    labelled.finish()
    assert file.exists(), labelled.errors
    event = wrote(labelled, file)
    assert event["workload"] == "tested"
    if how not in {"thread", "exec-chain", "uid-change", "exec-by-thread"}:
        assert event["process"]["pid"] != labelled.events("session.start")[0]["process"]["pid"]
    if how == "uid-change":
        assert event["process"]["uid"] in {0, 65534}


def test_two_thousand_quick_forks(daemon: Daemon, tmp_path: Path) -> None:
    """Each child acts on a file of its own: all of it is told, as one session's."""
    code = """
import os, sys
os.chdir(sys.argv[1])
for number in range(2000):
    if os.fork() == 0:
        os.close(os.open(str(number), os.O_WRONLY | os.O_CREAT))
        os._exit(0)
    if number % 50 == 49:
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
"""
    labelled = python(daemon, code, tmp_path, workload="told")
    assert labelled.finish(timeout=60) == 0
    opened = {Path(e["file"]["path"]).name for e in labelled.events("file.open")}
    assert opened == {str(number) for number in range(2000)}
    (end,) = labelled.events("session.end")
    assert end["totals"]["process.fork"] == 2000
    assert end["totals"]["process.exit"] == 2001
    assert len(labelled.events("process.fork")) < 20
    assert not any(found["sessions"] for found in daemon.request("ps")["workloads"])


def test_ps_shows_every_process_of_the_tree(daemon: Daemon) -> None:
    """Also those whose fork was folded into a count."""
    code = """
import os, sys, time
for number in range(150):
    if os.fork() == 0:
        if number == 149 and os.fork() == 0:
            os.execv("/bin/sleep", ["sleep", "60"])
        time.sleep(60)
print("ready", flush=True)
sys.stdin.readline()
os.killpg(0, 9)
"""
    labelled = python(daemon, "import os\nos.setpgid(0, 0)\n" + code)
    assert labelled.process.stdout is not None
    assert labelled.process.stdout.readline() == b"ready\n"

    def tree() -> list[Message]:
        sessions = daemon.request("ps")["workloads"][0]["sessions"]
        return next(
            s["processes"] for s in sessions if (s["task"] or {}).get("objective") == labelled.task
        )

    wait_until(lambda: any("sleep" in p["exe"] for p in tree()), 5.0, "the grandchild is there")
    rows = tree()
    start = labelled.wait_for(lambda event: event["class"] == "session.start")
    root = start["process"]["pid"]
    assert len(rows) == 152
    assert rows[0]["pid"] == root
    assert [row["depth"] for row in rows].count(1) == 150
    (grandchild,) = [row for row in rows if row["depth"] == 2]
    assert grandchild["argv"] == ["sleep", "60"]
    alive = {p.pid for p in psutil.Process(root).children(recursive=True)}
    assert {row["pid"] for row in rows} == {root, *alive}
    labelled.finish(b"\n")


def test_a_reused_pid_has_no_label(daemon: Daemon, tmp_path: Path) -> None:
    """An unlabelled process that gets the number of a labelled one that has ended."""
    labelled = shell(daemon, "true")
    labelled.finish()
    pid = labelled.events("session.start")[0]["process"]["pid"]
    file = tmp_path / "effect"
    code = f"""
import ctypes, os, sys
ids = (ctypes.c_int32 * 1)({pid})
args = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(ids), 1, 0)
child = ctypes.CDLL(None, use_errno=True).syscall(435, args, 88)
if child == 0:
    os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT))
    os._exit(0)
assert child == {pid}, ctypes.get_errno()
os.wait()
"""
    witness = shell(daemon, "read line")  # a session is there, so opens are looked at
    subprocess.run([PYTHON, "-c", code, str(file)], check=True)
    witness.finish(b"\n")
    assert file.exists()
    assert not [e for e in daemon.events("file.open") if e["file"]["path"] == str(file)]


def test_a_session_cannot_be_left(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "effect"
    inner = " ".join(daemon.run("tested", ["/bin/touch", str(file)]))
    labelled = shell(daemon, f"{inner}; echo $?; (setsid {inner} & wait)")
    labelled.finish()
    assert labelled.output.startswith(b"77\n")
    assert b"cannot leave" in labelled.errors
    assert not file.exists()
    code = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as control:
    control.connect(sys.argv[1])
    control.sendall(json.dumps({"op": "run", "workload": "tested"}).encode() + b"\\n")
    print(json.loads(control.makefile().readline())["code"])
"""
    attempt = python(daemon, code, daemon.socket)
    attempt.finish()
    assert attempt.output == b"denied\n"


def test_unknown_workload(daemon: Daemon) -> None:
    with pytest.raises(ControlError) as refused:
        daemon.request("run", workload="nobody")
    assert refused.value.code == "not-found"


def test_session_lasts_as_long_as_its_last_process(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "late"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    labelled = shell(daemon, f"setsid sh -c 'read line < {fifo}; : > {file}' >&- 2>&- <&- &")
    assert labelled.process.wait(10) == 0
    assert not labelled.events("session.end")
    fifo.write_text("go\n")
    labelled.finish()
    assert wrote(labelled, file)
    assert labelled.events()[-1]["class"] == "session.end"


def test_engine_killed(daemon: Daemon, tmp_path: Path) -> None:
    """kill -9 of the engine: label, session, task and tree are the same afterwards."""
    file = tmp_path / "effect"
    labelled = shell(daemon, f"sleep 60 & read line; : > {file}; kill %1")
    labelled.wait_for(lambda e: e["class"] == "process.exec" and "sleep" in e["exec"]["exe"])
    engine = daemon.request("ping")["pid"]
    assert engine in {process.pid for process in daemon.processes()}
    before = next(
        s
        for s in daemon.request("ps")["workloads"][0]["sessions"]
        if (s["task"] or {}).get("objective") == labelled.task
    )
    os.kill(engine, signal.SIGKILL)

    def restarted() -> bool:
        try:
            return bool(daemon.request("ping")["pid"] != engine)
        except (OSError, ConnectionError):
            return False

    wait_until(restarted, 10.0, "a new engine")
    after = next(
        s
        for s in daemon.request("ps")["workloads"][0]["sessions"]
        if (s["task"] or {}).get("objective") == labelled.task
    )
    assert after == before
    labelled.finish(b"\n")
    assert wrote(labelled, file)
    sequence = [event["seq"] for event in daemon.events()]
    assert sequence == list(range(1, len(sequence) + 1))


def test_daemon_started_again(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """What still runs goes on in its session, with what it has forked while there was no daemon."""
    daemon = start_daemon(rules={"told.yaml": workload("told"), "r.yaml": every_write_told("told")})
    file, fifo = tmp_path / "effect", tmp_path / "fifo"
    os.mkfifo(fifo)
    stays = shell(daemon, f"read a; (read b < {fifo}; : > {file}) & echo forked; wait", "told")
    ends = shell(daemon, "read a", "told")
    for each in (stays, ends):
        each.wait_for(lambda event: event["class"] == "process.exec")
    daemon.stop()
    ends.process.communicate(b"\n")
    assert stays.process.stdin is not None
    assert stays.process.stdout is not None
    stays.process.stdin.write(b"\n")
    stays.process.stdin.flush()
    assert stays.process.stdout.readline() == b"forked\n"
    daemon.start()
    (session,) = daemon.request("ps")["workloads"][0]["sessions"]
    assert session["id"] == stays.events("session.start")[0]["session"]
    assert [process["depth"] for process in session["processes"]] == [0, 1]
    ends.wait_for(lambda event: event["class"] == "session.end")
    fifo.write_text("\n")
    stays.finish()
    assert wrote(stays, file)["session"] == session["id"]
