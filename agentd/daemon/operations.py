"""What the control socket can be asked: the operations behind the commands."""

import os
import time
from functools import partial
from typing import Any

from agentd import __version__, paths
from agentd.daemon.control import Control, Peer, Refused
from agentd.daemon.descriptors import open_files
from agentd.daemon.dispatch import Dispatch
from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.labelling import Labelling
from agentd.daemon.reloads import Reloads
from agentd.daemon.report import Reporter
from agentd.enforce.approvals import Approvals
from agentd.errors import AgentdError
from agentd.events.journal import Journal
from agentd.kernel.maps import KernelMaps
from agentd.workloads.sessions import Session, SessionError
from agentd.workloads.task import TaskError, read_task


class Operations:
    """Registers a handler for each operation of the contract with the control socket."""

    def __init__(  # noqa: PLR0917 (one of each of the engine's parts)
        self,
        control: Control,
        kernel: KernelMaps,
        labelling: Labelling,
        policy: PolicyInForce,
        approvals: Approvals,
        journal: Journal,
        dispatch: Dispatch,
        reloads: Reloads,
        reporter: Reporter,
    ) -> None:
        self._control = control
        self._kernel = kernel
        self._labelling = labelling
        self._policy = policy
        self._approvals = approvals
        self._journal = journal
        self._dispatch = dispatch
        self._reloads = reloads
        self._reporter = reporter
        control.handlers |= {
            "ping": self._ping,
            "run": self._run,
            "ps": self._ps,
            "holds": self._holds,
            "approve": self._approve,
            "deny": self._deny,
            "reload": self._reload,
            "status": self._status,
        }

    def _ping(self, _peer: Peer, _request: dict[str, Any]) -> dict[str, Any]:
        return {
            "version": __version__,
            "boot": paths.boot_id(),
            "pid": os.getpid(),
            "tier": self._reporter.tier,
        }

    def _run(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        """Labels the calling process itself, nobody else."""
        given = request.get("task")
        try:
            task = read_task(given) if given else None
        except TaskError as error:
            raise Refused("bad-request", f"task: {error}") from error
        peer.must_run()
        self._refuse_open_files(peer.pid, str(request["workload"]))
        try:
            session = self._labelling.run(peer.pid, str(request["workload"]), task)
        except SessionError as error:
            raise Refused("denied", str(error)) from error
        except AgentdError as error:
            raise Refused("not-found", str(error)) from error
        return {
            "session": session.id,
            "workload": session.workload,
            "posture": session.posture,
        }

    def _refuse_open_files(self, pid: int, name: str) -> None:
        """What is open already is judged here: of it the kernel sees no open any more."""
        workload = self._policy.workloads.get(name)
        if workload is None or workload.posture != "enforce":
            return
        for file in open_files(pid):
            subject = {"path": file.path, "access": file.access}
            decision = self._policy.evaluator.evaluate("file.open", name, subject)
            if decision is not None and decision.verdict in {"deny", "kill"}:
                raise Refused(
                    "denied",
                    f"descriptor {file.fd} is {file.path}, which rule {decision.rule} denies;"
                    " close it first",
                )

    def _ps(self, _peer: Peer, _request: dict[str, Any]) -> dict[str, Any]:
        self._labelling.synchronize()
        by_workload: dict[str, list[Session]] = {}
        for session in self._labelling.registry:
            by_workload.setdefault(session.workload, []).append(session)
        names = {**self._policy.workloads, **dict.fromkeys(by_workload)}
        workloads = []
        for name in names:
            sessions = by_workload.get(name, [])
            known = self._policy.workloads.get(name)
            posture = known.posture if known else sessions[0].posture
            workloads.append(
                {
                    "name": name,
                    "posture": posture,
                    "sessions": [self._describe(session) for session in sessions],
                }
            )
        return {"workloads": workloads}

    def _describe(self, session: Session) -> dict[str, Any]:
        tree = self._labelling.table.tree(session.processes)
        return {
            "id": session.id,
            "task": session.task,
            "labels": sorted(session.labels),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.started_ns / 1e9)),
            "cgroup": session.cgroup,
            "processes": [
                {
                    "pid": info.key.tgid,
                    "ppid": info.ppid,
                    "depth": depth,
                    "exe": info.exe,
                    "argv": list(info.argv),
                }
                for depth, info in tree
            ],
        }

    def _holds(self, peer: Peer, _request: dict[str, Any]) -> dict[str, Any]:
        self._control.may_look(peer)
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return {
            "holds": [
                {"id": each.id, "age_s": round((now - each.since_ns) / 1e9, 1), **each.describe}
                for each in self._approvals.all()
            ]
        }

    def _approve(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        return self._decide(peer, request, "allow")

    def _deny(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        return self._decide(peer, request, "deny")

    def _decide(self, peer: Peer, request: dict[str, Any], verdict: str) -> dict[str, Any]:
        self._control.may_decide(peer)
        hold_id = str(request["id"])
        approver = f"uid {peer.uid}"
        note = request.get("note")
        if note:
            approver += f": {str(note)[:200]}"
        if not self._approvals.answer(hold_id, verdict, approver):
            raise Refused("not-found", f"no call {hold_id} is held; it may have timed out")
        return {"id": hold_id, "verdict": verdict}

    def _reload(self, peer: Peer, _request: dict[str, Any]) -> None:
        """Answers when the rules have been read, and the loop goes on meanwhile."""
        self._control.may_decide(peer)
        self._reloads.request(partial(self._control.answer, peer))

    def _status(self, _peer: Peer, _request: dict[str, Any]) -> dict[str, Any]:
        stats = self._journal.stats()
        return {
            "counters": {
                "sessions": len(self._labelling.registry),
                "holds": len(self._approvals),
                "records": self._dispatch.records,
                "seq": stats.seq,
                "journal_written": stats.written,
                "journal_dropped": stats.dropped,
                "journal_bytes": stats.file_bytes,
            },
            "journal": str(stats.status),
            "cgroups": self._labelling.cgroup_finding,
        }
