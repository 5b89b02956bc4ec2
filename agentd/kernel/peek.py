"""Looks at what waits in another process's pipe or socket without taking it out."""

import ctypes
import os
import select
import socket
import stat
from typing import Final, NamedTuple

_SYS_PIDFD_GETFD: Final = 438  # asm-generic/unistd.h, the same number on every architecture
_SPLICE_F_NONBLOCK: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Ahead(NamedTuple):
    """What a process would read next, and whether nobody is left at the other end."""

    data: bytes
    closed: bool


def look_ahead(pid: int, fd: int, limit: int = 65536) -> Ahead | None:
    """What process `pid` would read next from its descriptor `fd`, at most `limit` bytes.

    A pipe is duplicated with tee(2), a socket is peeked at. None if the process is gone or `fd` is
    neither.
    """
    copy = duplicate(pid, fd)
    if copy is None:
        return None
    try:
        mode = os.fstat(copy).st_mode
        if stat.S_ISFIFO(mode):
            return Ahead(_tee(copy, limit), _hung_up(copy))
        if stat.S_ISSOCK(mode):
            return Ahead(_peek(copy, limit), _hung_up(copy))
    except OSError:
        return None
    finally:
        os.close(copy)
    return None


def duplicate(pid: int, fd: int) -> int | None:
    """A descriptor of ours for what `fd` is in process `pid` (pidfd_getfd(2)); None if gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        copy = int(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))
    finally:
        os.close(pidfd)
    return copy if copy >= 0 else None


def _hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return any(what & (select.POLLHUP | select.POLLRDHUP) for _, what in poll.poll(0))


def _tee(fd: int, limit: int) -> bytes:
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        copied = _libc.tee(fd, writer, ctypes.c_size_t(limit), _SPLICE_F_NONBLOCK)
        return os.read(reader, limit) if copied > 0 else b""
    finally:
        os.close(reader)
        os.close(writer)


def _peek(fd: int, limit: int) -> bytes:
    with socket.socket(fileno=os.dup(fd)) as end:
        try:
            return end.recv(limit, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""
