"""Refusing an MCP message in the buffer of its reader: same length, same id, no effect.

A refused request becomes one that the reader itself must answer with an error: a call of a tool
that does not exist, whose name says which rule refused it and why. Pure functions on bytes.

Padding goes inside the object: Go's SDK refuses white space between a message and its newline.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import orjson

from agentd.mcp import jsonrpc, jsontext, protocol
from agentd.mcp.jsontext import Member

PREFIX = "denied-by-agentd"
_LONGEST_NAME = 1000

Level = Literal["reason", "shortened", "method", "error", "broken", "blank", "none"]
"""What the reader will make of the data.

reason: a request it refuses, naming rule and reason. shortened: the same, the text cut.
method: a request with a method that does not exist. error: a response or result that is an error.
broken: not JSON any more, dropped by the reader; the sender gets no answer. blank: an empty line.
none: nothing could be done, the data is as it was: the caller must act otherwise (kill).
"""
LEVELS: tuple[Level, ...] = ("reason", "shortened", "error", "method", "broken", "blank", "none")
"""From most to least told to the sender."""

Style = Literal["text", "uri"]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Bytes to put in the place of the original, of the same length, and what they say."""

    data: bytes
    level: Level


def blank(size: int) -> bytes:
    """Return `size` spaces."""
    return b" " * size


def deny_line(
    raw_line: bytes, rule: str, reason: str, indexes: Collection[int] | None = None
) -> Rewrite:
    """Refuse the message of a whole line (or span of lines) that its reader has not seen.

    A newline and carriage returns at the end stay. Of a batch only the elements at `indexes` are
    refused (all, if None), the others stay byte for byte. The level is that of the worst element.
    """
    body = raw_line.rstrip(b"\r\n")
    ending = raw_line[len(body) :]
    if not ending and body[-1:] == b"\r":
        body, ending = body[:-1], b"\r"
    begin = _begin(body)
    if body[begin : begin + 1] == b"[":
        done = _deny_batch(body, begin, rule, reason, indexes)
    elif body[begin : begin + 1] == b"{":
        done = _deny_object(body, begin, rule, reason)
    else:
        done = Rewrite(blank(len(body)), "blank")
    return Rewrite(done.data + ending, done.level)


def _begin(body: bytes) -> int:
    """Offset of the first opening bracket, past white space, byte order mark and stray bytes."""
    found = [at for at in (body.find(b"{"), body.find(b"[")) if at >= 0]
    return min(found, default=len(body))


def _deny_batch(
    body: bytes, begin: int, rule: str, reason: str, indexes: Collection[int] | None
) -> Rewrite:
    if jsontext.is_dense(body):
        return Rewrite(blank(len(body)), "blank")
    data = bytearray(body.replace(b"\r", b" ").replace(b"\n", b" "))
    spans = jsontext.elements(body, begin)
    wanted = range(len(spans)) if indexes is None else indexes
    if not 0 < len(spans) <= jsonrpc.MOST or any(not 0 <= index < len(spans) for index in wanted):
        return Rewrite(blank(len(body)), "blank")
    worst: Level = "reason"
    for index in wanted:
        start, end = spans[index]
        if body[start] != 0x7B:
            continue
        done = _deny_object(body[start:end], 0, rule, reason)
        if done.level == "blank":
            return Rewrite(blank(len(body)), "blank")
        data[start:end] = done.data
        worst = max(worst, done.level, key=LEVELS.index)
    return Rewrite(bytes(data), worst)


def _deny_object(body: bytes, begin: int, rule: str, reason: str) -> Rewrite:
    size = len(body)
    if jsontext.is_dense(body):
        body, begin = _sketch(body), 0
    found = jsontext.members(body, begin)
    if kind_of(body) == "response":
        candidates = _responses(body, found, rule, reason, size)
    else:
        candidates = _requests(body, found, rule, reason, size)
    for text, level in candidates:
        if len(text) <= size:
            return Rewrite(text[:-1] + blank(size - len(text)) + text[-1:], level)
    return Rewrite(blank(size), "blank")


