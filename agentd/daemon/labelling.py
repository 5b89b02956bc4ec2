"""Sessions and the kernel together: labels, control groups, the system call path.

The registry says which sessions there are; here they get their labels in the kernel, their cgroup
with its network rules, and their events. The system call program is attached while a session is.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from agentd.daemon import channel
from agentd.daemon.places import path_of
from agentd.daemon.report import Reporter
from agentd.errors import AgentdError
from agentd.kernel.maps import KernelMaps
from agentd.kernel.wire import (
    CANDIDATE,
    PROGRAM_PLACE,
    REC_CHANGE,
    REC_EXEC,
    REC_EXIT,
    REC_FORK,
    REC_OPEN,
    REC_SOCKET,
)
from agentd.workloads import discovery
from agentd.workloads.cgroups import CgroupError, CgroupTree
from agentd.workloads.identity import ANCESTRY_MAX, ProcessInfo, ProcessKey, same_start
from agentd.workloads.processes import ProcessTable
from agentd.workloads.procfs import (
    read_ancestors,
    read_arguments,
    read_environ,
    read_process,
    same_process,
)
from agentd.workloads.selectors import Selectors
from agentd.workloads.sessions import Session, SessionError, SessionRegistry
from agentd.workloads.workload import Workload

Prepare = Callable[[str], Workload | None]
"""Makes the kernel's settings for a workload ready; None if there is no such workload."""

_TOTALS = {
    REC_FORK: "process.fork",
    REC_EXEC: "process.exec",
    REC_EXIT: "process.exit",
    REC_OPEN: "file.open",
    REC_CHANGE: "file.change",
    REC_SOCKET: "network",
}
_DULL_NS = 10_000_000_000
_CUT = "/.../"


