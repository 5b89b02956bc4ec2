"""Client of the daemon's control socket: newline-delimited JSON over a Unix stream socket.

One connection a request. The daemon learns who asks from the socket (SO_PEERCRED, unix(7)), so
nothing is sent to prove it.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agentd.cli.exits import Exit
from agentd.errors import AgentdError

MAX_ANSWER_BYTES = 64 << 20
_RETRY_PAUSE_S = 0.05
_MEND = "start it with `agentd daemon`, or see `systemctl status agentd`"


class ControlError(AgentdError):
    """A request that came to nothing; `exit_code` is what the command should end with."""

    exit_code = Exit.FAILED


class DaemonUnavailableError(ControlError):
    """Nobody answers on the socket."""

    exit_code = Exit.UNAVAILABLE


class RequestRefusedError(ControlError):
    """The daemon answered that it will not; `code` is the protocol's word for why."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = _EXITS.get(code, Exit.FAILED)


_EXITS = {"denied": Exit.DENIED, "bad-request": Exit.USAGE}


class _LostError(Exception):
    """The connection ended before the answer; a later attempt may do better."""


class ControlClient:
    """Speaks to the daemon behind `path`.

    `timeout_s` bounds the wait for one answer; `retry_s` how long to go on trying while the engine
    restarts (the socket refuses, or closes without an answer).
    """

    def __init__(self, path: str, timeout_s: float = 10.0, retry_s: float = 3.0) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.retry_s = retry_s

    def request(self, op: str, *, repeatable: bool = True, **fields: object) -> dict[str, object]:
        """Send one request and return its answer's object.

        With `repeatable` False a request is never sent twice: one whose answer got lost may have
        taken effect. Raises DaemonUnavailableError, RequestRefusedError, ControlError.
        """
        deadline = time.monotonic() + self.retry_s
        message = _encode(op, fields)
        while True:
            connection = self._connect(deadline)
            with connection, connection.makefile("rb") as answers:
                try:
                    connection.sendall(message)
                    return _checked(_read(answers))
                except TimeoutError:
                    raise DaemonUnavailableError(
                        f"the daemon gave no answer to {op} within {self.timeout_s:g} s; {_MEND}"
                    ) from None
                except (_LostError, ConnectionError) as error:
                    if not repeatable:
                        raise DaemonUnavailableError(
                            f"the daemon went away while it worked on {op}, which may or may not "
                            "have taken effect; look with `agentd ps` or `agentd holds`"
                        ) from error
                    self._pause(deadline, "it closes the connection without an answer")

    def stream(self, op: str, **fields: object) -> Iterator[dict[str, object]]:
        """Send a request whose answer goes on for ever; yields each object after the first.

        Raises what `request` raises, and DaemonUnavailableError when the stream ends.
        """
        connection = self._connect(time.monotonic() + self.retry_s)
        with connection, connection.makefile("rb") as answers:
            try:
                connection.sendall(_encode(op, fields))
                _checked(_read(answers))
                connection.settimeout(None)
                while True:
                    yield _read(answers)
            except (_LostError, ConnectionError, TimeoutError) as error:
                raise DaemonUnavailableError("the daemon closed the connection") from error

    def _connect(self, deadline: float) -> socket.socket:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                connection.settimeout(self.timeout_s)
                connection.connect(self.path)
            except (ConnectionError, BlockingIOError, TimeoutError, FileNotFoundError) as error:
                connection.close()
                if isinstance(error, FileNotFoundError) and not Path(self.path).parent.exists():
                    deadline = 0.0
                self._pause(deadline, os.strerror(error.errno or 0))
            except PermissionError as error:
                connection.close()
                refusal = f"you may not open the control socket {self.path}; ask for its mode"
                raise RequestRefusedError(refusal, "denied") from error
            except OSError as error:
                connection.close()
                raise DaemonUnavailableError(
                    f"{self.path} cannot be used as a control socket: {error}"
                ) from error
            else:
                return connection

    def _pause(self, deadline: float, why: str) -> None:
        """Wait before another attempt; raises DaemonUnavailableError once it is too late."""
        if time.monotonic() >= deadline:
            message = f"the daemon does not answer on {self.path} ({why}); {_MEND}"
            raise DaemonUnavailableError(message)
        time.sleep(_RETRY_PAUSE_S)


def _encode(op: str, fields: dict[str, object]) -> bytes:
    given = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"op": op, **given}).encode() + b"\n"


def _read(answers: BinaryIO) -> dict[str, object]:
    line = answers.readline(MAX_ANSWER_BYTES)
    if not line.endswith(b"\n"):
        if len(line) == MAX_ANSWER_BYTES:
            raise ControlError(f"the daemon's answer is longer than {MAX_ANSWER_BYTES} bytes")
        raise _LostError
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ControlError("the daemon's answer is no JSON; is this agentd's socket?") from error
    if not isinstance(answer, dict):
        raise ControlError("the daemon's answer is no JSON object; is this agentd's socket?")
    return answer


def _checked(answer: dict[str, object]) -> dict[str, object]:
    if answer.get("ok") is True:
        return answer
    message = answer.get("error")
    code = answer.get("code")
    raise RequestRefusedError(
        message if isinstance(message, str) else "the daemon refused the request",
        code if isinstance(code, str) else "failed",
    )
