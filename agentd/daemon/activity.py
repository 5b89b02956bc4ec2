"""What labelled processes do besides MCP, first part: forks, execs, exits."""

import os

from agentd.daemon.files import FileActivity
from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.labelling import Labelling
from agentd.daemon.network import NetworkActivity
from agentd.daemon.places import given_path, path_of, true_path
from agentd.daemon.report import Reporter
from agentd.daemon.verdicts import Verdicts, worst
from agentd.kernel.inodes import Inode, InodeReader
from agentd.kernel.maps import HoldValue
from agentd.kernel.wire import EXEC, EXIT, FORK
from agentd.policy.evaluator import Decision
from agentd.workloads.identity import ProcessInfo, ProcessKey, bounded_argv, readable
from agentd.workloads.procfs import read_process
from agentd.workloads.sessions import Session

_FORK_SHOWN = 1
_ARGUMENTS_MAX = 4 << 20


class Activity:
    """Turns records of processes into events and verdicts; has parts for files and sockets."""

    def __init__(
        self, labelling: Labelling, policy: PolicyInForce, verdicts: Verdicts, reporter: Reporter
    ) -> None:
        self._labelling = labelling
        self._policy = policy
        self._verdicts = verdicts
        self._reporter = reporter
        self.files = FileActivity(policy, verdicts, reporter)
        self.network = NetworkActivity(labelling, policy, verdicts, reporter)

    def on_fork(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        """A labelled process has a child, which the kernel has labelled."""
        fields = FORK.unpack(record)
        time_ns, count = fields[3], fields[8]
        child_start_ns, child = fields[10], fields[11]
        key = ProcessKey(child, child_start_ns)
        entered = self._labelling.table.fork(info.key, key)
        if entered.session is None:
            entered.session = session.number
        self._labelling.registry.add_process(session, key)
        if count <= _FORK_SHOWN or not count & (count - 1):
            self._reporter.session_event(
                "process.fork", time_ns, session, info, {"fork": {"child": child}}, None, count
            )

    def on_exec(self, record: bytes, session: Session, key: ProcessKey) -> None:
        """A labelled process runs a new program; a stopped one is told by `on_exec_hold`."""
        fields = EXEC.unpack_from(record)
        time_ns, uid, comm = fields[3], fields[7], fields[9]
        parent_start_ns, _, parent, gid, *lengths, held, _ = fields[10:]
        exe_len, filename_len, args_len, cwd_len = lengths
        at = EXEC.size + exe_len
        exe = path_of(record[EXEC.size : at])
        cwd = record[at : at + cwd_len]
        at += cwd_len
        filename = record[at : at + filename_len]
        at += filename_len
        argv = bounded_argv(record[at : at + args_len])
        table = self._labelling.table
        if table.get(key) is None:
            self._labelling.enter(key, ProcessKey(parent, parent_start_ns))
        info = table.exec(key, exe, argv, readable(comm.rstrip(b"\0")), uid, gid)
        info.session = session.number
        self._labelling.registry.add_process(session, key)
        if held:
            return
        given = given_path(cwd, filename)
        decision = self._judge(session, info, given, argv)
        described = self._verdicts.after_effect(decision, session, info)
        subject = {"exe": exe, "filename": readable(given), "argv": argv}
        self._reporter.session_event(
            "process.exec", time_ns, session, info, {"exec": subject}, described
        )

    def on_exec_hold(
        self, hold: HoldValue, session: Session, info: ProcessInfo, names: bytes
    ) -> None:
        """A process that has been stopped before its new program's first instruction.

        `names` is what followed the hold in the ring; b"" where that is lost.
        """
        info = refreshed(self._labelling, hold, info)
        if names:
            exe_end = hold.length
            cwd_end = exe_end + hold.iovcnt
            given = given_path(names[exe_end:cwd_end], names[cwd_end:])
            exe = path_of(names[:exe_end])
            if exe != info.exe:
                info = self._labelling.table.exec(info.key, exe, info.argv, info.comm)
        else:
            given = os.fsencode(info.argv[0] if info.argv else info.exe)
        arguments = _arguments(hold.tgid) or info.argv
        decision = self._judge(session, info, given, arguments, hold.ino, hold.dev)
        subject = {"exe": info.exe, "filename": readable(given), "argv": info.argv}
        self._verdicts.settle("process.exec", {"exec": subject}, decision, hold, session, info)

    def on_exit(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        """The last thread of a labelled process has ended."""
        fields = EXIT.unpack(record)
        time_ns, code = fields[3], fields[10]
        ended = {"signal": code & 0x7F} if code & 0x7F else {"code": code >> 8 & 0xFF}
        self._reporter.session_event("process.exit", time_ns, session, info, {"exit": ended})
        self._labelling.table.exit(info.key, time_ns)
        last = self._labelling.registry.remove_process(info.key)
        if last is not None:
            self._labelling.ended(last)
            self.files.forget(last)
            self.network.forget(last)

    def _judge(  # noqa: PLR0917 (what an exec is)
        self,
        session: Session,
        info: ProcessInfo,
        given: bytes,
        argv: tuple[str, ...],
        ino: int = 0,
        dev: int = 0,
    ) -> Decision | None:
        """By the program that runs, by the file that was named, by the name it is watched for."""
        if not self._policy.evaluator.wants("process.exec", session.workload):
            return None
        lexical = readable(given)
        resolved = readable(true_path(given))
        subject = {"exe": info.exe, "filename": lexical, "argv": argv}
        decisions = [self._verdicts.judge("process.exec", session, info, subject)]
        if resolved != lexical:
            subject = {**subject, "filename": resolved}
            decisions.append(self._verdicts.judge("process.exec", session, info, subject))
        watched = None
        if ino:
            link = f"/proc/{info.key.tgid}/exe"
            watched = self._policy.watched.name(InodeReader().identify(Inode(ino, dev), link))
        if watched and watched != info.exe:
            subject = {**subject, "exe": watched}
            decisions.append(self._verdicts.judge("process.exec", session, info, subject))
        return worst(decisions)


def refreshed(labelling: Labelling, hold: HoldValue, info: ProcessInfo) -> ProcessInfo:
    """The stopped process with the program that it runs now, even if its exec record was lost."""
    try:
        exe = readable(os.fsencode(os.readlink(f"/proc/{hold.tgid}/exe")))
    except OSError:
        return info
    if exe == info.exe and info.argv:
        return info
    fresh = read_process(hold.tgid)
    if fresh is None or not fresh.exe:
        return info
    return labelling.table.exec(info.key, fresh.exe, fresh.argv, fresh.comm, fresh.uid, fresh.gid)


def _arguments(pid: int) -> tuple[str, ...]:
    """All arguments of a process that has not run yet: events shorten them, rules do not."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read(_ARGUMENTS_MAX)
    except OSError:
        return ()
    return tuple(map(readable, raw.removesuffix(b"\0").split(b"\0")))
