"""MCP messages: from bytes that a task has received to a verdict and its effect."""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterable
from errno import EPERM
from functools import partial
from typing import Any

from agentd.daemon.channels import Channel, Channels
from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.labelling import Labelling
from agentd.daemon.refusing import (
    UNJUDGED,
    Held,
    breaks_unseen,
    denied_lines,
    lengthen,
    refuse,
)
from agentd.daemon.report import Reporter
from agentd.daemon.transcript import Judged, Transcript
from agentd.daemon.verdicts import Verdicts, waiting_call
from agentd.enforce import answers
from agentd.enforce.approvals import Approvals, Resolve
from agentd.enforce.stops import Stops, is_stopped
from agentd.kernel import memory, peek
from agentd.kernel.maps import HoldValue
from agentd.kernel.wire import DATA_INSIDE, DATA_LOST, DATA_WHOLE
from agentd.mcp import jsonrpc
from agentd.mcp.connection import Observation
from agentd.mcp.jsonrpc import Message
from agentd.mcp.stream import Line, MessageStream
from agentd.policy.evaluator import SessionView
from agentd.workloads.identity import ProcessInfo, same_start
from agentd.workloads.procfs import current_key
from agentd.workloads.sessions import Session

_BREAKER = b"!"
_UNANSWERED = frozenset({"broken", "blank"})
_UNDONE_BY_KILL = frozenset({"allowed", "denied", "timeout"})


class _UpToDate:
    """A session for conditions: before they see its marks, what it did before is taken in."""

    def __init__(self, session: Session, catch_up: Callable[[], None]) -> None:
        self.id, self.posture, self.task = session.id, session.posture, session.task
        self._session = session
        self._catch_up = catch_up

    @property
    def labels(self) -> set[str]:
        """The marks that rules have set until now."""
        self._catch_up()
        return self._session.labels


