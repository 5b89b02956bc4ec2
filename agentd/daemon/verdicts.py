"""Verdicts on what is not an MCP message, and how they are carried out on this tier."""

from collections.abc import Callable, Iterable
from errno import EPERM
from typing import Any

from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.report import Reporter
from agentd.enforce.approvals import Approvals, Waiting
from agentd.enforce.stops import Stops, kill_process, kill_session
from agentd.kernel.maps import HoldValue, KernelMaps
from agentd.policy.evaluator import Decision
from agentd.policy.rules import ACTION_RANK
from agentd.workloads.identity import ProcessInfo, ProcessKey, same_start
from agentd.workloads.sessions import Session

Answer = Callable[[int], None]
_STOPPING = frozenset({"deny", "hold", "kill"})


class Verdicts:
    """Judges, and acts: a stopped process goes on or dies, one that has acted already dies."""

    def __init__(
        self,
        kernel: KernelMaps,
        stops: Stops,
        approvals: Approvals,
        policy: PolicyInForce,
        reporter: Reporter,
    ) -> None:
        self._kernel = kernel
        self._stops = stops
        self._approvals = approvals
        self._policy = policy
        self._reporter = reporter
        self.persist: Callable[[], None] = lambda: None

    def judge(
        self,
        on: str,
        session: Session,
        info: ProcessInfo,
        subject: dict[str, Any],
        named: str | None = None,
    ) -> Decision | None:
        """What the rules say of one event; the marks it leaves are set on the session.

        Conditions see the process as `event.process`. `named` as in `Evaluator.evaluate`.
        """
        evaluator = self._policy.evaluator
        if not evaluator.wants(on, session.workload):
            return None
        decision = evaluator.evaluate(on, session.workload, subject, session, named, process=info)
        if decision is not None and decision.marks:
            self.mark(session, decision)
        return decision

    def mark(self, session: Session, decision: Decision) -> None:
        """Sets the labels that a decision leaves; they survive this process once it returns."""
        if not session.labels.issuperset(decision.marks):
            session.labels.update(decision.marks)
            self.persist()

    def settle(  # noqa: PLR0917 (a hold and its event)
        self,
        cls: str,
        parts: dict[str, Any],
        decision: Decision | None,
        hold: HoldValue,
        session: Session,
        info: ProcessInfo,
        answer: Answer | None = None,
    ) -> None:
        """The verdict on a stopped process, carried out now or when a person has answered.

        `answer` tells the kernel the result of the call that is held (0: it goes on, else a
        negative errno); without it only the death of the process keeps it from going on.
        """

        def carry_out(verdict: str, outcome: str, extra: dict[str, Any]) -> None:
            if outcome == "gone":
                pass
            elif verdict == "allow" or (verdict == "deny" and answer is not None):
                if answer is not None:
                    answer(0 if verdict == "allow" else -EPERM)
                if verdict == "deny" and outcome not in {"timeout", "cancelled"}:
                    outcome = "denied"
                self._stops.go_on(hold)
            else:
                outcome = outcome if outcome == "timeout" else "killed"
                if decision is not None and decision.kill_scope == "session":
                    kill_session(self._kernel, session.number)  # before anybody sees one die
                self._stops.kill(hold)
            if decision is None and answer is not None and verdict == "allow":
                return  # the open, the exec is told by itself
            described = None
            if decision is not None:
                described = self._reporter.describe(
                    decision, session, before_effect=True, outcome=outcome
                )
                described["hold_us"] = (self._reporter.clock.now() - hold.time_ns) // 1000
                described |= extra
                if outcome == "timeout":
                    described["on_timeout"] = verdict
            self._reporter.session_event(cls, hold.time_ns, session, info, parts, described)

        binding = decision is not None and session.posture == "enforce"
        if decision is None or not binding or decision.verdict not in _STOPPING:
            carry_out("allow", "allowed", {})
        elif decision.verdict == "hold":
            self._wait(parts, decision, hold, session, info, carry_out)
        else:
            carry_out(decision.verdict, "killed", {})

    def after_effect(
        self, decision: Decision | None, session: Session, info: ProcessInfo
    ) -> dict[str, Any] | None:
        """Acts on what has happened already: deny and kill end the process. The event's part.

        Not where the kernel has decided before: what it let pass has been allowed.
        """
        if decision is None or (
            decision.rule in self._policy.enforced and session.posture == "enforce"
        ):
            return None
        outcome = "allowed"
        if session.posture == "enforce" and decision.verdict in {"deny", "kill"}:
            outcome = "killed"
            self.kill(decision, session, info)
        return self._reporter.describe(decision, session, before_effect=False, outcome=outcome)

    def kill(self, decision: Decision, session: Session, info: ProcessInfo) -> None:
        """Kills the process, or its whole session where the rule says so."""
        if decision.kill_scope == "session":
            kill_session(self._kernel, session.number)
        else:
            # The label's own start time: one that was read from /proc is coarser.
            label = self._kernel.label_of(info.key.tgid)
            if label and same_start(info.key, ProcessKey(info.key.tgid, label.start_ns)):
                kill_process(self._kernel, info.key.tgid, label.start_ns)

    def _wait(  # noqa: PLR0917
        self,
        parts: dict[str, Any],
        decision: Decision,
        hold: HoldValue,
        session: Session,
        info: ProcessInfo,
        carry_out: Any,
    ) -> None:
        hold_id = self._approvals.next_id()

        def resolve(verdict: str, outcome: str, approver: str | None) -> None:
            extra = {"hold_id": hold_id}
            if approver:
                extra["approver"] = approver
            carry_out(verdict, outcome, extra)

        self._approvals.add(waiting_call(hold_id, hold, decision, session, info, parts, resolve))
        opened = self._reporter.describe(decision, session, before_effect=True, outcome="held")
        opened["hold_id"] = hold_id
        self._reporter.session_event("hold.open", hold.time_ns, session, info, parts, opened)


def worst(decisions: Iterable[Decision | None]) -> Decision | None:
    """The most severe of several decisions on one event, the first of equals."""
    made = [decision for decision in decisions if decision is not None]
    return max(made, key=lambda decision: ACTION_RANK[decision.verdict], default=None)


def waiting_call(  # noqa: PLR0917
    hold_id: str,
    hold: HoldValue,
    decision: Decision,
    session: Session,
    info: ProcessInfo,
    parts: dict[str, Any],
    resolve: Any,
) -> Waiting:
    """The entry in the list of waiting calls, with what a person needs to judge it."""
    timeout = decision.timeout_s or 0.0
    on_timeout = decision.on_timeout or "deny"
    return Waiting(
        id=hold_id,
        tgid=hold.tgid,
        since_ns=hold.time_ns,
        deadline_ns=hold.time_ns + int(timeout * 1e9),
        on_timeout=on_timeout,
        describe={
            "workload": session.workload,
            "session": session.id,
            "rule": decision.rule,
            "reason": decision.reason,
            "subject": parts,
            "process": info.to_dict(),
            "timeout_s": timeout,
            "on_timeout": on_timeout,
        },
        resolve=resolve,
    )
