"""Which end of a pipe or socket a process has, as /proc/PID/fd shows it."""

import contextlib
import os
import re
from typing import Final

INODE: Final = re.compile(r"(?:pipe|socket):\[(\d+)\]")
"""A link in /proc/PID/fd."""
_O_ACCMODE: Final = 3
_O_RDONLY, _O_WRONLY = 0, 1


def link_to(ino: int, peer_ino: int) -> str:
    """What the writing end of a channel is called in /proc/PID/fd."""
    return f"socket:[{peer_ino}]" if peer_ino else f"pipe:[{ino}]"


def has_open(pid: int, target: str, *, writable: bool = False, readable: bool = False) -> bool:
    """Whether a process has `target` open (for writing or reading, where that tells the ends)."""
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for fd in os.listdir(directory):
            with contextlib.suppress(OSError, StopIteration):  # it may be closed meanwhile
                same = os.readlink(f"{directory}/{fd}") == target
                if same and _fits(pid, fd, writable=writable, readable=readable):
                    return True
    return False


def _fits(pid: int, fd: str, *, writable: bool, readable: bool) -> bool:
    if not writable and not readable:
        return True
    mode = _access(pid, fd)
    return (not writable or mode != _O_RDONLY) and (not readable or mode != _O_WRONLY)


def is_writable(pid: int, fd: str) -> bool:
    """Raises OSError when process or descriptor are gone."""
    return _access(pid, fd) != _O_RDONLY


def _access(pid: int, fd: str) -> int:
    with open(f"/proc/{pid}/fdinfo/{fd}", "rb") as info:
        flags = next(line for line in info if line.startswith(b"flags:"))
    return int(flags.split()[1], 8) & _O_ACCMODE


def descriptors(pid: int) -> dict[int, tuple[str, bool]]:
    """Pipes and sockets of a process: descriptor -> (link, whether it can be written to)."""
    found = {}
    directory = f"/proc/{pid}/fd"
    try:
        for fd in sorted(os.listdir(directory), key=int):
            link = os.readlink(f"{directory}/{fd}")
            if INODE.fullmatch(link):
                found[int(fd)] = (link, is_writable(pid, fd))
    except (OSError, StopIteration):
        return found
    return found
