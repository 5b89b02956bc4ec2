"""A client for the daemon's control socket that shares no code with agentd's own.

The protocol is newline-delimited JSON: one request a line, one answer a line; `watch` answers
once and then sends one event a line until the connection ends.
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

Message = dict[str, Any]


class ControlError(Exception):
    """The daemon answered `ok: false`; `code` is its machine-readable reason."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class ControlClient:
    """One connection. `timeout` is in seconds and bounds every single answer."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")

    def request(self, op: str, **fields: Any) -> Message:
        """Send one request and return its answer; raises ControlError when it was refused."""
        self._socket.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
        answer = self._next()
        if not answer.get("ok"):
            raise ControlError(str(answer.get("code")), str(answer.get("error")))
        return answer

    def watch(self, **filters: Any) -> Iterator[Message]:
        """Yield events as they are made, for ever; TimeoutError when none comes in time."""
        self.request("watch", **filters)
        while True:
            yield self._next()

    def _next(self) -> Message:
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the daemon closed the control connection")
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
