"""What acts of the adversarial tests are aimed at outside their session: servers and a victim."""

import contextlib
import select
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.adversarial.support.network import ASKED, DENIED
from tests.host.support.listeners import Servers
from tests.host.support.processes import wait_until

_CLOSED = (DENIED, ASKED, "::1")
_ARRIVAL_S = 0.4


@dataclass
class Closed(Servers):
    """Servers of which some must not be reached, and a forwarder to one of those."""

    closed_port: int = 0
    forwarder: int = 0

    def start(self) -> None:
        super().start()
        self.serve(self.bound(socket.AF_INET, socket.SOCK_DGRAM, (DENIED, self.port)), "closed")
        closed = self.bound(socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", 0))
        self.closed_port = closed.getsockname()[1]
        self.serve(closed, "closed")
        (self.base / "systemd").mkdir()
        for path in (str(self.base / "systemd" / "private"), f"\0secret-{self.port}"):
            self.serve(self.bound(socket.AF_UNIX, socket.SOCK_STREAM, path), "closed")
        forwarder = self.bound(socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", 0))
        self.forwarder = forwarder.getsockname()[1]
        forwarder.listen(4)
        threading.Thread(target=self._forward, args=(forwarder,), daemon=True).start()

    def arrivals(self, connection: socket.socket, name: str) -> list[str]:
        internet = connection.family != socket.AF_UNIX
        closed = internet and connection.getsockname()[0] in _CLOSED
        return ["closed", name] if closed else [name]

    def is_reached(self) -> bool:
        """Whether something has arrived where nothing may; waits for what is on its way."""
        closed = {"closed", "docker.sock", "datagram"}
        try:
            wait_until(lambda: closed & {*self.got}, _ARRIVAL_S, "an arrival")
        except AssertionError:
            return False
        return True

    def _forward(self, end: socket.socket) -> None:
        while True:
            try:
                client, _ = end.accept()
            except OSError:
                return
            with client, socket.create_connection((DENIED, self.port)) as server:
                server.sendall(client.recv(100))
                client.sendall(b"x")


class Victim:
    """A process outside every session: it says where its memory is and what has become of it.

    `program` is a Python, under a name that rules know.
    """

    CODE = """
import ctypes, sys
memory = ctypes.create_string_buffer(b"untouched", 16)
secret = open(sys.argv[1])
print(ctypes.addressof(memory), secret.fileno(), flush=True)
for line in sys.stdin:
    print(memory.value.decode(), flush=True)
"""

    def __init__(self, program: Path, secret: Path, environment: dict[str, str]) -> None:
        self._process: subprocess.Popen[str] = subprocess.Popen(
            [program, "-S", "-E", "-c", self.CODE, str(secret)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            process_group=0,
        )
        assert self._process.stdout
        self.address, self.descriptor = map(int, self._process.stdout.readline().split())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def state(self) -> str:
        """Of /proc/PID/stat: "S" while nothing has happened to it."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        return text.rpartition(")")[2].split()[0]

    def is_untouched(self) -> bool:
        """Whether it lives, runs and has the memory that it had.

        It is asked even so: who has been sent a SIGSTOP does not answer, and may be seen
        stopped only a while later.
        """
        if self._process.poll() is not None:
            return False
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        while self.state() not in {"T", "t"}:
            if select.select([self._process.stdout], [], [], 0.05)[0]:
                return self._process.stdout.readline() == "untouched\n"
        return False


def ended_pid() -> int:
    """The id of a process that has just ended."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid
