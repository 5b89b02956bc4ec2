"""`agentd run` against a control server of this test's own: a command must notice no difference."""

import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.support.run_wrapper import (
    REPOSITORY,
    START,
    WAIT_S,
    ControlServer,
    counter,
    environment,
    state,
    until,
    wrapped,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    control = ControlServer(tmp_path / "control.sock")
    yield control
    control.close()


@pytest.fixture
def start(server: ControlServer) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    started: list[subprocess.Popen[bytes]] = []

    def popen(*argv: str, **options: Any) -> "subprocess.Popen[bytes]":
        options = {"stdout": subprocess.PIPE, "env": environment(), **options}
        process = subprocess.Popen(wrapped(server.path, *argv), **options)
        started.append(process)
        return process

    yield popen
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT_S)
        if process.stdout is not None:
            process.stdout.close()


def outcome(
    server: ControlServer, *argv: str, **options: Any
) -> "subprocess.CompletedProcess[bytes]":
    options = {"capture_output": True, "env": environment(), "timeout": WAIT_S, **options}
    return subprocess.run(wrapped(server.path, *argv), check=False, **options)


def line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def ready(process: "subprocess.Popen[bytes]") -> int:
    """The pid of the counting command, once it counts."""
    word, pid = line(process).split()
    assert word == "ready"
    return int(pid)


def more(process: "subprocess.Popen[bytes]", seconds: float = 0.4) -> str:
    """What else the command prints within the time."""
    assert process.stdout is not None
    read, _, _ = select.select([process.stdout], [], [], seconds)
    return os.read(process.stdout.fileno(), 4096).decode() if read else ""


def test_the_command_is_the_one_that_asks(
    server: ControlServer, start: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    process = start("sh", "-c", "echo $$; echo $PPID")
    child, parent = int(line(process)), int(line(process))
    assert process.wait(WAIT_S) == 0
    assert parent == process.pid
    assert server.requests == [
        (child, {"op": "run", "workload": "tested", "task": {"objective": "a test"}})
    ]


@pytest.mark.parametrize("code", [0, 1, 7, 69, 255])
def test_exit_codes(server: ControlServer, code: int) -> None:
    assert outcome(server, "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV", "SIGABRT", "SIGINT", "SIGPIPE"])
def test_death_by_signal(server: ControlServer, name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    result = outcome(server, "sh", "-c", f"kill -{name[3:]} $$", cwd=tmp_path)
    assert result.returncode == -number
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("core")]


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["no-such-command-anywhere"], 127, "command not found"),
        (["/no/such/file"], 127, "No such file or directory"),
        (["/etc/passwd"], 126, "Permission denied"),
        (["/etc"], 126, "Is a directory"),
        ([""], 127, "command not found"),
    ],
)
def test_commands_that_cannot_run(
    server: ControlServer, argv: list[str], code: int, says: str
) -> None:
    result = outcome(server, *argv)
    assert result.returncode == code
    assert says in result.stderr.decode()


def test_a_script_without_interpreter_line_runs_in_the_shell(
    server: ControlServer, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("echo one $1\n")
    script.chmod(0o755)
    assert outcome(server, str(script), "two").stdout == b"one two\n"
    script.write_bytes(b"\0\1\2\3")
    assert outcome(server, str(script)).returncode == 126
    script.write_text("#!/no/such/interpreter\n")
    assert outcome(server, str(script)).returncode == 126


def test_without_daemon_the_command_is_not_started(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    result = subprocess.run(
        wrapped(tmp_path / "nobody.sock", "touch", str(witness)),
        check=False,
        capture_output=True,
        env=environment(),
        timeout=WAIT_S,
    )
    assert result.returncode == 69
    assert "cannot be reached" in result.stderr.decode()
    assert not witness.exists()


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (b'{"ok": false, "error": "no workload x", "code": "not-found"}\n', 77, "no workload x"),
        (b'{"ok": 1}\n', 77, "refused"),
        (b"", 69, "without an answer"),
        (b"garbage\n", 69, "cannot be reached"),
        (b"[]\n", 69, "cannot be reached"),
    ],
)
def test_without_consent_the_command_is_not_started(
    tmp_path: Path, answer: bytes, code: int, says: str
) -> None:
    server = ControlServer(tmp_path / "control.sock", answer)
    witness = tmp_path / "witness"
    result = outcome(server, "touch", str(witness))
    server.close()
    assert result.returncode == code
    assert says in result.stderr.decode()
    assert not witness.exists()


def test_files_are_those_inherited(server: ControlServer) -> None:
    read, write = os.pipe()
    listing = [
        sys.executable,
        "-S",
        "-E",
        "-c",
        "import os; print(sorted(os.listdir('/proc/self/fd')))",
    ]
    options: dict[str, Any] = {"capture_output": True, "pass_fds": [write], "timeout": WAIT_S}
    direct = subprocess.run(listing, check=True, **options)
    through = outcome(server, *listing, **options)
    os.close(read)
    os.close(write)
    assert through.stdout == direct.stdout


