"""What must hold for any input; each function raises AssertionError where it does not."""

import json
from typing import Any

import orjson

from agentd.enforce.rewrite import deny_line
from agentd.enforce.tail import deny_tail
from agentd.mcp.connection import Conversation, Observation
from agentd.mcp.framing import LineFramer
from agentd.mcp.jsonrpc import Message, parse
from agentd.mcp.protocol import Role
from agentd.mcp.stream import MessageStream
from tests.fuzz.generate import Script

ROLES: tuple[Role, Role] = ("server", "client")
RULE, REASON = "fuzz-rule", "not in this session"


class Pair:
    """One conversation as the engine keeps it: two streams and their state."""

    def __init__(self) -> None:
        self.talk = Conversation()
        self.streams = {"server": MessageStream(), "client": MessageStream()}
        self.seen: list[tuple[str, Any, str | None, str | None]] = []

    def feed(self, to: Any, chunk: bytes, clock: int) -> None:
        """Take one chunk of one direction, and keep what was observed."""
        for line in self.streams[to].feed(chunk):
            for message in line.messages:
                seen = self.talk.observe(message, to, clock)
                self.seen.append((seen.kind, seen.id, seen.method, seen.tool))


def interleaved(first: Script, second: Script, order: int) -> None:
    """Two conversations whose chunks alternate by the bits of `order` never mix."""
    pairs = (Pair(), Pair())
    waiting = (iter(first.chunks), iter(second.chunks))
    left = [len(first.chunks), len(second.chunks)]
    clock = 0
    while left[0] or left[1]:
        turn = order & 1 if left[0] and left[1] else int(not left[0])
        order >>= 1
        left[turn] -= 1
        to, chunk = next(waiting[turn])
        pairs[turn].feed(to, chunk, clock)
        clock += 1
    assert pairs[0].seen == first.expected, (first, pairs[0].seen)
    assert pairs[1].seen == second.expected, (second, pairs[1].seen)
    assert not pairs[0].talk.pending("server")
    assert not pairs[1].talk.pending("server")


def _facts(message: Message) -> str:
    return repr((message.kind, message.id, message.method, message.params))


def any_cut(chunks: list[bytes]) -> list[Message]:
    """However a stream is cut, the same messages come out, in the same order.

    A message that was told before its newline may be told again if more follows on its line.
    Returns the messages of the whole.
    """
    data = b"".join(chunks)
    whole_lines = MessageStream().feed(data)
    whole = [message for line in whole_lines for message in line.messages]
    reader = MessageStream()
    framer = LineFramer()
    frames: list[bytes] = []
    cut: list[Message] = []
    for chunk in chunks:
        frames += [frame.raw for frame in framer.feed(chunk)]
        for line in reader.feed(chunk):
            cut += line.messages
    assert frames == [frame.raw for frame in LineFramer().feed(data)], chunks
    whole_facts = [_facts(message) for message in whole]
    cut_facts = [_facts(message) for message in cut]
    if whole_facts != cut_facts:
        missing = list(cut_facts)
        for fact in whole_facts:
            assert fact in missing, (chunks, fact)
            missing.remove(fact)
        told = [fact for fact, message in zip(cut_facts, cut, strict=True) if _late(message)]
        rest = iter(whole_facts)
        assert all(fact in rest for fact in told), (chunks, told)
    return whole


def _late(message: Message) -> bool:
    return "no-newline" not in message.anomalies


def observed(messages: list[Message]) -> None:
    """Observe anything, both ways; a tool is only named for a tool call."""
    talk = Conversation(most_pending=4)
    for clock, message in enumerate(messages):
        for to in ROLES:
            seen: Observation = talk.observe(message, to, clock)
            assert seen.tool is None or seen.method == "tools/call"
    assert talk.pending("server") <= 4


def refused(line: bytes, split: int) -> None:
    """A refused message is never the original one, whole or from `split` on, for any parser.

    Same length, no new newline; where it parses, orjson and the stdlib agree that it is a refusal.
    """
    done = deny_line(line, RULE, REASON)
    assert len(done.data) == len(line)
    _is_refusal(done.data, line, done.level)
    tail = deny_tail(line[:split], line[split:], RULE, REASON)
    assert len(tail.data) == len(line) - split
    if tail.level != "none":
        _is_refusal(line[:split] + tail.data, line, tail.level)


def _is_refusal(data: bytes, original: bytes, level: str) -> None:
    assert data.count(b"\n") <= original.count(b"\n"), (original, data)
    try:
        read = json.loads(data)
    except (ValueError, RecursionError):
        try:
            read = orjson.loads(data)
        except orjson.JSONDecodeError:
            assert level in ("broken", "blank") or parse(original)[0].anomalies, (original, data)
            return
    for value in read if isinstance(read, list) else [read]:
        if not isinstance(value, dict):
            continue
        params = value.get("params")
        texts = [value.get("method")]
        if isinstance(params, dict):
            texts += [params.get("name"), params.get("uri")]
        assert (
            value.get("method") == "x"
            or "error" in value
            or (isinstance(value.get("result"), dict) and value["result"].get("isError") is True)
            or any(isinstance(text, str) and text.startswith("denied-by-agentd") for text in texts)
        ), (original, data)
