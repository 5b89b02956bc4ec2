"""Sessions: one run of a workload each, and which processes are part of it."""

import base64
import os
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from agentd.kernel.wire import MAX_WORKLOADS
from agentd.workloads.identity import ProcessKey, same_start
from agentd.workloads.procfs import same_process

NUMBER_MAX = 2**32 - 1
WORKLOADS_MAX = MAX_WORKLOADS - 1
STATE_VERSION = 1


class SessionError(Exception):
    """A session that cannot be made; says why."""


@dataclass(slots=True, eq=False)
class Session:
    """One run of a workload: the tree that grew from `root`.

    `number` and `workload_number` are what the kernel knows them by, 0 meaning none; `started_ns`
    is wall-clock time in nanoseconds since the epoch. `labels` only ever grows.
    """

    id: str
    number: int
    workload: str
    workload_number: int
    posture: str
    on_failure: str
    root: ProcessKey
    started_ns: int
    uid: int
    task: dict[str, Any] | None = None
    cgroup: str | None = None
    labels: set[str] = field(default_factory=set)
    processes: set[ProcessKey] = field(default_factory=set)

    def has(self, label: str) -> bool:
        """Whether the label has been set on this session."""
        return label in self.labels


def new_session_id() -> str:
    """`s-` and 40 random bits in lower-case base32."""
    return "s-" + base64.b32encode(os.urandom(5)).decode("ascii").lower()


