"""A real nats-server with JetStream on a free loopback port."""

import socket
import subprocess
from pathlib import Path
from typing import Self

from tests.host.support.processes import stop, wait_until
from tests.host.support.servers import VENV_BIN


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NatsServer:
    """A server whose port and store survive `stop` and `start`, so that outages can be played.

    `extra` is appended to the configuration file (accounts, tls blocks and the like).
    """

    def __init__(self, directory: Path, extra: str = "") -> None:
        self.port = free_port()
        self.directory = directory
        self.log = directory / "nats-server.log"
        self._configuration = directory / "nats.conf"
        directory.mkdir(parents=True, exist_ok=True)
        self._configuration.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f"jetstream {{ store_dir: {str(directory / 'store')!r} }}\n{extra}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it accepts connections; AssertionError after 10 s."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(VENV_BIN / "nats-server"), "-c", str(self._configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._accepts, 10.0, f"nats-server ready ({self.log})")

    def stop(self) -> None:
        """End it as an orderly shutdown would; does nothing when it is not running."""
        if self._process is not None:
            stop(self._process)
            self._process = None

    def kill(self) -> None:
        """End it without warning, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
