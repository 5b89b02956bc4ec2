"""Where events go from the engine: the journal, live watchers, the daemon's own terminal."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from agentd.events.journal import Journal
from agentd.events.model import fragment
from agentd.kernel.tier import OBSERVE
from agentd.policy.evaluator import Decision
from agentd.workloads.identity import ProcessInfo
from agentd.workloads.sessions import Session

Listener = Callable[[bytes], None]


class Clock:
    """CLOCK_BOOTTIME to nanoseconds since the epoch; the offset follows clock adjustments."""

    def __init__(self) -> None:
        self.adjust()

    def adjust(self) -> None:
        """Follows the wall clock after it was set."""
        self._offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def epoch(self, boot_ns: int) -> int:
        """Nanoseconds since the epoch of a time of CLOCK_BOOTTIME."""
        return boot_ns + self._offset

    @staticmethod
    def now() -> int:
        """CLOCK_BOOTTIME, as in the kernel's records."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Reporter:
    """Numbers events, hands them to whoever listens."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self.clock = clock
        self.tier = OBSERVE
        self._listeners: list[Listener] = []
        self._tasks: dict[str, orjson.Fragment] = {}

    def listen(self, listener: Listener) -> None:
        """`listener` gets the JSON bytes of every event from now on; it must not raise."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Ends `listen`."""
        self._listeners.remove(listener)

    def session_event(  # noqa: PLR0917 (the parts of an envelope)
        self,
        cls: str,
        boot_ns: int,
        session: Session,
        process: ProcessInfo | None,
        parts: dict[str, Any],
        decision: dict[str, Any] | None = None,
        count: int = 1,
    ) -> None:
        """An event of a session's process, at `boot_ns` (CLOCK_BOOTTIME)."""
        body: dict[str, Any] = {"posture": session.posture}
        if session.task:
            body["task"] = self._task(session)
        if process is not None:
            body["process"] = process.fragment
        body |= parts
        if count > 1:
            body["count"] = count
        verdict = None
        rules: Iterable[str] = ()
        if decision is not None:
            body["decision"] = decision
            verdict = decision["verdict"]
            rules = decision["rules"]
        time_ns = self.clock.epoch(boot_ns)
        self._tell(
            self._journal.append(cls, time_ns, session.workload, session.id, body, verdict, rules)
        )

    def daemon_event(self, cls: str, parts: dict[str, Any], workload: str | None = None) -> None:
        """An event of agentd itself, now."""
        self._tell(self._journal.append(cls, time.time_ns(), workload, None, parts))

    def released(
        self, released: dict[str, Any], session: Session, process: ProcessInfo | None
    ) -> None:
        """A hold that was resolved without the engine, as `StandIn.release_all` tells it."""
        decision = {
            "verdict": "allow" if released["outcome"] == "released" else "deny",
            "rules": ["engine-down"],
            "reason": "the engine was down; the workload's on_failure decided",
            "tier": self.tier,
            "before_effect": True,
            "outcome": released["outcome"],
            "hold_us": released["hold_us"],
        }
        self.session_event("hold.decided", self.clock.now(), session, process, {}, decision)

    def describe(
        self, decision: Decision, session: Session, *, before_effect: bool, outcome: str
    ) -> dict[str, Any]:
        """The `decision` object of an event; hold fields are added by who held."""
        described: dict[str, Any] = {
            "verdict": decision.verdict,
            "rules": decision.rules,
            "reason": decision.reason,
            "severity": decision.severity,
            "tags": decision.tags,
            "tier": self.tier,
            "before_effect": before_effect,
            "outcome": outcome,
        }
        if decision.marks:
            described["marks"] = decision.marks
        if decision.errors:
            described["errors"] = decision.errors
        if session.posture != "enforce" and decision.verdict in {"deny", "hold", "kill"}:
            described["would"] = True
            described["outcome"] = "allowed"
        return described

    def flush(self) -> None:
        """Writes what is buffered, and passes on what the journal itself has to say."""
        self._journal.flush()
        for body in self._journal.take_notices():
            for listener in tuple(self._listeners):
                listener(body)

    def forget(self, session: Session) -> None:
        """The session has ended."""
        self._tasks.pop(session.id, None)

    def _tell(self, body: bytes) -> None:
        if body and self._listeners:
            for listener in tuple(self._listeners):
                listener(body)

    def _task(self, session: Session) -> orjson.Fragment:
        cached = self._tasks.get(session.id)
        if cached is None:
            cached = self._tasks[session.id] = fragment(session.task or {})
        return cached
