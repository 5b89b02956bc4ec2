"""The files that a process has open, for a look before it becomes part of a session."""

import os
import stat
from typing import NamedTuple

from agentd.workloads.identity import readable


class OpenFile(NamedTuple):
    """A regular file; `access` is "read", "write" or both, as "read|write"."""

    fd: int
    path: str
    access: str


_ACCESS = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "read|write"}


def open_files(pid: int) -> list[OpenFile]:
    """Every regular file that a process has open (proc_pid_fd(5)); [] if it is gone."""
    found = []
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    for name in names:
        try:
            if not stat.S_ISREG(os.stat(f"/proc/{pid}/fd/{name}").st_mode):
                continue
            path = os.readlink(os.fsencode(f"/proc/{pid}/fd/{name}"))
            with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii", errors="replace") as lines:
                fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            access = _ACCESS.get(int(fields["flags"], 8) & os.O_ACCMODE, "")
        except (OSError, KeyError, ValueError):
            continue
        if access:
            found.append(OpenFile(int(name), readable(path.removesuffix(b" (deleted)")), access))
    return found
