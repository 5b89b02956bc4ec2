"""MCP messages: from bytes that a task has received to a verdict, its effect and its events."""

from dataclasses import dataclass
from typing import Any

from agentd.daemon.channels import Channel, Channels
from agentd.daemon.labelling import Labelling
from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.report import Reporter, describe
from agentd.daemon.verdicts import Verdicts, waiting_call
from agentd.enforce.approvals import Approvals
from agentd.enforce.rewrite import Rewrite, deny_line
from agentd.enforce.stops import Stops
from agentd.enforce.tail import deny_tail
from agentd.kernel import memory, peek
from agentd.kernel.maps import HoldValue
from agentd.kernel.wire import DATA_LOST
from agentd.mcp import jsonrpc
from agentd.mcp.connection import Observation
from agentd.mcp.jsonrpc import Message
from agentd.mcp.stream import Line
from agentd.policy.evaluator import Decision
from agentd.workloads.identity import ProcessInfo, ProcessKey
from agentd.workloads.sessions import Session

_VALUE_ROOM = 2048
_BREAKER = b"!"
UNREADABLE = "unreadable-message"


@dataclass(slots=True)
class Judged:
    """One message of a read, what policy says of it and what became of it."""

    line: Line
    index: int
    message: Message
    seen: Observation
    decision: Decision | None
    verdict: str = "allow"
    outcome: str = "allowed"
    hold_id: str | None = None
    approver: str | None = None