class Messages:
    """Judges what labelled tasks receive over pipes and Unix sockets."""

    def __init__(  # noqa: PLR0917 (one of each of the engine's parts)
        self,
        labelling: Labelling,
        channels: Channels,
        stops: Stops,
        approvals: Approvals,
        policy: PolicyInForce,
        verdicts: Verdicts,
        reporter: Reporter,
    ) -> None:
        self._labelling = labelling
        self._channels = channels
        self._stops = stops
        self._approvals = approvals
        self._policy = policy
        self._verdicts = verdicts
        self._reporter = reporter
        self._transcript = Transcript(reporter)
        self._untold: deque[tuple[Held, int]] = deque()
        self.catch_up: Callable[[], None] = lambda: None
        self.beat: Callable[[], None] = lambda: None
        """Says that somebody judges, where a read with many messages takes long."""

    def on_data(  # noqa: PLR0917 (the fields of a record)
        self,
        session: Session,
        info: ProcessInfo,
        time_ns: int,
        ino: int,
        peer_ino: int,
        flags: int,
        data: bytes,
    ) -> None:
        """Bytes that were read and not held: observed, judged after the fact."""
        channel = self._channels.get(ino, peer_ino, info)
        stream = channel.stream
        if flags & DATA_WHOLE:
            stream = MessageStream()  # reads after this one may have come already, through holds
        elif flags:
            stream = channel.resume(lost=bool(flags & DATA_LOST), inside=bool(flags & DATA_INSIDE))
        for judged in self.judge(channel, stream, session, info, data, time_ns):
            decision = judged.decision
            if decision and judged.verdict == "kill":  # for less it is too late
                judged.outcome = "killed"
                self._verdicts.kill(decision, session, info)
            self._transcript.message(judged, session, info, channel, time_ns, None)

    def on_hold(self, hold: HoldValue, copied: bytes = b"") -> None:
        """A task that stopped with a received message in its buffer.

        `copied` is what followed the hold in the ring: what was read, where that is short.
        """
        if not self._stops.take(hold):
            return
        session = self._labelling.registry.by_number(hold.session)
        if session is None:
            self._stops.go_on(hold)
            return
        info = self._labelling.process(hold.tgid, hold.start_ns, session)
        try:
            pieces = memory.segments(hold.tgid, hold.address, hold.length, hold.iovcnt)
            data = copied or memory.read(hold.tgid, pieces)
        except OSError as error:
            outcome = "killed" if self._stops.kill(hold) else "gone"
            self._transcript.unreadable(hold, session, info, outcome, str(error))
            return
        channel = self._channels.get(hold.ino, hold.peer_ino, info)
        inside = bool(hold.access & DATA_INSIDE)
        cut = inside != bool(channel.stream.framer.pending_size)
        if cut or channel.role == "client" or not channel.is_mcp:
            self.catch_up()  # what was read before was not held; nor what this answers
        stream = channel.resume(lost=bool(hold.access & DATA_LOST), inside=inside)
        unseen, too_long = 0, stream.framer.oversized
        if not stream.framer.synced:
            unseen = data.find(b"\n") if b"\n" in data else len(data)
        view = _UpToDate(session, self.catch_up)
        judged = self.judge(channel, stream, session, info, data, hold.time_ns, view, held=True)
        if not stream.framer.synced:
            unseen = len(data)
        elif stream.framer.oversized != too_long:
            unseen = data.rfind(b"\n")
        self.settle(Held(hold, session, info, channel, pieces, data, unseen, judged))

    def settle(self, held: Held) -> None:
        """Carries the verdicts out, now or when people have decided.

        What is to be killed is not kept waiting by a call that came with it.
        """
        verdicts = {judged.verdict for judged in held.judged}
        if "hold" in verdicts and "kill" not in verdicts:
            self._wait_for_people(held)
        if not held.undecided:
            self._finish(held)

    def judge(  # noqa: PLR0917 (bytes, whose, and where they are from)
        self,
        channel: Channel,
        stream: MessageStream,
        session: Session,
        info: ProcessInfo,
        data: bytes,
        time_ns: int,
        view: SessionView | None = None,
        *,
        held: bool = False,
    ) -> list[Judged]:
        """What policy says of the messages that `data` completes; marks are set.

        `view`: what conditions see instead of the session itself. `held`: what cannot be judged can
        be refused.
        """
        judged: list[Judged] = []
        for line in stream.feed(data, self.beat):
            known = False
            if judged:
                self.beat()
            if held and line.garbled and channel.is_mcp and channel.role == "server":
                line.messages = [Message("invalid", anomalies=("unreadable",))]
            for index, message in enumerate(line.messages):
                self._channels.learn(channel, message)
                if not channel.is_mcp:
                    continue
                known = True
                seen = channel.conversation.observe(message, channel.role or "server", time_ns)
                decision = self._policy.evaluator.evaluate(
                    f"mcp.{message.kind}",
                    session.workload,
                    self._subject(channel, message, seen),
                    view or session,
                )
                if held and not jsonrpc.UNJUDGED.isdisjoint(message.anomalies):
                    refused = decision is not None and decision.verdict in {"deny", "kill"}
                    decision = decision if refused else UNJUDGED
                if decision and decision.marks:
                    self._verdicts.mark(session, decision)
                each = Judged(line, index, message, seen, decision)
                if decision and session.posture == "enforce":
                    each.verdict = decision.verdict
                judged.append(each)
            if not known:
                self._noise(channel, session, info, line, time_ns)
        return judged

    @staticmethod
    def _subject(channel: Channel, message: Message, seen: Observation) -> dict[str, Any]:
        server = channel.server
        return {
            "method": seen.method,
            "tool": seen.tool,
            "server": server.name if server else "",
            "arguments": seen.arguments,
            "params": message.params,
            "result": message.result,
            "direction": seen.direction,
            "error": seen.error,
            "is_error": seen.is_error,
            "anomalies": list(seen.anomalies),
        }

    def _wait_for_people(self, held: Held) -> None:
        for judged in held.judged:
            decision = judged.decision
            if judged.verdict != "hold" or decision is None:
                continue
            if _cancelled_by(judged, (each.message for each in held.judged)):
                judged.verdict, judged.outcome = "deny", "cancelled"
                continue
            held.undecided += 1
            judged.hold_id = self._approvals.next_id()
            parts = self._transcript.opened(
                judged, held.session, held.info, held.channel, held.hold.time_ns
            )
            waiting = waiting_call(
                judged.hold_id,
                held.hold,
                decision,
                held.session,
                held.info,
                parts,
                self._resolver(held, judged),
            )
            if held.answer is None:  # a write is held again by the kernel if it is woken
                waiting.overtaken = partial(self._overtaken, held, judged)
            self._approvals.add(waiting)

    def _resolver(self, held: Held, judged: Judged) -> Resolve:
        def resolve(verdict: str, outcome: str, approver: str | None) -> None:
            judged.verdict = verdict
            judged.outcome = outcome
            judged.approver = approver
            held.undecided -= 1
            if not held.undecided:
                self._finish(held)

        return resolve

    @staticmethod
    def _overtaken(held: Held, judged: Judged) -> tuple[str, str] | None:
        """Whether a held request is cancelled, its client is gone, or its server was woken."""
        hold = held.hold
        if not is_stopped(hold.tgid, hold.tid):
            if current_key(hold.tgid) is None:
                return "deny", "gone"
            return (
                ("kill", "killed") if held.session.on_failure == "deny" else ("allow", "released")
            )
        ahead = peek.look_ahead(hold.tgid, hold.fd)
        if ahead is None:
            return None
        client = held.channel.client
        forsaken = ahead.closed and client is not None and not _lives(client.info)
        messages = (each for line in ahead.data.split(b"\n") for each in jsonrpc.parse(line))
        if forsaken or (b"cancelled" in ahead.data and _cancelled_by(judged, messages)):
            return "deny", "cancelled"
        return None

    def _finish(self, held: Held) -> None:
        """Carries the verdicts out and lets the task go on; `tell` is for later."""
        if held.passes:
            self._stops.go_on(held.hold)
        else:
            self._carry_out(held)
        now = self._reporter.clock.now()
        self._untold.append((held, (now - held.hold.time_ns) // 1000))

    def _carry_out(self, held: Held) -> None:
        killers = [each for each in held.judged if each.verdict == "kill"]
        if any(each.outcome == "gone" for each in held.judged):
            self._stops.kill(held.hold)  # of its threads one may still be there
        elif killers:
            self._kill(held, killers)
        elif self._rewrite(held):
            if held.answer is not None:
                held.answer(0)
            self._stops.go_on(held.hold)
        elif held.answer is not None:
            held.answer(-EPERM)
            self._stops.go_on(held.hold)
        else:
            self._kill(held, [])

    def tell(self, until_ns: int = sys.maxsize) -> bool:
        """Writes down the oldest judged read; False if none is left from `until_ns` or before."""
        if not self._untold or self._untold[0][0].hold.time_ns > until_ns:
            return False
        held, hold_us = self._untold.popleft()
        for judged in held.judged:
            self.beat()
            self._transcript.message(
                judged, held.session, held.info, held.channel, held.hold.time_ns, hold_us
            )
        return True

    def _kill(self, held: Held, killers: list[Judged]) -> None:
        for judged in held.judged:
            if judged.outcome in _UNDONE_BY_KILL:
                judged.outcome = "killed"
        self._stops.kill(held.hold)
        for each in killers:
            if each.decision:
                self._verdicts.kill(each.decision, held.session, held.info)

    def _rewrite(self, held: Held) -> bool:
        """Puts refusals in the place of denied messages. False if the process must be killed."""
        refused = denied_lines(held.judged)
        if not (refused or held.first or held.unseen):
            return True
        data = bytearray(held.data)
        unanswered: list[Judged] = []
        for line, denied in refused:
            self.beat()
            level = refuse(data, line, denied)
            if level == "none":
                return False
            if level in _UNANSWERED:
                unanswered += denied
        if held.first:
            lengthen(held, data)
        if held.unseen and breaks_unseen(held):
            data[: held.unseen] = _BREAKER * held.unseen
        if data == held.data:
            return True
        done = self._overwrite(held, bytes(data))
        if done and unanswered and held.answer is None:
            self._answer(held, unanswered)
        return done

    def _overwrite(self, held: Held, data: bytes) -> bool:
        try:
            memory.overwrite(held.hold.tgid, held.pieces, data)
        except OSError:
            return False
        if held.answer is not None:
            held.data = data
            return True
        # Somebody may have woken it before: then it has seen what was in its buffer.
        return self._stops.is_held(held.hold)

    def _answer(self, held: Held, unanswered: list[Judged]) -> None:
        """Tells the client what the broken remains of its requests cannot make the server say."""
        lines = []
        for judged in unanswered:
            decision = judged.decision
            asks = judged.message.kind == "request" or (
                decision is UNJUDGED and judged.message.id is not None
            )
            if asks and decision is not None:
                with contextlib.suppress(TypeError):  # an id of no JSON type, or too large
                    lines.append(
                        answers.error_line(judged.message.id, decision.rule, decision.reason)
                    )
        fd = self._channels.reply_fd(held.channel, held.hold.fd) if lines else None
        if fd is not None:
            answers.answer(held.hold.tgid, fd, lines)

    def _noise(
        self, channel: Channel, session: Session, info: ProcessInfo, line: Line, time_ns: int
    ) -> None:
        self._channels.not_mcp(channel)
        if channel.is_mcp and not self._channels.quiet(channel):
            self._transcript.noise(channel, session, info, line, time_ns)


def _cancelled_by(judged: Judged, messages: Iterable[Message]) -> bool:
    """Whether one of the messages cancels this request."""
    wanted = judged.message.id
    for message in messages:
        if message.method == "notifications/cancelled" and isinstance(message.params, dict):
            cancelled = message.params.get("requestId")
            if cancelled == wanted and type(cancelled) is type(wanted):
                return True
    return False


def _lives(info: ProcessInfo) -> bool:
    key = current_key(info.key.tgid)
    return key is not None and same_start(key, info.key)
