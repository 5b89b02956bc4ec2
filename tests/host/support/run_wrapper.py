"""What the tests of `agentd run` share: a control server, a counting command, a terminal."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
START = (
    "import sys; from agentd.cli.run import run; "
    "sys.exit(run(sys.argv[1], 'tested', {'objective': 'a test'}, sys.argv[2:]))"
)
COUNTER = """
import os, signal, sys, time
def say(line):
    os.write(1, (line + "\\n").encode())
def count(number, frame):
    say("got " + signal.Signals(number).name)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), count)
say("ready %d" % os.getpid())
while True:  # not pause(): a signal that comes just before it would be told of with the next one
    time.sleep(0.02)
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


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def wrapped(path: Path, *argv: str) -> list[str]:
    return [sys.executable, "-c", START, str(path), *argv]


def counter(*names: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", COUNTER, *names]


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


def parent_of(child: int) -> int:
    return int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])


class Terminal:
    """An interactive bash on a pseudo-terminal."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._seen = ""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.environ.update(variables, PS1="PROMPT> ", TERM="dumb")
            os.execvp("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
        self.expect("PROMPT> ")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, seconds: float = WAIT_S) -> "re.Match[str]":
        """Read until the pattern appears after what was expected last."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self._seen, re.DOTALL)) is None:
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
        self.type(f"agentd-run count {' '.join(names)}\n")
        return int(self.expect(r"ready (\d+)\r\n")[1])

    def foreground(self) -> int:
        """The process group that has the terminal."""
        return os.tcgetpgrp(self._master)

    def close(self) -> None:
        """Hang up, and wait for everything that the shell had started to end."""
        os.kill(self.pid, signal.SIGHUP)
        os.close(self._master)
        os.waitpid(self.pid, 0)
        until(lambda: not self._session())

    def _session(self) -> list[int]:
        """Living processes of the shell's session (the sixth field of /proc/PID/stat)."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self.pid and fields[0] != "Z":
                        found.append(int(entry.name))
        return found