@dataclass(slots=True)
class Held:
    """A read that is held, with all that was in it."""

    hold: HoldValue
    session: Session
    info: ProcessInfo
    channel: Channel
    pieces: list[tuple[int, int]]
    data: bytes
    judged: list[Judged]
    undecided: int = 0


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
        if flags & DATA_LOST:
            channel.stream.lost()
        for judged in self._judge(channel, session, data, time_ns):
            decision = judged.decision
            if decision and judged.verdict == "kill":  # for less it is too late
                judged.outcome = "killed"
                self._verdicts.kill(decision, session, info)
            self._report(judged, session, info, channel, time_ns, None)

    def on_hold(self, hold: HoldValue) -> None:
        """A task that stopped with a received message in its buffer."""
        if not self._stops.take(hold):
            return
        session = self._labelling.registry.by_number(hold.session)
        if session is None:
            self._stops.go_on(hold)
            return
        info = self._labelling.resolve(ProcessKey(hold.tgid, hold.start_ns), session)
        channel = self._channels.get(hold.ino, hold.peer_ino, info)
        try:
            pieces = memory.segments(hold.tgid, hold.address, hold.length, hold.iovcnt)
            data = memory.read_segments(hold.tgid, pieces)
        except OSError:
            self._stops.kill(hold)  # it died, or its memory is gone: nothing may pass unread
            return
        if hold.access and not channel.is_mcp and not channel.stream.framer.pending_size:
            channel.stream.lost()  # it began before this engine did
        judged = self._judge(channel, session, data, hold.time_ns)
        held = Held(hold, session, info, channel, pieces, data, judged)
        self._wait_for_people(held)
        if not held.undecided:
            self._finish(held)

    def _judge(self, channel: Channel, session: Session, data: bytes, time_ns: int) -> list[Judged]:
        judged = []
        for line in channel.stream.feed(data):
            if not line.messages:
                self._noise(channel, session, line, time_ns)
            for index, message in enumerate(line.messages):
                self._channels.learn(channel, message)
                seen = channel.conversation.observe(message, channel.role or "server", time_ns)
                decision = self._policy.evaluator.evaluate(
                    f"mcp.{message.kind}",
                    session.workload,
                    self._subject(channel, message, seen),
                    session,
                )
                if decision:
                    session.labels.update(decision.marks)
                each = Judged(line, index, message, seen, decision)
                if decision and session.posture == "enforce":
                    each.verdict = decision.verdict
                judged.append(each)
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
            held.undecided += 1
            judged.hold_id = self._approvals.next_id()
            parts = self._describe_message(judged, held.channel)
            opened = describe(decision, held.session, before_effect=True, outcome="held")
            opened["hold_id"] = judged.hold_id
            waiting = waiting_call(
                judged.hold_id,
                held.hold,
                decision,
                held.session,
                held.info,
                {"mcp": parts},
                self._resolver(held, judged),
            )
            waiting.still_wanted = lambda each=judged: not self._cancelled(held, each)
            self._approvals.add(waiting)
            self._reporter.session_event(
                "hold.open", held.hold.time_ns, held.session, held.info, {"mcp": parts}, opened
            )

    def _resolver(self, held: Held, judged: Judged) -> Any:
        def resolve(verdict: str, outcome: str, approver: str | None) -> None:
            judged.verdict = verdict
            judged.outcome = outcome
            judged.approver = approver
            held.undecided -= 1
            if not held.undecided:
                self._finish(held)

        return resolve

    @staticmethod
    def _cancelled(held: Held, judged: Judged) -> bool:
        """Whether a cancellation of this request waits to be read behind it."""
        ahead = peek.waiting_bytes(held.hold.tgid, held.hold.fd)
        if b"cancelled" not in ahead:
            return False
        for line in ahead.split(b"\n"):
            for message in jsonrpc.parse(line):
                params = message.params if isinstance(message.params, dict) else {}
                if message.method == "notifications/cancelled":
                    wanted = params.get("requestId")
                    if wanted == judged.message.id and type(wanted) is type(judged.message.id):
                        return True
        return False

    def _finish(self, held: Held) -> None:
        """Carries the verdicts out, lets the task go on, then tells."""
        now = self._reporter.clock.now()
        killers = [each for each in held.judged if each.verdict == "kill"]
        gone = any(each.outcome == "gone" for each in held.judged)
        if gone:
            pass
        elif killers:
            self._kill(held, killers)
        elif self._rewrite(held):
            self._stops.go_on(held.hold)
        hold_us = (now - held.hold.time_ns) // 1000
        for judged in held.judged:
            self._report(judged, held.session, held.info, held.channel, held.hold.time_ns, hold_us)

    def _kill(self, held: Held, killers: list[Judged]) -> None:
        for judged in held.judged:
            if judged.outcome == "allowed":
                judged.outcome = "killed"
        self._stops.kill(held.hold)
        for each in killers:
            if each.decision:
                self._verdicts.kill(each.decision, held.session, held.info)

    def _rewrite(self, held: Held) -> bool:
        """Puts refusals in the place of denied messages. False if the task had to be killed."""
        data = bytearray(held.data)
        for line, denied in _denied_lines(held.judged):
            first = denied[0]
            frame = line.frame
            rule = first.decision.rule if first.decision else UNREADABLE
            reason = first.decision.reason if first.decision else ""
            done: Rewrite
            if frame.start >= 0:
                at = frame.start
                whole = len(line.messages) == len(denied)
                indexes = None if whole else [each.index for each in denied]
                done = deny_line(bytes(data[at : frame.end]), rule, reason, indexes)
            else:
                at = 0
                done = deny_tail(frame.head, bytes(data[: frame.end]), rule, reason)
            data[at : frame.end] = done.data
            for each in denied:
                if each.outcome == "allowed":
                    each.outcome = "killed" if done.level == "none" else "denied"
            if done.level == "none":
                self._stops.kill(held.hold)
                return False
        if not held.channel.stream.framer.synced and held.session.on_failure == "deny":
            data[:] = _BREAKER * len(data)  # a message that cannot be seen whole does not pass
        if data != held.data:
            try:
                memory.write_segments(held.hold.tgid, held.pieces, bytes(data))
            except OSError:
                self._stops.kill(held.hold)
                return False
        return True

    def _report(  # noqa: PLR0917
        self,
        judged: Judged,
        session: Session,
        info: ProcessInfo,
        channel: Channel,
        time_ns: int,
        hold_us: int | None,
    ) -> None:
        kind = judged.message.kind
        if kind == "invalid":
            kind = "noise"
        described = None
        if judged.decision is not None:
            described = describe(
                judged.decision, session, before_effect=hold_us is not None, outcome=judged.outcome
            )
        if described is not None and hold_us is not None:
            described["hold_us"] = hold_us
            if judged.hold_id:
                described["hold_id"] = judged.hold_id
            if judged.approver:
                described["approver"] = judged.approver
            if judged.outcome == "timeout":
                described["on_timeout"] = judged.verdict
        parts = {"mcp": self._describe_message(judged, channel)}
        self._reporter.session_event(f"mcp.{kind}", time_ns, session, info, parts, described)

    @staticmethod
    def _describe_message(judged: Judged, channel: Channel) -> dict[str, Any]:
        seen = judged.seen
        described: dict[str, Any] = {
            "method": seen.method,
            "kind": judged.message.kind,
            "direction": seen.direction,
            "channel": channel.ino,
            "bytes": len(judged.line.frame.raw),
        }
        if seen.id is not None:
            described["id"] = seen.id
        if seen.tool is not None:
            described["tool"] = seen.tool
        elif seen.subject is not None:
            described["subject"] = seen.subject
        if seen.arguments is not None:
            described["arguments"] = shorten(seen.arguments)
        if channel.server is not None:
            described["server"] = channel.server.describe()
        if channel.client is not None:
            described["client"] = channel.client.describe()
        if seen.protocol_version is not None:
            described["protocol_version"] = seen.protocol_version
        if seen.latency_us is not None:
            described["latency_us"] = round(seen.latency_us, 1)
        if judged.message.kind == "response":
            described["is_error"] = seen.is_error
            if seen.error is not None:
                described["error"] = shorten(seen.error)
        if seen.anomalies:
            described["anomalies"] = list(seen.anomalies)
        return described

    def _noise(self, channel: Channel, session: Session, line: Line, time_ns: int) -> None:
        self._channels.not_mcp(channel)
        if channel.is_mcp and not self._channels.quiet(channel):
            text = line.frame.raw[:200].decode("utf-8", "replace")
            self._reporter.session_event(
                "mcp.noise",
                time_ns,
                session,
                channel.reader.info,
                {"mcp": {"channel": channel.ino, "text": text, "bytes": len(line.frame.raw)}},
            )


def _denied_lines(judged: list[Judged]) -> list[tuple[Line, list[Judged]]]:
    """The lines with something to refuse in them, and what, in the order of the read."""
    by_line: dict[int, tuple[Line, list[Judged]]] = {}
    for each in judged:
        if each.verdict == "deny":
            by_line.setdefault(id(each.line), (each.line, []))[1].append(each)
    return list(by_line.values())


def shorten(value: Any, depth: int = 0) -> Any:
    """JSON with every string cut at 2 KiB, and nesting at 16 levels."""
    if isinstance(value, str):
        if len(value) <= _VALUE_ROOM:
            return value
        return f"{value[:_VALUE_ROOM]}...(+{len(value) - _VALUE_ROOM} bytes)"
    if depth > 16:
        return "..."
    if isinstance(value, dict):
        return {str(key)[:256]: shorten(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        cut = [shorten(each, depth + 1) for each in value[:256]]
        return cut if len(value) <= 256 else [*cut, f"...(+{len(value) - 256} items)"]
    return value
