"""Labelling processes that exist already: at start all of them, later the tree below one exec.

The kernel inherits labels at fork, so it is enough to label what exists: parents before children,
again and again until a pass finds nothing new. Whatever a labelled process forks meanwhile is
labelled by the kernel; what it had forked before is found by the next pass as its child.

One gap is left: a process whose forking parent exits before the first pass has read it, and that
matches no selector itself, cannot be attributed to anybody. `/proc` no longer says who forked it.
"""

import os
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

import psutil

from agentd.workloads.identity import ProcessInfo, ProcessKey
from agentd.workloads.processes import ProcessTable
from agentd.workloads.procfs import (
    is_childless,
    read_arguments,
    read_environ,
    read_process,
    read_stat,
    same_process,
)
from agentd.workloads.sessions import Session, SessionRegistry

if TYPE_CHECKING:
    from agentd.workloads.selectors import Selectors

Assign = Callable[[ProcessInfo, str, Session | None], Session | None]
"""Label a process: (process, workload, session to join or None for a new one) -> its session.

None if there can be no session. Must set the label in the kernel and in the registry before it
returns.
"""


class Found(NamedTuple):
    """A process that was labelled, and whether by inheritance or as the root of a session."""

    info: ProcessInfo
    session: Session
    inherited: bool


def discover(
    selectors: "Selectors",
    assign: Assign,
    *,
    table: ProcessTable,
    registry: SessionRegistry,
    own: Collection[int] = (),
) -> list[Found]:
    """Label every existing process that a selector matches, and all its descendants.

    `table` receives every process found, labelled or not. Processes that `registry` knows (from
    before a restart) keep their session; `assign` is called for them too, since the kernel's memory
    may be new. PID 1, kernel threads, this process and the pids in `own` (the daemon's others) are
    never labelled. About 0.1 ms a process.
    """
    walk = _Walk(assign, table, registry, {os.getpid(), 1, *own})
    while fresh := walk.read(psutil.pids()):
        for info in fresh:
            walk.label(info, selectors)
    return walk.found


def adopt(
    pid: int,
    workload: str,
    assign: Assign,
    *,
    table: ProcessTable,
    registry: SessionRegistry,
    own: Collection[int] = (),
) -> list[Found]:
    """Label one process as the root of a new session, and those of its descendants that exist.

    For a process that came to match at an exec. Nothing is found if it is gone, or may not be
    labelled (see `discover`). One that has a session already keeps it.
    """
    walk = _Walk(assign, table, registry, {os.getpid(), 1, *own})
    for info in walk.read([pid]):
        walk.join(info, workload, registry.by_process(info.key))
    if is_childless(pid):  # as most are that have just executed something; a look at all is slow
        return walk.found
    while walk.found and (fresh := walk.read(_below({f.info.key.tgid for f in walk.found}))):
        for info in fresh:
            walk.label(info, None)
    return walk.found


def _below(roots: set[int]) -> list[int]:
    """Pids of all descendants of the given processes that exist now. About 10 us a process."""
    children: dict[int, list[int]] = {}
    for pid in psutil.pids():
        stat = read_stat(pid)
        if stat is not None:
            children.setdefault(stat.ppid, []).append(pid)
    found: list[int] = []
    seen = set(roots)
    queue = list(roots)
    while queue:
        below = [pid for pid in children.get(queue.pop(), ()) if pid not in seen]
        seen.update(below)
        found.extend(below)
        queue.extend(below)
    return found


class _Walk:
    """What one walk has seen; passes share it, so that each process is labelled once."""

    def __init__(
        self, assign: Assign, table: ProcessTable, registry: SessionRegistry, exempt: set[int]
    ) -> None:
        self.found: list[Found] = []
        self._assign = assign
        self._table = table
        self._registry = registry
        self._exempt = exempt
        self._seen: dict[int, ProcessKey] = {}
        self._left_by_dead: dict[ProcessKey, str] = {}

    def read(self, pids: Iterable[int]) -> list[ProcessInfo]:
        """Read those of the processes that are new to this walk, parents before children."""
        fresh: dict[int, ProcessInfo] = {}
        for pid in pids:
            seen = self._seen.get(pid)
            if seen is not None and same_process(seen, pid):
                continue
            info = read_process(pid)
            if info is not None:
                fresh[pid] = info
                self._seen[pid] = info.key
        ordered: dict[int, ProcessInfo] = {}
        for info in fresh.values():
            line = []
            above: ProcessInfo | None = info
            while above is not None and above.key.tgid not in ordered and above not in line:
                line.append(above)
                above = fresh.get(above.ppid)
            ordered.update((up.key.tgid, up) for up in reversed(line))
        return [self._table.add(info) for info in ordered.values()]

    def label(self, info: ProcessInfo, selectors: "Selectors | None") -> None:
        """Give a process the session it has, or its parent's, or a new one if selectors say so."""
        session = self._registry.by_process(info.key)
        if session is not None:
            self.join(info, session.workload, session)
            return
        if info.parent is not None:
            session = self._registry.by_process(info.parent)
            if session is not None:
                self.join(info, session.workload, session)
                return
            workload = self._left_by_dead.get(info.parent)
            if workload is not None:
                self.join(info, workload, None)
                return
        if selectors is not None:
            workload = selectors.match(
                info,
                read_arguments,
                read_environ,
                lambda: [up.exe for up in self._table.ancestors(info)],
            )
            if workload is not None:
                self.join(info, workload, None)

    def join(self, info: ProcessInfo, workload: str, session: Session | None) -> None:
        """Label a process that still runs; what a dead one would have left goes to its children."""
        pid = info.key.tgid
        if pid in self._exempt:
            return
        if not same_process(info.key, pid):
            self._left_by_dead[info.key] = workload
            return
        joined = self._assign(info, workload, session)
        if joined is None:
            return
        info.session = joined.number
        self.found.append(Found(info, joined, inherited=session is not None))
