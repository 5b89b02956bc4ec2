"""Servers of a test's own on loopback and on Unix sockets, and what has arrived there."""

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_TCP_FASTOPEN: Final = 23
"""Of IPPROTO_TCP; Python's socket module has no constant for it everywhere."""


@dataclass
class Servers:
    """Everything that a test may reach. `got` names the server for each arrival.

    Streams and datagrams have the same port, on all addresses of IPv4 and IPv6.
    """

    base: Path
    got: list[str] = field(default_factory=list)
    ends: list[socket.socket] = field(default_factory=list)
    port: int = 0

    def start(self) -> None:
        stream = self.bound(socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", 0))
        self.port = stream.getsockname()[1]
        stream.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN, 16)
        self.serve(stream, "tcp")
        self.serve(self.bound(socket.AF_INET6, socket.SOCK_STREAM, ("::", self.port)), "tcp6")
        self.serve(self.bound(socket.AF_INET, socket.SOCK_DGRAM, ("0.0.0.0", self.port)), "udp")
        for name in ("docker.sock", "held.sock", "free.sock"):
            path = str(self.base / name)
            self.serve(self.bound(socket.AF_UNIX, socket.SOCK_STREAM, path), name)
        (self.base / "d").mkdir()
        path = str(self.base / "d" / "docker.sock")
        self.serve(self.bound(socket.AF_UNIX, socket.SOCK_DGRAM, path), "datagram")

    def bound(self, family: int, kind: int, address: object) -> socket.socket:
        """A socket of this name, closed with the others."""
        end = socket.socket(family, kind)
        if family == socket.AF_INET6:
            end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if family != socket.AF_UNIX:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end.bind(address)  # type: ignore[arg-type]
        self.ends.append(end)
        return end

    def serve(self, end: socket.socket, name: str) -> None:
        """Take what arrives there, as `name`."""
        if end.type == socket.SOCK_STREAM:
            end.listen(16)
        threading.Thread(target=self._take, args=(end, name), daemon=True).start()

    def _take(self, end: socket.socket, name: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                if end.type == socket.SOCK_DGRAM:
                    end.recv(100)
                    self.got.append(name)
                else:
                    connection, _ = end.accept()
                    self.ends.append(connection)
                    self.got += self.arrivals(connection, name)

    def arrivals(self, connection: socket.socket, name: str) -> list[str]:  # noqa: ARG002
        """What `got` is to say of a connection to the server of this name."""
        return [name]

    def close(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
