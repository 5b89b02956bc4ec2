"""Answering in the place of a stopped server, where its request leaves no room for a refusal.

A request in many small pieces is complete with its last byte: one byte can be made to break it, not
to say why. So the client is told directly: an error with the id of the request, written to the
server's own standard output while the server is stopped.
"""

import os
import platform
import select
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import orjson

from agentd.enforce.rewrite import PREFIX
from agentd.kernel.peek import duplicate

DENIED: Final = -32000
"""JSON-RPC: the first of the codes that are left to implementations."""

_ATOMIC: Final = 4096
"""PIPE_BUF: a write of at most that many bytes to a pipe is not split."""
_LONGEST_REASON: Final = 1000
_WRITES: Final = {
    "x86_64": frozenset({1, 20, 44, 46}),
    "aarch64": frozenset({64, 66, 206, 211}),
}
"""System call numbers of write, writev, sendto, sendmsg."""


def error_line(id_: Any, rule: str, reason: str) -> bytes:
    """The error response that a client gets; raises TypeError if the id cannot be written."""
    message = f"{PREFIX}: {rule}: {reason[:_LONGEST_REASON]}"
    answer = {"jsonrpc": "2.0", "id": id_, "error": {"code": DENIED, "message": message}}
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)


def answer(tgid: int, fd: int, lines: Iterable[bytes]) -> bool:
    """Writes responses to `fd`, where process `tgid`, stopped, writes its own.

    False if that is not safe: while one of its threads is inside a write, or when there is no room
    for whole lines.
    """
    return not _writes(tgid, fd) and put_in(tgid, fd, b"".join(lines))


def put_in(tgid: int, fd: int, data: bytes) -> bool:
    """Writes to what `fd` is in a process that does not write to it now; False: nothing was."""
    copy = duplicate(tgid, fd)
    if copy is None:
        return False
    try:
        mode = os.fstat(copy).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) or len(data) > _ATOMIC:
            return False
        poll = select.poll()
        poll.register(copy, select.POLLOUT)
        if [what for _, what in poll.poll(0)] != [select.POLLOUT]:
            return False
        return os.write(copy, data) == len(data)
    except OSError:
        return False
    finally:
        os.close(copy)


def _writes(tgid: int, fd: int) -> bool:
    """Whether a thread is in the middle of a write to `fd` (/proc/PID/task/TID/syscall)."""
    numbers = _WRITES.get(platform.machine(), frozenset())
    try:
        for thread in Path(f"/proc/{tgid}/task").iterdir():
            words = (thread / "syscall").read_bytes().split()
            if len(words) > 1 and int(words[0]) in numbers and int(words[1], 16) == fd:
                return True
    except OSError:
        return True
    return False
