"""Reading one process from `/proc`, pinned to that process from the first read to the last."""

import os
import sys
import time
from typing import NamedTuple

from agentd.workloads.identity import (
    ARGV_BYTES,
    TICK_NS,
    ProcessInfo,
    ProcessKey,
    bounded_argv,
    readable,
)

PF_EXITING = 0x00000004
PF_KTHREAD = 0x00200000
ENVIRON_MAX = 1 << 20
ARGUMENTS_MAX = 4096
ARGUMENTS_BYTES = 1 << 18
_ATTEMPTS = 4
_ANCESTORS_MAX = 64
_EXEC_PAUSE_S = 0.0005


class Stat(NamedTuple):
    """The fields of `/proc/PID/stat` that matter here (proc_pid_stat(5): 2, 3, 4, 9, 20, 22)."""

    comm: str
    state: str
    ppid: int
    flags: int
    threads: int
    start_ticks: int

    @property
    def kernel_thread(self) -> bool:
        """Whether this is a thread of the kernel itself."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def exiting(self) -> bool:
        """Whether the first thread ends or has ended."""
        return bool(self.flags & PF_EXITING)

    @property
    def leader_gone(self) -> bool:
        """Whether the first thread has exited (a zombie, or a process that others keep alive)."""
        return self.state in "ZX"


def _read(name: str, directory: int, limit: int) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        chunks = []
        while limit > 0 and (chunk := os.read(descriptor, min(limit, 1 << 16))):
            chunks.append(chunk)
            limit -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def parse_stat(raw: bytes) -> Stat:
    """Parse one line of `/proc/PID/stat`; the name may itself hold blanks and parentheses.

    Raises ValueError or IndexError if it is not such a line.
    """
    head, _, tail = raw.rpartition(b")")
    fields = tail.split()
    return Stat(
        comm=readable(head[head.index(b"(") + 1 :]),
        state=fields[0].decode("ascii"),
        ppid=int(fields[1]),
        flags=int(fields[6]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def read_stat(pid: int) -> Stat | None:
    """`/proc/PID/stat` of a process, None if there is none."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return parse_stat(os.read(descriptor, 4096))
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(descriptor)


def current_key(pid: int) -> ProcessKey | None:
    """The key (to the tick) of the process that has this pid now."""
    stat = read_stat(pid)
    return stat and ProcessKey(pid, stat.start_ticks * TICK_NS)


def is_childless(pid: int) -> bool:
    """Whether the process certainly has no child: its only thread has none (proc_pid_children(5)).

    False where the kernel does not tell.
    """
    stat = read_stat(pid)
    if stat is None or stat.threads > 1:
        return False
    try:
        descriptor = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not os.read(descriptor, 1)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def read_ancestors(pid: int) -> list[str]:
    """Executables of a process's present ancestors, nearest first, at most 64; 25 us each."""
    executables: list[str] = []
    stat = read_stat(pid)
    while stat is not None and stat.ppid > 0 and len(executables) < _ANCESTORS_MAX:
        parent = stat.ppid
        try:
            exe = os.readlink(b"/proc/%d/exe" % parent)  # noqa: PTH115 (bytes: a path need not be text)
            executables.append(readable(exe))
        except OSError:
            break
        stat = read_stat(parent)
    return executables


def same_process(key: ProcessKey, pid: int) -> bool:
    """Whether `pid` is, now, the process of `key`, and has not ended.

    Compared by ticks, all that `/proc` tells. One that only waits for its parent to ask has ended.
    """
    stat = read_stat(pid)
    if stat is None or (stat.leader_gone and stat.threads < 2):
        return False
    return pid == key.tgid and stat.start_ticks == key.start_ns // TICK_NS


def parse_cgroup(raw: bytes) -> str | None:
    """`/proc/PID/cgroup` -> the path that says most: v2, or systemd's v1 tree on hybrid hosts."""
    paths = {}
    for line in raw.splitlines():
        _, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        paths[controllers] = readable(path)
    unified, named = paths.get(b""), paths.get(b"name=systemd")
    if unified in {None, "/"} and named not in {None, "/"}:
        return named
    return unified if unified is not None else named


