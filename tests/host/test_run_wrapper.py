"""`agentd run` against a control server of this test's own: a command must notice no difference."""

import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
START = (
    "import sys; from agentd.cli.run import run; "
    "sys.exit(run(sys.argv[1], 'tested', {'objective': 'a test'}, sys.argv[2:]))"
)
COUNTER = """
import os, signal, sys
def say(line):
    os.write(1, (line + "\\n").encode())
def count(number, frame):
    say("got " + signal.Signals(number).name)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), count)
say("ready %d" % os.getpid())
while True:
    signal.pause()
"""
WAIT_S = 15.0


class ControlServer:
    """Answers `run`; remembers the requests and who sent them (SO_PEERCRED)."""

    def __init__(
        self, path: Path, answer: bytes = b'{"ok": true, "session": "s-aaaaaaaa"}\n'
    ) -> None:
        self.path = path
        self.requests: list[tuple[int, dict[str, Any]]] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                request = b""
                while not request.endswith(b"\n") and (part := connection.recv(4096)):
                    request += part
                self.requests.append((struct.unpack("3i", peer)[0], json.loads(request)))
                connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


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


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def wrapped(path: Path, *argv: str) -> list[str]:
    return [sys.executable, "-c", START, str(path), *argv]


def counter(*names: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", COUNTER, *names]


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


def state(pid: int) -> str:
    """The state letter in /proc; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


def test_environment_is_the_one_given(server: ControlServer) -> None:
    given = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"], "ODD": "\udcff="}
    result = outcome(server, "env", "-0", env=given)
    expected = {f"{name}={value}".encode(errors="surrogateescape") for name, value in given.items()}
    assert set(result.stdout.rstrip(b"\0").split(b"\0")) == expected


def test_signal_dispositions_and_mask_are_inherited(server: ControlServer) -> None:
    script = "trap '' HUP USR1 PIPE; exec_line"
    show = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"
    arguments = " ".join(f"'{a}'" for a in wrapped(server.path)[:2])
    wrapper = f'{arguments} "$START" {server.path} {show}'
    options: dict[str, Any] = {
        "check": True,
        "capture_output": True,
        "env": {**environment(), "START": START},
        "timeout": WAIT_S,
    }
    for prefix in ("", "trap '' HUP USR1 PIPE CHLD; "):
        direct = subprocess.run(["bash", "-c", f"{prefix} {show}; true"], **options)
        through = subprocess.run(["bash", "-c", f"{prefix} {wrapper}; true"], **options)
        assert through.stdout == direct.stdout, script
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
    assert state(child) == ""


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


class Terminal:
    """An interactive bash on a pseudo-terminal."""

    def __init__(self, server: ControlServer) -> None:
        self._seen = ""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.environ.update(environment(), PS1="PROMPT> ", START=START, TERM="dumb")
            os.environ["CONTROL"] = str(server.path)
            os.execvp("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
        self.expect("PROMPT> ")
        self.type(f'agentd-run() {{ {sys.executable} -c "$START" "$CONTROL" "$@"; }}\n')
        self.expect("PROMPT> ")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, seconds: float = WAIT_S) -> "re.Match[str]":
        """Read until the pattern appears after what was expected last."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self._seen)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} not in {self._seen!r}"
            if select.select([self._master], [], [], left)[0]:
                self._seen += os.read(self._master, 65536).decode(errors="replace")
        self._seen = self._seen[found.end() :]
        return found

    def rest(self, seconds: float = 0.4) -> str:
        """What has come since, and comes within the time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._master], [], [], left)[0]:
                self._seen += os.read(self._master, 65536).decode(errors="replace")
        return self._seen

    def resize(self, rows: int, columns: int) -> None:
        ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def command(self, *names: str) -> int:
        """Start the counting command in the foreground; its pid."""
        arguments = (
            " ".join(f"'{part}'" for part in counter(*names)[-len(names) :]) if names else ""
        )
        self.type(f'agentd-run {sys.executable} -S -E "$COUNTER" {arguments}\n')
        return int(self.expect(r"ready (\d+)\r\n")[1])

    def close(self) -> None:
        os.kill(self.pid, signal.SIGHUP)
        os.close(self._master)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(
    server: ControlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    script = tmp_path / "counter.py"
    script.write_text(COUNTER)
    monkeypatch.setenv("COUNTER", str(script))
    shell = Terminal(server)
    yield shell
    shell.close()


def wrapper_of(child: int) -> int:
    return int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])


def test_ctrl_c_arrives_once(terminal: Terminal) -> None:
    terminal.command("SIGINT")
    for _ in range(5):
        terminal.type("\x03")
        terminal.expect("got SIGINT\r\n")
    assert "got" not in terminal.rest()
    terminal.type("\x1c")  # Ctrl-\
    terminal.expect("Quit.*PROMPT> ")


def test_ctrl_c_ends_the_command_and_the_shell_knows(terminal: Terminal) -> None:
    terminal.command()
    terminal.type("\x03")
    terminal.expect("PROMPT> ")
    terminal.type("echo code=$?\n")
    terminal.expect("code=130\r\n")


def test_ctrl_z_fg_bg(terminal: Terminal) -> None:
    child = terminal.command("SIGINT", "SIGCONT")
    wrapper = wrapper_of(child)
    for _ in range(2):
        terminal.type("\x1a")
        terminal.expect(r"Stopped[^\n]*\r\nPROMPT> ")
        assert (state(child), state(wrapper)) == ("T", "T")
        terminal.type("fg\n")
        terminal.expect("got SIGCONT\r\n")
        assert "got" not in terminal.rest(0.2)
        until(lambda: (state(child), state(wrapper)) == ("S", "S"))
    terminal.type("\x1a")
    terminal.expect(r"Stopped[^\n]*\r\nPROMPT> ")
    terminal.type("bg\n")
    terminal.expect("got SIGCONT\r\n")
    until(lambda: (state(child), state(wrapper)) == ("S", "S"))
    terminal.type("fg\n")
    terminal.expect(r"agentd-run")
    terminal.type("\x03")
    terminal.expect("got SIGINT\r\n")
    terminal.type("\x1a")
    terminal.expect("PROMPT> ")
    terminal.type("kill -KILL %1; wait %1; echo code=$?\n")
    terminal.expect("code=137\r\n")
    until(lambda: state(child) == "")


def test_kill_job_arrives_once(terminal: Terminal) -> None:
    terminal.type(f'agentd-run {sys.executable} -S -E "$COUNTER" SIGTERM SIGHUP &\n')
    terminal.expect(r"ready (\d+)\r\n")
    for _ in range(5):
        terminal.type("kill %1\n")
        terminal.expect("got SIGTERM\r\n")
    assert "got" not in terminal.rest()
    terminal.type("kill -KILL %1\n")
    terminal.expect("PROMPT> ")


def test_background_reader_stops_the_job(terminal: Terminal) -> None:
    terminal.type("agentd-run cat &\n")
    terminal.expect("PROMPT> ")
    time.sleep(0.5)
    terminal.type("\n")
    terminal.expect("Stopped")
    terminal.type("fg\n")
    time.sleep(0.3)
    terminal.type("hello there\n")
    terminal.expect("hello there\r\nhello there\r\n")
    terminal.type("\x04")
    terminal.expect("PROMPT> ")


def test_the_shell_sees_nothing_of_a_hold(terminal: Terminal) -> None:
    child = terminal.command("SIGCONT")
    os.kill(child, signal.SIGSTOP)
    assert terminal.rest() == ""
    os.kill(child, signal.SIGCONT)
    terminal.expect("got SIGCONT\r\n")
    os.kill(child, signal.SIGSTOP)
    until(lambda: state(child) == "T")
    terminal.type("\x03")  # a hold does not hold up Ctrl-C
    terminal.expect("PROMPT> ")
    until(lambda: state(child) == "")


def test_window_size(terminal: Terminal) -> None:
    child = terminal.command("SIGWINCH")
    terminal.resize(33, 77)
    terminal.expect("got SIGWINCH\r\n")
    assert "got" not in terminal.rest()
    os.kill(child, signal.SIGKILL)
    terminal.expect("Killed.*PROMPT> ")
    terminal.type("agentd-run stty size\n")
    terminal.expect("33 77\r\n")


def test_an_interactive_shell_inside(terminal: Terminal) -> None:
    terminal.type("PS1='INNER> ' agentd-run bash --norc --noprofile --noediting -i\n")
    terminal.expect("INNER> ")
    terminal.type("sleep 100\n")
    time.sleep(0.3)
    terminal.type("\x1a")
    terminal.expect(r"Stopped[^\n]*\r\nINNER> ")
    terminal.type("kill %1; exit 3\n")
    terminal.type("exit 3\n")
    terminal.expect("PROMPT> ")
    terminal.type("echo code=$?\n")
    terminal.expect("code=3\r\n")
