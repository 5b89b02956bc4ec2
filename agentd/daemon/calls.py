"""Calls that the kernel has refused by itself, and calls that it holds until they are judged."""

from errno import EPERM
from functools import partial
from typing import Any, Final

from agentd.daemon import endpoints, sidedoors
from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.places import path_of
from agentd.daemon.report import Reporter
from agentd.daemon.verdicts import Verdicts, worst
from agentd.enforce.stops import kill_session
from agentd.kernel.decide_wire import (
    ACT_READ,
    ACT_WRITE,
    ACTION_TELL,
    HOOK_ATTRIBUTES,
    HOOK_BIND,
    HOOK_CONNECT,
    HOOK_DELETE,
    HOOK_EXEC,
    HOOK_INTERPRETER,
    HOOK_LINK,
    HOOK_MAP,
    HOOK_OPEN,
    HOOK_RECEIVE,
    HOOK_RENAME,
    HOOK_SEND,
    HOOK_SOCKET,
    HOOK_TRUNCATE,
    NO_RULE,
    REFUSAL,
    SOCKET_RULE_BASE,
)
from agentd.kernel.decisions import Decisions
from agentd.kernel.maps import HoldValue, KernelMaps
from agentd.policy.evaluator import Decision
from agentd.policy.own import REASON, SELF
from agentd.workloads.identity import ProcessInfo
from agentd.workloads.sessions import Session

_OPS: Final = {
    HOOK_OPEN: "open",
    HOOK_MAP: "map",
    HOOK_RECEIVE: "receive",
    HOOK_TRUNCATE: "truncate",
    HOOK_ATTRIBUTES: "attributes",
    HOOK_DELETE: "delete",
    HOOK_LINK: "link",
    HOOK_RENAME: "rename",
}
_CLASSES: Final = {
    HOOK_DELETE: "file.delete",
    HOOK_LINK: "file.rename",
    HOOK_RENAME: "file.rename",
    HOOK_EXEC: "process.exec",
    HOOK_INTERPRETER: "process.exec",
}
_SOCKETS: Final = frozenset({HOOK_CONNECT, HOOK_SEND, HOOK_BIND, HOOK_SOCKET})

_ITSELF: Final = {
    "verdict": "deny",
    "rules": [SELF],
    "reason": REASON,
    "severity": "critical",
    "tags": [],
    "before_effect": True,
    "outcome": "denied",
}


