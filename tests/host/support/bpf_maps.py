"""A map of a running daemon, opened by a test: what another CPU does can then be played."""

import ctypes
import os
import re
from pathlib import Path

from tests.host.support.daemon import Daemon

_SYS_PIDFD_GETFD = 438
_syscall = ctypes.CDLL(None, use_errno=True).syscall


def map_fd(daemon: Daemon, kind: int, key_size: int, value_size: int, entries: int) -> int:
    """A descriptor of the only map of this type (bpf_map_type) and these sizes, in bytes."""
    wanted = {
        "map_type": kind, "key_size": key_size, "value_size": value_size, "max_entries": entries,
    }  # fmt: skip
    found: dict[str, tuple[int, int]] = {}
    for process in daemon.processes():
        for info in Path(f"/proc/{process.pid}/fdinfo").iterdir():
            try:
                text = info.read_text()
            except FileNotFoundError:  # closed meanwhile
                continue
            fields = dict(re.findall(r"^(\w+):\t(\d+)$", text, re.MULTILINE))
            if wanted.items() <= {k: int(v) for k, v in fields.items() if k in wanted}.items():
                found[fields["map_id"]] = (process.pid, int(info.name))
    ((pid, fd),) = found.values()
    pidfd = os.pidfd_open(pid)
    try:
        opened: int = _syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
        assert opened >= 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(pidfd)
    return opened