def _sketch(body: bytes) -> bytes:
    """Write anew what of a message is needed to refuse it, where walking it would take too long."""
    messages = jsonrpc.parse(body)
    if not messages:
        return b"{}"
    message = messages[0]
    members = {"jsonrpc": "2.0", "id": message.id, "method": message.method}
    if message.kind != "request" and jsonrpc.OVER_LIMIT not in message.anomalies:
        del members["method" if message.kind == "response" else "id"]
    if message.kind == "response":
        members["result"] = None
    elif type(message.params) is dict and "_meta" in message.params:
        members["params"] = {"_meta": message.params["_meta"]}
    try:
        return orjson.dumps(members)
    except (TypeError, orjson.JSONEncodeError):
        return b"{}"


def kind_of(body: bytes) -> str:
    """Kind of the (first) message in `body`; "invalid" if there is none."""
    messages = jsonrpc.parse(body)
    return messages[0].kind if messages else "invalid"


def last_of(found: list[Member], key: str) -> Member | None:
    """Return the last complete member with that key: the one that parsers take."""
    quoted = b'"' + key.encode() + b'"'
    chosen = None
    for member in found:
        if member.end >= 0 and (member.key == quoted or text_of(member.key) == key):
            chosen = member
    return chosen


def text_of(raw: bytes) -> str | None:
    """Text of a JSON string; None if it is not one."""
    if b"\\" not in raw:
        return raw[1:-1].decode("utf-8", "replace") if raw[:1] == b'"' else None
    messages = jsonrpc.parse(b'{"method":' + raw + b"}")
    return messages[0].method if messages else None


def raw_value(body: bytes, member: Member | None) -> bytes:
    """Bytes of a member's value, on one line; b"" if there is no such member."""
    if member is None:
        return b""
    return body[member.start : member.end].replace(b"\r", b" ").replace(b"\n", b" ")


def _envelope(body: bytes, found: list[Member]) -> bytes:
    """Return `{"jsonrpc":"2.0","id":ID,` with what the original had of it."""
    version = raw_value(body, last_of(found, "jsonrpc"))
    id_ = raw_value(body, last_of(found, "id"))
    return (
        b"{"
        + (b'"jsonrpc":' + version + b"," if version else b"")
        + (b'"id":' + id_ + b"," if id_ else b"")
    )


def _requests(
    body: bytes, found: list[Member], rule: str, reason: str, size: int
) -> Iterator[tuple[bytes, Level]]:
    """Candidates for the place of a request or notification, best first."""
    head = _envelope(body, found)
    method = text_of(raw_value(body, last_of(found, "method"))) or ""
    metas = metas_of(body, found)
    subject = protocol.NAMED_BY.get(method)
    if last_of(found, "id") is not None and subject in ("name", "uri"):
        style: Style = "uri" if subject == "uri" else "text"
        before = head + b'"method":"%s","params":{"%s":"' % (method.encode(), subject.encode())
        for meta in metas:
            text, whole = refusal(rule, reason, size - len(before) - len(meta) - 3, style)
            if whole or (text and meta is metas[-1]):
                yield before + text + b'"' + meta + b"}}", "reason" if whole else "shortened"
    for candidate in unknown_methods(metas[-1], rule, reason, size - len(head)):
        yield head + candidate, "method"
    yield b'{"method":"x"}', "method"


def unknown_methods(meta: bytes, rule: str, reason: str, room: int) -> Iterator[bytes]:
    """Ends of a request, from its method on, for a method that does not exist; best first."""
    params = b',"params":{' + meta[1:] + b"}" if meta else b""
    text, _ = refusal(rule, reason, room - len(params) - 13)
    if text:
        yield b'"method":"' + text + b'"' + params + b"}"
    text, _ = refusal(rule, reason, room - 13)
    if text:
        yield b'"method":"' + text + b'"}'
    yield b'"method":"x"}'


