"""The process table: what runs, who forked whom, and which session each process belongs to."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from agentd.workloads.identity import (
    ANCESTRY_MAX,
    ARGV_BYTES,
    ARGV_MAX,
    TICK_NS,
    ProcessInfo,
    ProcessKey,
    bounded_argv,
    readable,
    same_start,
)
from agentd.workloads.procfs import (
    current_key,
    read_ancestors,
    read_environ,
    read_process,
    read_stat,
    same_process,
)

__all__ = [
    "ANCESTRY_MAX",
    "ARGV_BYTES",
    "ARGV_MAX",
    "TICK_NS",
    "ProcessInfo",
    "ProcessKey",
    "ProcessTable",
    "bounded_argv",
    "current_key",
    "read_ancestors",
    "read_environ",
    "read_process",
    "read_stat",
    "readable",
    "same_process",
    "same_start",
]

LINGER_NS = 5_000_000_000
EXITED_MAX = 8192
LIVE_MAX = 65536


class ProcessTable:
    """Processes by key, kept up to date from the kernel's fork, exec and exit records.

    A label is inherited at fork, here as in the kernel, and nothing but an assignment to
    `ProcessInfo.session` changes it later. An exited process still resolves for `linger_ns` of
    event time, so that records that arrive late find it. Living processes are never dropped on
    their own account; if exit records were lost, `sweep` finds out who is gone.
    """

    def __init__(self, linger_ns: int = LINGER_NS, exited_max: int = EXITED_MAX) -> None:
        self._live: dict[int, ProcessInfo] = {}
        self._exited: dict[ProcessKey, ProcessInfo] = {}
        self._leaving: deque[ProcessInfo] = deque()
        self._linger_ns = linger_ns
        self._exited_max = exited_max

    def __len__(self) -> int:
        """Living processes."""
        return len(self._live)

    def __iter__(self) -> Iterator[ProcessInfo]:
        """Living processes, oldest record first; a snapshot."""
        return iter(list(self._live.values()))

    @property
    def overfull(self) -> bool:
        """More records than a host plausibly runs: exits were lost and a sweep is due."""
        return len(self._live) > LIVE_MAX

    def get(self, key: ProcessKey) -> ProcessInfo | None:
        """The process of this key, living or lately exited; never another one of the same pid."""
        info = self._live.get(key.tgid)
        if info is not None and (info.key == key or same_start(info.key, key)):
            return info
        info = self._exited.get(key)
        if info is not None or not self._exited:
            return info
        return self._exited.get(ProcessKey(key.tgid, key.start_ns - key.start_ns % TICK_NS))

    def find(self, tgid: int, start_ns: int) -> ProcessInfo | None:
        """`get` of the key with these two, faster for a living process (hot path)."""
        info = self._live.get(tgid)
        if info is not None and info.key.start_ns == start_ns:
            return info
        return self.get(ProcessKey(tgid, start_ns))

    def by_pid(self, tgid: int) -> ProcessInfo | None:
        """The living process that has this pid, as far as the records go."""
        return self._live.get(tgid)

    def add(self, info: ProcessInfo) -> ProcessInfo:
        """Enter a process that was read from `/proc`; returns the record that counts.

        A known process keeps its record, its label and its lineage; what it executes is brought up
        to date if it is unlabelled or has executed something else. (`/proc` is no better than the
        kernel's records: a process can rewrite its own arguments there.) A parent that is not in
        the table is no parent.
        """
        known = self._live.get(info.key.tgid)
        if known is not None:
            if same_start(known.key, info.key):
                if known.session is None or known.exe != info.exe:
                    _refresh(known, info)
                return known
            self._retire(known, info.key.start_ns)
        parent = self.get(info.parent) if info.parent is not None else None
        self._enter(info, parent)
        return info

    def fork(self, parent_key: ProcessKey, child_key: ProcessKey) -> ProcessInfo:
        """A fork record: the child is its parent's copy, label included.

        A parent that the table does not know gives a child of which nothing is known.
        """
        parent = self.get(parent_key)
        known = self._live.get(child_key.tgid)
        if known is not None:
            if same_start(known.key, child_key):  # read from /proc before its record arrived
                if known.session is None and parent is not None:
                    known.session = parent.session
                return known
            self._retire(known, child_key.start_ns)
        if parent is None:
            child = ProcessInfo(child_key, parent_key.tgid, None, 0, 0, "", (), "")
        else:
            child = ProcessInfo(
                child_key,
                parent_key.tgid,
                parent.key,
                parent.uid,
                parent.gid,
                parent.exe,
                parent.argv,
                parent.comm,
                parent.cgroup,
                parent.session,
            )
        self._enter(child, parent)
        return child

    def exec(  # noqa: PLR0917 (the fields of an exec record)
        self,
        key: ProcessKey,
        exe: str,
        argv: tuple[str, ...],
        comm: str,
        uid: int | None = None,
        gid: int | None = None,
        cgroup: str | None = None,
    ) -> ProcessInfo:
        """An exec record. None leaves what is known as it is. Strings as from `readable`."""
        info = self.get(key)
        if info is None:
            info = self.add(ProcessInfo(key, 0, None, 0, 0, "", (), ""))
        info.exe = exe
        info.argv = argv
        info.comm = comm
        if uid is not None:
            info.uid = uid
        if gid is not None:
            info.gid = gid
        if cgroup is not None:
            info.cgroup = cgroup
        info.forget_fragment()
        if info.children:
            self._refresh_ancestry(info)
        return info

    def exit(self, key: ProcessKey, now_ns: int) -> ProcessInfo | None:
        """An exit record, at `now_ns` (any clock that `expire` shares); None if it is not known.

        Its children hang on its own parent from now on, and keep their ancestry.
        """
        info = self.get(key)
        if info is None or info.exited_ns is not None:
            return info
        self._retire(info, now_ns)
        self.expire(now_ns)
        return info

    def expire(self, now_ns: int) -> None:
        """Forget processes that exited more than `linger_ns` ago, or too many."""
        leaving, oldest = self._leaving, now_ns - self._linger_ns
        while leaving and ((leaving[0].exited_ns or 0) < oldest or len(leaving) > self._exited_max):
            gone = leaving.popleft()
            if self._exited.get(gone.key) is gone:
                del self._exited[gone.key]

    def sweep(
        self, now_ns: int, alive: Callable[[ProcessKey, int], bool] = same_process
    ) -> list[ProcessInfo]:
        """Retire the processes whose exit record was lost; returns them. About 8 us a process."""
        gone = [info for info in self if not alive(info.key, info.key.tgid)]
        for info in gone:
            self._retire(info, now_ns)
        self.expire(now_ns)
        return gone

    def children(self, info: ProcessInfo) -> list[ProcessInfo]:
        """Living children, in order of start; those of its exited children included."""
        known = [child for key in info.children if (child := self.get(key)) is not None]
        return sorted(known, key=_start)

    def descendants(self, info: ProcessInfo) -> list[ProcessInfo]:
        """Living descendants, parents before children."""
        found: list[ProcessInfo] = []
        queue = deque([info])
        while queue:
            children = self.children(queue.popleft())
            found.extend(children)
            queue.extend(children)
        return found

    def ancestors(self, info: ProcessInfo) -> Iterator[ProcessInfo]:
        """Known ancestors, nearest first."""
        while info.parent is not None:
            parent = self.get(info.parent)
            if parent is None:
                return
            yield parent
            info = parent

    def tree(self, keys: Iterable[ProcessKey]) -> list[tuple[int, ProcessInfo]]:
        """The given processes as (depth, process), each below its nearest given ancestor."""
        chosen = {info.key: info for key in keys if (info := self.get(key)) is not None}
        below: dict[ProcessKey | None, list[ProcessInfo]] = {}
        for info in sorted(chosen.values(), key=_start):
            above = next((up.key for up in self.ancestors(info) if up.key in chosen), None)
            below.setdefault(above, []).append(info)
        rows: list[tuple[int, ProcessInfo]] = []
        stack = [(0, info) for info in reversed(below.get(None, []))]
        while stack:
            depth, info = stack.pop()
            rows.append((depth, info))
            stack.extend((depth + 1, child) for child in reversed(below.get(info.key, [])))
        return rows

    def _enter(self, info: ProcessInfo, parent: ProcessInfo | None) -> None:
        if parent is not None:
            info.ancestry = parent.lineage()
            holder = (
                parent
                if parent.exited_ns is None
                else next((up for up in self.ancestors(parent) if up.exited_ns is None), None)
            )
            info.parent = None if holder is None else holder.key
            if holder is not None:
                holder.children.add(info.key)
        else:
            info.parent = None
        self._live[info.key.tgid] = info

    def _retire(self, info: ProcessInfo, now_ns: int) -> None:
        if self._live.get(info.key.tgid) is info:
            del self._live[info.key.tgid]
        info.exited_ns = now_ns
        self._exited[info.key] = info
        self._leaving.append(info)
        heir = self.get(info.parent) if info.parent is not None else None
        if heir is not None:
            heir.children.discard(info.key)
            heir.children.update(info.children)
        for key in info.children:
            child = self.get(key)
            if child is not None:
                child.parent = None if heir is None else heir.key
        info.children = set()

    def _refresh_ancestry(self, info: ProcessInfo) -> None:
        """After an exec by a process that has children: they descend from the new program."""
        stack = [info]
        while stack:
            parent = stack.pop()
            for child in self.children(parent):
                if child.ppid == parent.key.tgid:
                    child.ancestry = parent.lineage()
                    child.forget_fragment()
                    stack.append(child)


def _start(info: ProcessInfo) -> tuple[int, int]:
    return info.key.start_ns, info.key.tgid


def _refresh(known: ProcessInfo, read: ProcessInfo) -> None:
    known.exe, known.argv, known.comm = read.exe, read.argv, read.comm
    known.uid, known.gid, known.cgroup = read.uid, read.gid, read.cgroup
    known.forget_fragment()