def test_standard_files_may_be_closed(server: ControlServer) -> None:
    start = shlex.join(wrapped(server.path))
    for command in ("sh -c 'exit 7' <&- >&- 2>&-", "sh -c 'exit 7' <&-", "sh -c 'exit 7' >&-"):
        result = subprocess.run(
            ["sh", "-c", f"{start} {command}"], check=False, env=environment(), timeout=WAIT_S
        )
        assert result.returncode == 7


def test_environment_is_the_one_given(server: ControlServer) -> None:
    given = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"], "ODD": "\udcff="}
    result = outcome(server, "env", "-0", env=given)
    expected = {f"{name}={value}".encode(errors="surrogateescape") for name, value in given.items()}
    assert set(result.stdout.rstrip(b"\0").split(b"\0")) == expected


def test_signal_dispositions_and_mask_are_inherited(server: ControlServer) -> None:
    show = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"
    arguments = " ".join(f"'{a}'" for a in wrapped(server.path)[:2])
    wrapper = f'{arguments} "$START" {server.path} {show}'
    options: dict[str, Any] = {
        "capture_output": True,
        "env": {**environment(), "START": START},
        "timeout": WAIT_S,
    }
    for prefix in ("", "trap '' HUP USR1 PIPE CHLD; "):
        direct = subprocess.run(["bash", "-c", f"{prefix} {show}; true"], check=True, **options)
        through = subprocess.run(["bash", "-c", f"{prefix} {wrapper}; true"], check=True, **options)
        assert through.stdout == direct.stdout
        assert direct.stdout.count(b"\n") == 3


def test_standard_input_and_large_output(server: ControlServer) -> None:
    data = os.urandom(8 << 20)
    assert outcome(server, "cat", input=data).stdout == data


def test_a_closed_output_is_closed_for_good(
    start: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    process = start("sh", "-c", "echo out; exec >&-; exec sleep 60")
    assert process.stdout is not None
    assert process.stdout.read() == b"out\n"  # to its end, while the command runs on
    assert process.poll() is None


def test_signals_to_the_wrapper_arrive_once(
    start: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    names = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM"]
    process = start(*counter(*names))
    ready(process)
    for _ in range(3):
        for name in names:
            os.kill(process.pid, getattr(signal, name))
            assert line(process) == f"got {name}"
    assert more(process) == ""


def test_signals_to_the_group_arrive_once(
    start: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    names = ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGWINCH"]
    process = start(*counter(*names), process_group=0)
    ready(process)
    for _ in range(10):
        for name in names:
            os.killpg(process.pid, getattr(signal, name))
            assert line(process) == f"got {name}"
    assert more(process) == ""
    os.kill(process.pid, signal.SIGTERM)  # and the count of the group's is not held against this
    assert line(process) == "got SIGTERM"


def test_a_signal_that_nobody_handles_ends_both(
    start: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    process = start(*counter())
    child = ready(process)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(WAIT_S) == -signal.SIGTERM
    until(lambda: state(child) in {"", "Z"})


def test_killing_the_wrapper_kills_the_command(
    start: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    process = start(*counter())
    child = ready(process)
    process.kill()
    assert process.wait(WAIT_S) == -signal.SIGKILL
    until(lambda: state(child) in {"", "Z"})


def test_a_hold_is_absorbed(start: Callable[..., "subprocess.Popen[bytes]"]) -> None:
    process = start(*counter("SIGCONT"))
    child = ready(process)
    os.kill(child, signal.SIGSTOP)
    until(lambda: state(child) == "T")
    time.sleep(0.2)
    assert state(process.pid) == "S"
    os.kill(process.pid, signal.SIGCONT)  # no way around a hold
    time.sleep(0.2)
    assert state(child) == "T"
    os.kill(child, signal.SIGCONT)
    assert line(process) == "got SIGCONT"
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(WAIT_S) == -signal.SIGTERM


def test_ctrl_z_during_a_hold_stops_the_job_after_it(
    start: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    process = start(*counter(), process_group=0)
    child = ready(process)
    os.kill(child, signal.SIGSTOP)
    until(lambda: state(child) == "T")
    os.killpg(process.pid, signal.SIGTSTP)
    time.sleep(0.2)
    assert state(process.pid) == "S"
    os.kill(child, signal.SIGCONT)
    until(lambda: state(child) == "T" and state(process.pid) == "T")
    os.kill(process.pid, signal.SIGCONT)  # to the wrapper alone: the command goes on too
    until(lambda: state(child) == "S" and state(process.pid) == "S")
