"""MCP messages as events: what was said, by whom, and what became of it."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from agentd.daemon.channels import Channel
from agentd.daemon.report import Reporter
from agentd.enforce.rewrite import Level
from agentd.kernel.maps import HoldValue
from agentd.mcp.connection import Observation
from agentd.mcp.jsonrpc import Message
from agentd.mcp.stream import Line
from agentd.policy.evaluator import Decision
from agentd.workloads.identity import ProcessInfo
from agentd.workloads.sessions import Session

_VALUE_ROOM = 2048
_NOISE_ROOM = 200
_DEEPEST = 16
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
    level: Level | None = None
    """What its refusal tells the reader, if it was refused."""


class Transcript:
    """Writes messages down."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def message(  # noqa: PLR0917 (a message, who, where, when)
        self,
        judged: Judged,
        session: Session,
        info: ProcessInfo,
        channel: Channel,
        time_ns: int,
        hold_us: int | None,
    ) -> None:
        """The event of a message; `hold_us` is None if it was not held."""
        kind = "noise" if judged.message.kind == "invalid" else judged.message.kind
        described = None
        if judged.decision is not None:
            described = self._reporter.describe(
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
        parts = {"mcp": describe_message(judged, channel)}
        self._reporter.session_event(f"mcp.{kind}", time_ns, session, info, parts, described)

    def opened(
        self, judged: Judged, session: Session, info: ProcessInfo, channel: Channel, time_ns: int
    ) -> dict[str, Any]:
        """The event of a call that waits for a person; returns its `mcp` part."""
        parts = {"mcp": describe_message(judged, channel)}
        if judged.decision is not None:
            described = self._reporter.describe(
                judged.decision, session, before_effect=True, outcome="held"
            )
            described["hold_id"] = judged.hold_id
            self._reporter.session_event("hold.open", time_ns, session, info, parts, described)
        return parts

    def unreadable(
        self, hold: HoldValue, session: Session, info: ProcessInfo, outcome: str, why: str
    ) -> None:
        """The event of a held read that could not be judged."""
        described = {
            "verdict": "deny",
            "rules": [UNREADABLE],
            "reason": why,
            "tier": self._reporter.tier,
            "before_effect": True,
            "outcome": outcome,
            "hold_us": (self._reporter.clock.now() - hold.time_ns) // 1000,
        }
        parts = {"mcp": {"channel": hold.ino, "bytes": hold.length}}
        self._reporter.session_event("hold.decided", hold.time_ns, session, info, parts, described)

    def noise(
        self, channel: Channel, session: Session, info: ProcessInfo, line: Line, time_ns: int
    ) -> None:
        """The event of a line that is no JSON-RPC, on a channel of MCP."""
        text = line.frame.raw[:_NOISE_ROOM].decode("utf-8", "replace")
        parts = {"mcp": {"channel": channel.ino, "text": text, "bytes": len(line.frame.raw)}}
        self._reporter.session_event("mcp.noise", time_ns, session, info, parts)


def describe_message(judged: Judged, channel: Channel) -> dict[str, Any]:
    """The `mcp` object of an event."""
    seen = judged.seen
    described: dict[str, Any] = {
        "method": seen.method,
        "kind": judged.message.kind,
        "direction": seen.direction,
        "channel": channel.ino,
        "bytes": len(judged.line.frame.raw),
    }
    if seen.id is not None:
        described["id"] = shorten(seen.id)
    if seen.tool is not None:
        described["tool"] = shorten(seen.tool)
    elif seen.subject is not None:
        described["subject"] = shorten(seen.subject)
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


def shorten(value: Any, depth: int = 0) -> Any:
    """JSON with every string cut at 2 KiB, and nesting at 16 levels."""
    if isinstance(value, str):
        more = len(value) - _VALUE_ROOM
        return value if more <= 0 else f"{value[:_VALUE_ROOM]}...(+{more} bytes)"
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else "..."  # orjson has 64 bits
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, dict):
        short = {
            str(key)[:256]: shorten(each, depth + 1) for key, each in islice(value.items(), 256)
        }
        return short if len(value) <= 256 else short | {"...": f"(+{len(value) - 256} members)"}
    if isinstance(value, list):
        cut = [shorten(each, depth + 1) for each in value[:256]]
        return cut if len(value) <= 256 else [*cut, f"...(+{len(value) - 256} items)"]
    return value