def metas_of(body: bytes, found: list[Member]) -> list[bytes]:
    """The member `_meta` of params, then as little of it as a server of its version demands.

    Both begin with a comma; b"" where there is nothing.
    """
    params = last_of(found, "params")
    meta = last_of(jsontext.members(body, params.start), "_meta") if params else None
    if meta is None or body[meta.start] != 0x7B:
        return [b""]
    needed = [
        item.key + b":" + raw_value(body, item)
        for item in jsontext.members(body, meta.start)
        if item.end >= 0 and text_of(item.key) in protocol.META_REQUIRED
    ]
    least = b',"_meta":{' + b",".join(needed) + b"}" if needed else b""
    return [b',"_meta":' + raw_value(body, meta), least]


def _responses(
    body: bytes, found: list[Member], rule: str, reason: str, size: int
) -> Iterator[tuple[bytes, Level]]:
    """Candidates for the place of a response: an error, that of a tool's result as a result."""
    head = _envelope(body, found)
    shapes = [(b'"error":{"code":-32000,"message":"', b'"}}')]
    result = last_of(found, "result")
    if result and last_of(jsontext.members(body, result.start), "content"):
        shapes.insert(0, (b'"result":{"isError":true,"content":[{"type":"text","text":"', b'"}]}}'))
    for before, after in shapes:
        text, whole = refusal(rule, reason, size - len(head) - len(before) - len(after))
        if whole or (text and before is shapes[-1][0]):
            yield head + before + text + after, "error"
    yield head + b'"error":{"code":-32000,"message":""}}', "error"
    yield head + b'"error":{}}', "error"


def whole_refusal(raw_line: bytes, rule: str, reason: str) -> bytes:
    """The refusal of a line that is one response, in as many bytes as it takes; b"" for others."""
    body = raw_line.rstrip(b"\r\n")
    if kind_of(body) != "response" or body[:1] != b"{" or jsontext.is_dense(body):
        return b""
    text, _ = next(_responses(body, jsontext.members(body, 0), rule, reason, 1 << 20))
    return text + raw_line[len(body) :]


def refusal(rule: str, reason: str, room: int, style: Style = "text") -> tuple[bytes, bool]:
    """Return the refusal as JSON string content of at most `room` bytes, and whether it is whole.

    It is b"" if not even "denied-by-agentd" fits: a shorter name might be that of a real tool.
    """
    units, whole = _units(rule, reason, style)
    if len(whole) <= room:
        return whole, True
    length = taken = 0
    while length + len(units[taken]) <= room:
        length += len(units[taken])
        taken += 1
    return (b"".join(units[:taken]).rstrip(b" :") if taken >= len(PREFIX) else b""), False


@lru_cache(maxsize=512)
def _units(rule: str, reason: str, style: Style) -> tuple[list[bytes], bytes]:
    """Return the characters of the refusal as they stand in a JSON string, and all of them."""
    separator = ":" if style == "uri" else ": "
    units = [_unit(each, style) for each in separator.join((PREFIX, rule, reason))[:_LONGEST_NAME]]
    return units, b"".join(units)


def _unit(character: str, style: Style) -> bytes:
    """One character as it stands in a JSON string: ASCII, never to be cut inside."""
    code = ord(character)
    if 0xD800 <= code < 0xE000:
        return b"?"
    if style == "uri" and not (character.isascii() and (character.isalnum() or code in b"-._~:/")):
        return b"".join(b"%%%02X" % byte for byte in character.encode())
    if character in '"\\':
        return b"\\" + character.encode()
    if code < 0x20 or code == 0x7F:
        return b" "
    if code < 0x7F:
        return character.encode()
    utf16 = character.encode("utf-16-be").hex()
    return b"".join(b"\\u" + utf16[at : at + 4].encode() for at in range(0, len(utf16), 4))
