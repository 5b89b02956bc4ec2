"""A lean MCP client over stdio: raw JSON-RPC lines on two pipes, one request at a time.

It adds next to nothing to the round trip it measures, so that benchmarks see the server and
agentd and not a client library, and tests see the very bytes the server sent.
"""

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.host.support.processes import end_tree

Message = dict[str, Any]


class StdioClient:
    """Start a server, speak protocol 2025-06-18 to it, end it.

    `timeout` is in seconds and bounds the wait for each answer (TimeoutError). The server's
    standard error goes to `errors` (a file) or is discarded.
    """

    PROTOCOL = "2025-06-18"

    def __init__(
        self,
        command: Sequence[str],
        *,
        timeout: float = 30.0,
        environment: Mapping[str, str] | None = None,
        errors: Path | None = None,
    ) -> None:
        self.timeout = timeout
        self.notifications: list[Message] = []
        with (errors or Path(os.devnull)).open("ab") as sink:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=None if environment is None else {**os.environ, **environment},
                bufsize=0,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input = self.process.stdin.fileno()
        self._output = self.process.stdout.fileno()
        self._buffer = bytearray()
        self._next_id = 0

    def initialize(self) -> Message:
        """Do the handshake and return the server's answer."""
        client = {"name": "agentd-tests", "version": "1"}
        answer = self.request(
            "initialize",
            {"protocolVersion": self.PROTOCOL, "capabilities": {}, "clientInfo": client},
        )
        self.notify("notifications/initialized")
        return answer

    def call(self, tool: str, arguments: Message | None = None) -> Message:
        """Call a tool and return the whole JSON-RPC answer (with `result` or `error`)."""
        return self.request("tools/call", {"name": tool, "arguments": arguments or {}})

    def timed_call(self, tool: str, arguments: Message) -> int:
        """Call a tool and return the round trip in nanoseconds, without parsing the answer.

        Only for servers that send nothing but the answer to such a call.
        """
        self._next_id += 1
        line = self._encode("tools/call", {"name": tool, "arguments": arguments}, self._next_id)
        start = time.perf_counter_ns()
        os.write(self._input, line)
        self._read_line()
        return time.perf_counter_ns() - start

    def request(self, method: str, params: Message | None = None) -> Message:
        """Send a request and return its answer; messages in between go to `notifications`."""
        self._next_id += 1
        wanted = self._next_id
        self.send_raw(self._encode(method, params, wanted))
        while True:
            message = self.read()
            if message.get("id") == wanted and "method" not in message:
                return message
            self.notifications.append(message)

    def notify(self, method: str, params: Message | None = None) -> None:
        self.send_raw(self._encode(method, params, None))

    def send_raw(self, data: bytes) -> None:
        """Write bytes as they are: several messages, half of one, or none at all."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._input, view) :]

    def read(self) -> Message:
        """Return the next message, whatever it is."""
        message: Message = json.loads(self._read_line())
        return message

    def _encode(self, method: str, params: Message | None, number: int | None) -> bytes:
        message: Message = {"jsonrpc": "2.0", "method": method}
        if number is not None:
            message["id"] = number
        if params is not None:
            message["params"] = params
        return json.dumps(message, separators=(",", ":")).encode() + b"\n"

    def _read_line(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if not select.select([self._output], [], [], self.timeout)[0]:
                raise TimeoutError(f"no answer within {self.timeout} s")
            chunk = os.read(self._output, 1 << 16)
            if not chunk:
                raise ConnectionError(f"the server ended: {bytes(self._buffer)[:200]!r}")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def close(self) -> None:
        """End the server and whatever it started."""
        end_tree(self.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