class Labelling:
    """Starts, joins and ends sessions."""

    def __init__(
        self,
        kernel: KernelMaps,
        registry: SessionRegistry,
        table: ProcessTable,
        reporter: Reporter,
        supervisor: socket.socket,
    ) -> None:
        self._kernel = kernel
        self.registry = registry
        self.table = table
        self._reporter = reporter
        self._supervisor = supervisor
        self._watching = False
        self._opens = True
        self._guarded: set[str] = set()
        self.guards_needed = True
        """Whether network rules need programs on control groups: no other hook decides them."""
        self._cgroups, self.cgroup_finding = CgroupTree.find()
        self.own: set[int] = {os.getpid(), os.getppid()}
        self.selectors = Selectors(())
        self.prepare: Prepare = lambda _name: None
        self.persist: Callable[[], None] = lambda: None
        self.changed = False

    def ask_supervisor(self, message: dict[str, Any]) -> dict[str, Any]:
        """One request to the owner of the attachments. Raises AgentdError if it is gone."""
        try:
            channel.send(self._supervisor, message)
            heard = channel.receive(self._supervisor)
        except OSError as error:
            raise AgentdError(f"the supervisor is gone: {error}") from error
        if heard is None:
            raise AgentdError("the supervisor is gone")
        return heard[0]

    def run(self, pid: int, workload: str, task: dict[str, Any] | None) -> Session:
        """A session whose root is process `pid`, which waits for the answer.

        Raises SessionError if it belongs to one already, AgentdError if the workload is unknown.
        """
        info = read_process(pid)
        if info is None:
            raise AgentdError(f"process {pid} is gone")
        label = self._kernel.label_of(pid)
        if label is not None and label.start_ns // 10**7 == info.key.start_ns // 10**7:
            present = self.registry.by_number(label.session)
            raise SessionError(
                f"process {pid} belongs to session {present.id if present else label.session}"
                " already; a process cannot leave its session"
            )
        session = self._create(self._add(info), workload, task)
        self._enclose(session, pid)
        self.persist()
        return session

    def assign(self, info: ProcessInfo, workload: str, joined: Session | None) -> Session | None:
        """`discovery.Assign`: the process joins a session, or becomes the root of a new one."""
        if joined is None:
            try:
                return self._create(info, workload, None)
            except SessionError as error:
                text = f"process {info.key.tgid} gets no label: {error}"
                self._reporter.daemon_event("daemon.warning", {"text": text})
                return None
        self._set_label(info, joined)
        return joined

    def discover(self) -> int:
        """Labels what runs already; returns how many processes."""
        found = discovery.discover(
            self.selectors,
            self.assign,
            table=self.table,
            registry=self.registry,
            own=self.own,
        )
        return len(found)

    def candidate(self, pid: int, record: bytes) -> None:
        """An unlabelled process has executed something; labels it if a selector matches now.

        The kernel is told of programs that concern no selector, so that a compilation, which starts
        the same ones hundreds of times, does not wake this process for each.
        """
        exe = path_of(record[CANDIDATE.size :])
        if not exe.startswith(_CUT) and not self.selectors.concern(exe):
            until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + _DULL_NS
            self._kernel.ignore_program(record[PROGRAM_PLACE], until_ns)
            return
        if pid in self.own:
            return
        info = read_process(pid)
        if info is None:
            return
        workload = self.selectors.match(
            info, read_arguments, read_environ, lambda: read_ancestors(pid)
        )
        if workload is not None:
            self._add(info)
            discovery.adopt(
                pid,
                workload,
                self.assign,
                table=self.table,
                registry=self.registry,
                own=self.own,
            )

    def restore(self) -> None:
        """After an engine restart: what the kernel has labelled meanwhile joins its session."""
        self.synchronize()
        for session in self.registry:
            self.prepare(session.workload)
            if session.cgroup:
                self._guard(session.cgroup)
        self._watching = not len(self.registry)  # the attachment is the supervisor's: tell it
        self._watch()

    def resume(self) -> None:
        """After a fresh start, when no label of an earlier daemon is left in the kernel.

        The sessions that still run go on; `discover` gives their processes their labels again.
        """
        for session in self.registry.sweep(self.registry.gone()):
            self.ended(session)
        for session in self.registry:
            self.prepare(session.workload)
            if session.cgroup:
                self._guard(session.cgroup)
        if self._cgroups is not None:
            self._cgroups.clean(keep={session.id for session in self.registry})
        self._watch()

    def synchronize(self) -> None:
        """Processes that only the kernel knows of (their fork was not told) join their session."""
        labelled = sorted(self._kernel.labelled(), key=lambda each: each[1].start_ns)
        for tgid, label in labelled:
            session = self.registry.by_number(label.session)
            if session is None:
                self._kernel.unlabel(tgid)
            else:
                self.process(tgid, label.start_ns, session)

    def process(self, tgid: int, start_ns: int, session: Session) -> ProcessInfo:
        """The process of a record, entered into table and session if it is new to them."""
        info = self.table.find(tgid, start_ns)
        if info is None:
            key = ProcessKey(tgid, start_ns)
            read = read_process(tgid)
            if read is None or not same_start(read.key, key):
                read = ProcessInfo(key, 0, None, 0, 0, "", (), "")
            read.key = key  # the kernel's is exact
            info = self._add(read)
        if info.session is None and info.exited_ns is None:
            info.session = session.number
            self.registry.add_process(session, info.key)
        return info

    def enter(self, key: ProcessKey, parent: ProcessKey) -> None:
        """A process whose fork was not told; its parent may be unknown too."""
        if self.table.get(parent) is None:
            above = read_process(parent.tgid)
            if above is not None and same_start(above.key, parent):
                self._add(above)
        self.table.fork(parent, key)

    def ended(self, session: Session) -> None:
        """The registry has lost the last process of a session: end it, if the kernel agrees."""
        for tgid, label in self._kernel.labelled():
            if label.session != session.number:
                continue
            key = ProcessKey(tgid, label.start_ns)
            if same_process(key, tgid):
                # Its fork record was folded into a count, or lost.
                self.registry.revive(session)
                self.process(key.tgid, key.start_ns, session)
                return
            # It ended while it was given its label, which the kernel then had nothing to take away.
            if self._kernel.label_of(tgid) == label:
                self._kernel.unlabel(tgid)
        totals: Counter[str] = Counter()
        for kind, count in self._kernel.take_totals(session.number).items():
            totals[_TOTALS[kind]] += count
        self._reporter.session_event(
            "session.end", self._reporter.clock.now(), session, None, {"totals": dict(totals)}
        )
        self._reporter.forget(session)
        self.changed = True
        if session.cgroup:
            self._guarded.discard(session.cgroup)
            self.ask_supervisor({"op": "unguard", "cgroup": session.cgroup})
            if self._cgroups is not None:
                self._cgroups.remove(Path(session.cgroup))
        self._watch()

    def reap(self, gone: AbstractSet[ProcessKey]) -> None:
        """Now and then: control groups that were still in use, processes whose exit was lost.

        `gone` ended before the last record that was taken in, so that no record of theirs waits.
        """
        if self._cgroups is not None:
            self._cgroups.reap()
        for session in self.registry.sweep(gone):
            self.ended(session)
        if self.table.overfull:
            self.table.sweep(self._reporter.clock.now())

    @property
    def unguarded(self) -> bool:
        """Whether the connects of some session are refused by nobody before they happen."""
        return self.guards_needed and not all(map(self.guarded, self.registry))

    def guarded(self, session: Session) -> bool:
        """Whether the kernel refuses this session's connections by itself."""
        return session.cgroup is not None and session.cgroup in self._guarded

    def close(self) -> None:
        """Removes the control groups that are empty."""
        if self._cgroups is not None:
            self._cgroups.close()

    def _create(self, info: ProcessInfo, name: str, task: dict[str, Any] | None) -> Session:
        workload = self.prepare(name)
        if workload is None:
            raise AgentdError(f"there is no workload {name!r}; `agentd ps` lists them")
        session = self.registry.create(
            name,
            info.key,
            uid=info.uid,
            started_ns=self._reporter.clock.epoch(self._reporter.clock.now()),
            posture=workload.posture,
            on_failure=workload.on_failure,
            task=task,
        )
        self.persist()  # before the label: one without a session would be taken away again
        self._watch()
        self._set_label(info, session)
        self._reporter.session_event(
            "session.start", self._reporter.clock.now(), session, info, {"root": info.key.tgid}
        )
        return session

    def _set_label(self, info: ProcessInfo, session: Session) -> None:
        self._kernel.label(
            info.key.tgid, info.key.start_ns, session.number, session.workload_number
        )
        info.session = session.number
        self.registry.add_process(session, info.key)

    def _enclose(self, session: Session, pid: int) -> None:
        """A control group of its own, so that the kernel can refuse connections. Best effort."""
        if self._cgroups is None:
            return
        try:
            group = self._cgroups.create(session.id, pid)
        except CgroupError as error:
            self._reporter.daemon_event("daemon.warning", {"text": str(error)})
            return
        directory = str(group.directory)
        self._guard(directory)
        try:
            self._cgroups.move(group, pid)
        except CgroupError as error:
            self._reporter.daemon_event("daemon.warning", {"text": str(error)})
            self._guarded.discard(directory)
            self.ask_supervisor({"op": "unguard", "cgroup": directory})
            self._cgroups.remove(group.directory)
            return
        session.cgroup = directory

    def _guard(self, directory: str) -> None:
        if not self.guards_needed:
            return
        answer = self.ask_supervisor({"op": "guard", "cgroup": directory})
        if answer.get("error") is None:
            self._guarded.add(directory)
        else:
            text = f"network rules of {directory} act by kill: {answer['error']}"
            self._reporter.daemon_event("daemon.warning", {"text": text})

    def _add(self, info: ProcessInfo) -> ProcessInfo:
        """Enters a process, and before it those of its ancestors that are not known yet."""
        for above in reversed(_ancestors(info)):
            self.table.add(above)
        return self.table.add(info)

    def look_at_opens(self, *, at_return: bool) -> None:
        """`inforce.LookAtOpens`: else a hook sees opens before they happen."""
        changed = at_return != self._opens
        self._opens = at_return
        if changed and self._watching:
            self._ask_for_calls()

    def _watch(self) -> None:
        """System calls are looked at exactly while there is a session."""
        wanted = len(self.registry) > 0
        if wanted != self._watching:
            self._watching = wanted
            self._ask_for_calls()

    def _ask_for_calls(self) -> None:
        self.ask_supervisor({"op": "syscalls", "on": self._watching, "opens": self._opens})


def _ancestors(info: ProcessInfo) -> list[ProcessInfo]:
    """The ancestors that `/proc` shows, nearest first."""
    found: list[ProcessInfo] = []
    while info.ppid and len(found) < ANCESTRY_MAX:
        above = read_process(info.ppid)
        if above is None:
            break
        found.append(above)
        info = above
    return found
