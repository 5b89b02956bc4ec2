"""What labelled processes do with files: opens, deletes, renames, links, truncations."""

import os
from typing import Any

from agentd.daemon.fold import Fold
from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.places import given_path, path_of, true_path
from agentd.daemon.report import Reporter
from agentd.daemon.verdicts import Verdicts, worst
from agentd.kernel.inodes import Found, Inode, InodeReader
from agentd.kernel.maps import HoldValue
from agentd.kernel.syscalls import syscall_numbers
from agentd.kernel.wire import ACCESS_READ, ACCESS_WRITE, CHANGE, OPEN
from agentd.policy.evaluator import Decision
from agentd.workloads.identity import ProcessInfo, readable
from agentd.workloads.sessions import Session

_DELETES = frozenset({"unlink", "unlinkat", "rmdir"})
_BURST = 64


class FileActivity:
    """Turns records of files into events and verdicts."""

    def __init__(self, policy: PolicyInForce, verdicts: Verdicts, reporter: Reporter) -> None:
        self._policy = policy
        self._verdicts = verdicts
        self._reporter = reporter
        self._calls = {number: name for name, number in syscall_numbers().items()}
        self._fold = Fold(_BURST)

    def forget(self, session: Session) -> None:
        """The session has ended."""
        self._fold.forget(session.number)

    def on_open(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        """An open that was not stopped: for writing, or of a watched file."""
        fields = OPEN.unpack_from(record)
        time_ns, count = fields[3], fields[8]
        ino, device, access, path_len, _ = fields[10:]
        path = path_of(record[OPEN.size : OPEN.size + path_len])
        found = Found(Inode(ino, device), b"")
        decision, also = self._judge_open(session, info, [path], access, found)
        described = self._verdicts.after_effect(decision, session, info)
        parts = {"file": open_parts(path, also, access, ino, device)}
        self._reporter.session_event("file.open", time_ns, session, info, parts, described, count)

    def on_open_hold(
        self, hold: HoldValue, session: Session, info: ProcessInfo, names: bytes
    ) -> None:
        """A process that has opened a watched file and has not got the descriptor yet.

        `names` is what followed the hold in the ring; b"" where that is lost.
        """
        paths = [path_of(part) for part in (names[: hold.length], names[hold.length :]) if part]
        if not paths:
            paths = _descriptor_path(hold.tgid, hold.fd)
        inode = Inode(hold.ino, hold.dev)
        found = InodeReader().identify(inode, f"/proc/{hold.tgid}/fd/{hold.fd}")
        decision, also = self._judge_open(session, info, paths, hold.access, found)
        path = paths[0] if paths else ""
        parts = {"file": open_parts(path, also, hold.access, hold.ino, hold.dev)}
        self._verdicts.settle("file.open", parts, decision, hold, session, info)

    def on_change(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        """A delete, rename, link or truncation, done or failed."""
        fields = CHANGE.unpack_from(record)
        time_ns, count = fields[3], fields[8]
        op, *lengths, result = fields[10:]
        places = []
        at = CHANGE.size
        for base_len, given_len in (lengths[:2], lengths[2:]):
            base = record[at : at + base_len]
            at += base_len
            given = record[at : at + given_len]
            at += given_len
            places.append(readable(true_path(given_path(base, given))) if given else "")
        name = self._calls.get(op, str(op))
        cls, file = change_parts(name, *places)
        described = None
        if result:
            file["error"] = os.strerror(-result)
        else:
            if places[1]:
                self._policy.watched.moved(*places)
                self._policy.watched.settle(session.number, time_ns)
            decision = self._verdicts.judge(cls, session, info, file)
            described = self._verdicts.after_effect(decision, session, info)
        if described is None and count == 1:
            key = (op, result, os.path.dirname(places[0]))
            count = self._fold.count(session.number, key)
            if not count:
                return
        self._reporter.session_event(cls, time_ns, session, info, {"file": file}, described, count)

    def _judge_open(
        self, session: Session, info: ProcessInfo, paths: list[str], access: int, found: Found
    ) -> tuple[Decision | None, str | None]:
        """The most severe verdict over all names of the file, and which other name gave it.

        A descriptor for both reading and writing is judged as both.
        """
        watched = self._policy.watched
        known = watched.name(found)
        names = list(dict.fromkeys([*paths, known] if known else paths))
        decisions: list[Decision | None] = []
        for path in names:
            watched.seen(path, found)
            for bit, kind in ((ACCESS_WRITE, "write"), (ACCESS_READ, "read")):
                if access & bit:
                    subject = {"path": path, "access": kind}
                    decisions.append(self._verdicts.judge("file.open", session, info, subject))
        decision = worst(decisions)
        if decision is None:
            return None, None
        kinds = len(decisions) // len(names)
        name = names[decisions.index(decision) // kinds]
        return decision, None if name == paths[0] else name


def open_parts(path: str, also: str | None, access: int, ino: int, device: int) -> dict[str, Any]:
    """The `file` object of an open event; `also` is the file's other name that a rule matched."""
    parts: dict[str, Any] = {
        "path": path,
        "op": "open",
        "access": "write" if access & ACCESS_WRITE else "read",
        "ino": ino,
        "dev": f"{device >> 20}:{device & 0xFFFFF}",
    }
    if also is not None:
        parts["also"] = also
    return parts


def change_parts(call: str, path: str, to: str) -> tuple[str, dict[str, Any]]:
    """The event's class and its `file` object."""
    if to:
        return "file.rename", {
            "path": path,
            "op": "link" if call.startswith("link") else "rename",
            "to": to,
        }
    if call in _DELETES:
        return "file.delete", {"path": path, "op": "delete"}
    return "file.open", {"path": path, "op": "truncate", "access": "write"}


def _descriptor_path(pid: int, fd: int) -> list[str]:
    try:
        path = os.readlink(f"/proc/{pid}/fd/{fd}").removesuffix(" (deleted)")
    except OSError:
        return []
    return [readable(os.fsencode(path))]