class SessionRegistry:
    """All sessions of this boot.

    Numbers are never given out twice in one boot, across restarts of the engine too, because the
    kernel may still hold labels with the old ones.
    """

    def __init__(self, boot: str) -> None:
        self.boot = boot
        self._next_number = 1
        self._workloads: dict[str, int] = {}
        self._by_number: dict[int, Session] = {}
        self._by_id: dict[str, Session] = {}
        self._by_tgid: dict[int, tuple[ProcessKey, Session]] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Session]:
        """Sessions, oldest first; a snapshot."""
        return iter(list(self._by_number.values()))

    def workload_number(self, name: str) -> int:
        """The number of a workload, 1 to 255, the same until the next boot.

        Raises SessionError when 255 different names have had sessions.
        """
        number = self._workloads.get(name)
        if number is None:
            number = len(self._workloads) + 1
            if number > WORKLOADS_MAX:
                raise SessionError(
                    f"{WORKLOADS_MAX} workloads have had sessions since boot, and there is room for"
                    f" no more; a session of {name!r} needs one of those names, or a reboot"
                )
            self._workloads[name] = number
        return number

    @property
    def workload_count(self) -> int:
        """How many workload names have a number; the numbers are 1 to this."""
        return len(self._workloads)

    def workload_name(self, number: int) -> str | None:
        """The workload of a number, None if it was never given out."""
        return next((name for name, known in self._workloads.items() if known == number), None)

    def create(
        self,
        workload: str,
        root: ProcessKey,
        *,
        uid: int,
        started_ns: int,
        posture: str,
        on_failure: str,
        task: dict[str, Any] | None = None,
        cgroup: str | None = None,
    ) -> Session:
        """A new session with `root` as its only process.

        Raises SessionError if the process belongs to a session already: a label is never left,
        not even for another workload.
        """
        present = self.by_process(root)
        if present is not None:
            raise SessionError(
                f"process {root.tgid} already belongs to session {present.id} of workload "
                f"{present.workload}; a process cannot leave its session"
            )
        if self._next_number > NUMBER_MAX:
            raise SessionError("all session numbers of this boot are used up")
        session_id = new_session_id()
        while session_id in self._by_id:
            session_id = new_session_id()
        session = Session(
            id=session_id,
            number=self._next_number,
            workload=workload,
            workload_number=self.workload_number(workload),
            posture=posture,
            on_failure=on_failure,
            root=root,
            started_ns=started_ns,
            uid=uid,
            task=task,
            cgroup=cgroup,
        )
        self._next_number += 1
        self._enter(session)
        self.add_process(session, root)
        return session

    def by_number(self, number: int) -> Session | None:
        """The session that the kernel knows by this number."""
        return self._by_number.get(number)

    def by_id(self, session_id: str) -> Session | None:
        """The session of this id."""
        return self._by_id.get(session_id)

    def by_process(self, key: ProcessKey) -> Session | None:
        """The session of a living process; another process with the same pid has none."""
        entry = self._by_tgid.get(key.tgid)
        if entry is None or not same_start(entry[0], key):
            return None
        return entry[1]

    def add_process(self, session: Session, key: ProcessKey) -> Session:
        """Count a process to a session; returns the session that it belongs to.

        That is another one if it had joined that before.
        """
        present = self.by_process(key)
        if present is not None:
            return present
        session.processes.add(key)
        self._by_tgid[key.tgid] = (key, session)
        return session

    def remove_process(self, key: ProcessKey) -> Session | None:
        """A process has exited; returns its session if that has ended with it."""
        entry = self._by_tgid.get(key.tgid)
        if entry is None or not same_start(entry[0], key):
            return None
        del self._by_tgid[key.tgid]
        known, session = entry
        session.processes.discard(known)
        return self._end_if_empty(session)

    def revive(self, session: Session) -> None:
        """Take back a session that was reported as ended: the kernel still has processes of it."""
        self._enter(session)

    def gone(self, alive: Callable[[ProcessKey, int], bool] = same_process) -> set[ProcessKey]:
        """Processes that are in a session and exist no longer."""
        return {key for session in self for key in session.processes if not alive(key, key.tgid)}

    def sweep(self, gone: AbstractSet[ProcessKey]) -> list[Session]:
        """Drop processes that are gone without a record; returns the sessions that so ended."""
        ended = []
        for session in self:
            for key in session.processes & gone:
                session.processes.discard(key)
                entry = self._by_tgid.get(key.tgid)
                if entry is not None and entry[0] == key:
                    del self._by_tgid[key.tgid]
            if self._end_if_empty(session) is not None:
                ended.append(session)
        return ended

    def to_state(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "version": STATE_VERSION,
            "boot": self.boot,
            "next_number": self._next_number,
            "workloads": dict(self._workloads),
            "sessions": [_session_state(session) for session in self],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any] | None, boot: str) -> "SessionRegistry":
        """What `to_state` wrote; empty if it is from another boot, another version or None.

        Processes may have come and gone meanwhile: `sweep`, then `discover`.
        """
        registry = cls(boot)
        if state is None or state.get("boot") != boot or state.get("version") != STATE_VERSION:
            return registry
        registry._next_number = state["next_number"]
        registry._workloads.update(state["workloads"])
        for saved in state["sessions"]:
            processes = [ProcessKey(*key) for key in saved["processes"]]
            session = Session(
                **{
                    **saved,
                    "root": ProcessKey(*saved["root"]),
                    "labels": set(saved["labels"]),
                    "processes": set(),
                }
            )
            registry._enter(session)
            for key in processes:
                registry.add_process(session, key)
        return registry

    def _enter(self, session: Session) -> None:
        self._by_number[session.number] = session
        self._by_id[session.id] = session

    def _end_if_empty(self, session: Session) -> Session | None:
        if session.processes or self._by_number.get(session.number) is not session:
            return None
        del self._by_number[session.number]
        del self._by_id[session.id]
        return session


def _session_state(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "number": session.number,
        "workload": session.workload,
        "workload_number": session.workload_number,
        "posture": session.posture,
        "on_failure": session.on_failure,
        "root": list(session.root),
        "started_ns": session.started_ns,
        "uid": session.uid,
        "task": session.task,
        "cgroup": session.cgroup,
        "labels": sorted(session.labels),
        "processes": [list(key) for key in sorted(session.processes)],
    }