class Calls:
    """Turns refusals and held calls into events and verdicts."""

    def __init__(
        self,
        kernel: KernelMaps,
        decisions: Decisions | None,
        policy: PolicyInForce,
        verdicts: Verdicts,
        reporter: Reporter,
    ) -> None:
        self._kernel = kernel
        self._decisions = decisions
        self._policy = policy
        self._verdicts = verdicts
        self._reporter = reporter

    def on_refusal(self, record: bytes, session: Session, info: ProcessInfo) -> None:
        """The kernel has refused a call, and killed its process where the rule says so."""
        fields = REFUSAL.unpack_from(record)
        time_ns, count = fields[3], fields[8]
        ino, device, hook, acts, action, number, version, path_len, to_len = fields[10:19]
        at = REFUSAL.size + path_len
        path = path_of(record[REFUSAL.size : at])
        to = path_of(record[at : at + to_len]) if to_len else ""
        rule = self._policy.socket_rule(version, number)
        if hook in sidedoors.HOOKS:
            cls, parts, subject = sidedoors.described(hook, acts, path, *fields[19:])
        else:
            cls, parts, subject = _described(hook, acts, path, to, info)
        if "file" in parts:
            parts["file"] |= {"ino": ino, "dev": f"{device >> 20}:{device & 0xFFFFF}"}
        if rule == SELF:
            itself = {**_ITSELF, "tier": self._reporter.tier}
            self._reporter.session_event(cls, time_ns, session, info, parts, itself, count)
            return
        decision = self._verdicts.judge(cls, session, info, subject, rule)
        if action == ACTION_TELL:
            if decision is not None:
                told = self._reporter.describe(
                    decision, session, before_effect=True, outcome="allowed"
                )
                self._reporter.session_event(cls, time_ns, session, info, parts, told, count)
            return
        if decision is not None and decision.kill_scope == "session":
            kill_session(self._kernel, session.number)
        outcome = "killed" if decision is not None and decision.verdict == "kill" else "denied"
        described: dict[str, Any] = {
            "verdict": "deny",
            "rules": [rule],
            "reason": "refused by a rule that has been replaced since",
            "tier": self._reporter.tier,
            "before_effect": True,
            "outcome": "denied",
        }
        if decision is not None:
            described = self._reporter.describe(
                decision, session, before_effect=True, outcome=outcome
            )
            described["rules"] = list(dict.fromkeys([*decision.rules, rule]))
        self._reporter.session_event(cls, time_ns, session, info, parts, described)

    def on_hold(self, hold: HoldValue, session: Session, info: ProcessInfo, names: bytes) -> None:
        """A thread is held at the entry of a call, which the kernel starts again when it is judged.

        `names` is what followed the hold in the ring; b"" where that is lost.
        """
        if hold.syscall in _SOCKETS:
            self._on_socket_hold(hold, session, info, names)
            return
        path = path_of(names[: hold.length])
        to = path_of(names[hold.length : hold.length + hold.iovcnt]) if hold.iovcnt else ""
        if hold.syscall in sidedoors.HOOKS:
            target, detail = hold.ino & 0xFFFFFFFF, hold.ino >> 32
            cls, parts, subject = sidedoors.described(
                hold.syscall, hold.access, path, target, detail
            )
        else:
            cls, parts, subject = _described(hold.syscall, hold.access, path, to, info)
        answer = partial(self._answer, hold)
        if not names and hold.syscall not in sidedoors.PATHLESS:
            self._verdicts.settle(cls, parts, None, hold, session, info, lambda _: answer(-EPERM))
            return  # what it is about is not known here
        if hold.dev == NO_RULE:
            self._policy.watched.leaves(path)
            decision = None
        else:
            rule = self._policy.path_rule(self._policy.version, hold.dev)
            decision = self._judge(cls, session, info, subject, hold.access, rule)
        self._verdicts.settle(cls, parts, decision, hold, session, info, answer)

    def _on_socket_hold(
        self, hold: HoldValue, session: Session, info: ProcessInfo, names: bytes
    ) -> None:
        cls, network = endpoints.class_of(hold.syscall), endpoints.held(hold, names)
        answer = partial(self._answer, hold)
        if network is None:
            lost = {"network": endpoints.unix("")}
            self._verdicts.settle(cls, lost, None, hold, session, info, lambda _: answer(-EPERM))
            return
        rule = self._policy.socket_rule(self._policy.version, hold.dev)
        # The kernel has not compared the names of Unix sockets, but what it knows by other means.
        named = None if network["family"] == "unix" and hold.dev >= SOCKET_RULE_BASE else rule
        decision = self._verdicts.judge(cls, session, info, network, named)
        self._verdicts.settle(cls, {"network": network}, decision, hold, session, info, answer)

    def _judge(  # noqa: PLR0917 (what a call is)
        self,
        cls: str,
        session: Session,
        info: ProcessInfo,
        subject: dict[str, Any],
        acts: int,
        rule: str,
    ) -> Decision | None:
        """An open for reading and writing is judged as both."""
        if cls != "file.open":
            return self._verdicts.judge(cls, session, info, subject, rule)
        return worst(
            self._verdicts.judge(cls, session, info, {**subject, "access": access}, rule)
            for act, access in ((ACT_WRITE, "write"), (ACT_READ, "read"))
            if acts & 1 << act
        )

    def _answer(self, hold: HoldValue, result: int) -> None:
        if self._decisions is not None:
            self._decisions.answer(hold, result, self._reporter.clock.now())


def _described(
    hook: int, acts: int, path: str, to: str, info: ProcessInfo
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The event's class, its own parts, and the subject as the rules see it."""
    if hook in _SOCKETS:
        network = endpoints.unix(path)
        return endpoints.class_of(hook), {"network": network}, network
    cls = _CLASSES.get(hook, "file.open")
    if cls == "process.exec":
        argv = info.argv
        subject: dict[str, Any] = {"exe": path, "filename": path, "argv": argv}
        return cls, {"exec": dict(subject)}, subject
    subject = {"path": path, "op": _OPS.get(hook, "open")}
    if to:
        subject["to"] = to
    if cls == "file.open":
        subject["access"] = "write" if acts & 1 << ACT_WRITE else "read"
    return cls, {"file": dict(subject)}, subject