def _status_ids(raw: bytes) -> tuple[int, int]:
    """`/proc/PID/status` -> real uid and real gid."""
    uid = raw.index(b"\nUid:") + 5
    gid = raw.index(b"\nGid:", uid) + 5
    return int(raw[uid : uid + 24].split()[0]), int(raw[gid : gid + 24].split()[0])


def _living_thread(process: int) -> int:
    """A directory of a thread that still has memory and an executable, to be closed by the caller.

    A process whose first thread has exited runs on, and its own directory shows nothing of it.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    tasks = os.open("task", flags, dir_fd=process)
    try:
        with os.scandir(tasks) as entries:
            for entry in entries:
                thread = os.open(entry.name, flags, dir_fd=tasks)
                if not parse_stat(_read("stat", thread, 4096)).leader_gone:
                    return thread
                os.close(thread)
    finally:
        os.close(tasks)
    raise ProcessLookupError


def _read_image(directory: int) -> tuple[str, bytes]:
    """Executable and arguments of one and the same exec.

    In the middle of an exec the new program shows no arguments yet.
    """
    exe = os.readlink(b"exe", dir_fd=directory)
    for _ in range(_ATTEMPTS):
        arguments = _read("cmdline", directory, ARGV_BYTES)
        again = os.readlink(b"exe", dir_fd=directory)
        if again == exe and arguments:
            break
        if not arguments:
            time.sleep(_EXEC_PAUSE_S)
        exe = again
    return sys.intern(readable(exe)), arguments


def read_process(pid: int) -> ProcessInfo | None:
    """Read a process; None if it is gone, dead, or a kernel thread. Costs about 75 us.

    The directory is opened first: everything read through it belongs to that process or fails
    with ESRCH, even if the pid is given to another. The start time is read again at the end.
    `parent` is set, `ancestry` and `session` are for the process table to fill.
    """
    try:
        directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read_pinned(pid, directory)
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(directory)


def _read_pinned(pid: int, directory: int) -> ProcessInfo | None:
    stat = parse_stat(_read("stat", directory, 4096))
    if stat.kernel_thread or (stat.leader_gone and stat.threads < 2):
        return None
    if stat.leader_gone:
        thread = _living_thread(directory)
        try:
            exe, arguments = _read_image(thread)
        finally:
            os.close(thread)
    else:
        exe, arguments = _read_image(directory)
    uid, gid = _status_ids(_read("status", directory, 4096))
    cgroup = parse_cgroup(_read("cgroup", directory, 1 << 16))
    end = parse_stat(_read("stat", directory, 4096))
    if end.start_ticks != stat.start_ticks or (end.leader_gone and end.threads < 2):
        return None
    return ProcessInfo(
        key=ProcessKey(pid, stat.start_ticks * TICK_NS),
        ppid=end.ppid,
        parent=current_key(end.ppid) if end.ppid else None,
        uid=uid,
        gid=gid,
        exe=exe,
        argv=bounded_argv(arguments),
        comm=end.comm,
        cgroup=cgroup,
    )


def _read_of(key: ProcessKey, name: str, limit: int) -> bytes:
    """A file of the process's directory; empty if the process is gone."""
    try:
        directory = os.open(f"/proc/{key.tgid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        stat = parse_stat(_read("stat", directory, 4096))
        if stat.start_ticks != key.start_ns // TICK_NS:
            return b""
        return _read(name, directory, limit)
    except (OSError, ValueError, IndexError):
        return b""
    finally:
        os.close(directory)


def read_arguments(key: ProcessKey) -> tuple[str, ...]:
    """More of its arguments than a `ProcessInfo` keeps: at most 4096 of together 256 KiB."""
    raw = _read_of(key, "cmdline", ARGUMENTS_BYTES)
    return tuple(map(readable, raw.removesuffix(b"\0").split(b"\0", ARGUMENTS_MAX)[:ARGUMENTS_MAX]))


def read_environ(key: ProcessKey) -> dict[str, str]:
    """The environment as of exec, at most 1 MiB of it; empty if the process is gone.

    From `/proc/PID/environ`, memory that the process itself can overwrite.
    """
    environment: dict[str, str] = {}
    for entry in _read_of(key, "environ", ENVIRON_MAX).split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            environment.setdefault(readable(name), readable(value))  # getenv(3): the first counts
    return environment
