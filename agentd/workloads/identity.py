"""Who a process is: the key that survives pid reuse, and what is remembered of it."""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""One clock tick of `/proc/PID/stat` in nanoseconds (10 ms everywhere Linux runs today)."""

ARGV_MAX = 32
ARGV_BYTES = 1024
ANCESTRY_MAX = 8


class ProcessKey(NamedTuple):
    """A process of this boot. A pid alone names nobody: the kernel gives it away again.

    `start_ns` is `task->start_boottime` of the thread group leader, nanoseconds since boot. Keys
    read from `/proc` know it only to the tick below (see `same_start`).
    """

    tgid: int
    start_ns: int


def same_start(one: ProcessKey, other: ProcessKey) -> bool:
    """Whether both keys mean the same process, where one may come from `/proc`.

    Two exact keys must be equal. A key on a tick boundary came from `/proc` and stands for its
    whole tick: the kernel would have to give out all other pids within 10 ms to fool it.
    """
    if one == other:
        return True
    if one.tgid != other.tgid or (one.start_ns % TICK_NS and other.start_ns % TICK_NS):
        return False
    return one.start_ns // TICK_NS == other.start_ns // TICK_NS


def readable(raw: bytes) -> str:
    """Bytes of a path or an argument as text that JSON can carry; distinct bytes stay distinct."""
    return raw.decode("utf-8", "backslashreplace")


def bounded_argv(raw: bytes) -> tuple[str, ...]:
    """NUL-separated arguments -> at most 32 arguments of together at most 1 KiB."""
    arguments = raw[:ARGV_BYTES].split(b"\0", ARGV_MAX)
    del arguments[ARGV_MAX:]
    if arguments and not arguments[-1]:  # what follows the last NUL
        arguments.pop()
    return tuple(map(readable, arguments))


def may_be_cut(argv: tuple[str, ...]) -> bool:
    """Whether there may have been more than `bounded_argv` has kept."""
    return len(argv) >= ARGV_MAX or sum(len(each.encode()) + 1 for each in argv) >= ARGV_BYTES


@dataclass(slots=True, eq=False)
class ProcessInfo:
    """What is known of one process; `exe`, `argv` and `comm` are as of its last exec.

    `ppid` is the process that forked it, also after re-parenting. `parent` is the nearest of its
    ancestors by fork that still runs (None: none is known). `ancestry` is (pid, exe) of the
    ancestors by fork, nearest first, at most 8. `session` is the session's number, None when
    unlabelled.
    """

    key: ProcessKey
    ppid: int
    parent: ProcessKey | None
    uid: int
    gid: int
    exe: str
    argv: tuple[str, ...]
    comm: str
    cgroup: str | None = None
    session: int | None = None
    ancestry: tuple[tuple[int, str], ...] = ()
    exited_ns: int | None = None
    children: set[ProcessKey] = field(default_factory=set)
    _fragment: orjson.Fragment | None = None

    @property
    def fragment(self) -> orjson.Fragment:
        """The `process` object of an event as ready JSON; made once per exec."""
        cached = self._fragment
        if cached is None:
            cached = self._fragment = orjson.Fragment(orjson.dumps(self.to_dict()))
        return cached

    def forget_fragment(self) -> None:
        """Call after changing a field that events show."""
        self._fragment = None

    def to_dict(self) -> dict[str, object]:
        """The `process` object of an event as plain values."""
        return {
            "pid": self.key.tgid,
            "start": self.key.start_ns,
            "ppid": self.ppid,
            "uid": self.uid,
            "exe": self.exe,
            "argv": self.argv,
            "comm": self.comm,
            "ancestry": [{"pid": pid, "exe": exe} for pid, exe in self.ancestry],
        }

    def lineage(self) -> tuple[tuple[int, str], ...]:
        """The ancestry of a child that this process forks now."""
        return ((self.key.tgid, self.exe), *self.ancestry[: ANCESTRY_MAX - 1])
