"""A held read or write, and the refusals that take the place of what is denied in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentd.daemon.channels import Channel
from agentd.daemon.transcript import UNREADABLE, Judged
from agentd.enforce import answers
from agentd.enforce.rewrite import Level, deny_line, whole_refusal
from agentd.enforce.tail import deny_tail
from agentd.kernel import memory
from agentd.kernel.maps import HoldValue
from agentd.mcp.stream import Line
from agentd.policy.evaluator import Decision
from agentd.workloads.identity import ProcessInfo
from agentd.workloads.sessions import Session

UNJUDGED: Final = Decision(
    verdict="deny",
    rule=UNREADABLE,
    rules=[UNREADABLE],
    reason="the message is too large, too deep or too garbled to be judged",
    severity="high",
    tags=[],
    kill_scope=None,
    timeout_s=None,
    on_timeout=None,
    marks=[],
    errors=[],
)
"""On a held message that cannot be read to its end, whatever the rules say."""

_PASSING: Final = frozenset({"allow", "audit"})
_REMAINS_END = b'"!"!\n'
"""Ends a line so that no parser takes it, in whatever state it is left."""


@dataclass(slots=True)
class Held:
    """A read that is held, with all that was in it; or a write.

    The first `unseen` bytes belong to a message whose beginning nobody has seen.
    """

    hold: HoldValue
    session: Session
    info: ProcessInfo
    channel: Channel
    pieces: list[memory.Piece]
    data: bytes
    unseen: int
    judged: list[Judged]
    answer: Callable[[int], None] | None = None
    """Of a write, which is held before it happens: says how it goes on (0 or a negative errno)."""
    first: bool = False
    """Of a write: nothing else of it or of another write comes before these bytes."""
    undecided: int = 0

    @property
    def passes(self) -> bool:
        """Whether its task goes on with what it has read, and nobody waits to be told."""
        kept = self.answer is not None or self.first or self.unseen
        return not kept and {each.verdict for each in self.judged} <= _PASSING


def refuse(data: bytearray, line: Line, denied: list[Judged]) -> Level:
    """Overwrites the denied messages of one line in what was read; says what is left of them."""
    decision = denied[0].decision
    rule = decision.rule if decision else UNREADABLE
    reason = decision.reason if decision else ""
    frame = line.frame
    at = max(frame.start, 0)
    if frame.start >= 0:
        whole = len(line.messages) == len(denied)
        indexes = None if whole else [each.index for each in denied]
        done = deny_line(bytes(data[at : frame.end]), rule, reason, indexes)
    else:
        done = deny_tail(frame.head, bytes(data[: frame.end]), rule, reason)
    data[at : frame.end] = done.data
    for each in denied:
        each.level = done.level
        if each.outcome == "allowed":
            each.outcome = "denied"
    return done.level


def lengthen(held: Held, data: bytearray) -> None:
    """Tells the client what a denied result leaves no room for: the beginning is written for it.

    Of a result that has begun in earlier writes the client gets the broken remains, as a line of
    their own, and then the refusal.
    """
    first = held.judged[0] if held.judged else None
    if first is None or first.decision is None or first.verdict != "deny":
        return
    frame = first.line.frame
    broken = frame.start < 0 and first.level == "broken"
    if len(first.line.messages) > 1 or frame.start > 0 or (frame.start < 0 and not broken):
        return
    ending = b"\n" if held.data[: frame.end].endswith(b"\n") else b""
    decision = first.decision
    whole = whole_refusal(frame.raw + ending, decision.rule, decision.reason)
    missing = len(whole) - frame.end
    if not whole or (missing <= 0 and not broken):
        return
    body = whole[: len(whole) - len(ending)]
    whole = body[:-1] + b" " * -missing + body[-1:] + ending
    begin = (_REMAINS_END if broken else b"") + whole[: max(missing, 0)]
    if answers.put_in(held.hold.tgid, held.hold.fd, begin):
        data[: frame.end] = whole[max(missing, 0) :]


def breaks_unseen(held: Held) -> bool:
    """Whether a message that cannot be seen whole is kept from its server."""
    binding = held.session.posture == "enforce" and held.session.on_failure == "deny"
    return binding and held.channel.is_mcp and held.channel.role == "server"


def denied_lines(judged: list[Judged]) -> list[tuple[Line, list[Judged]]]:
    """The lines with something to refuse in them, and what, in the order of the read."""
    by_line: dict[int, tuple[Line, list[Judged]]] = {}
    for each in judged:
        if each.verdict == "deny":
            by_line.setdefault(id(each.line), (each.line, []))[1].append(each)
    return list(by_line.values())
