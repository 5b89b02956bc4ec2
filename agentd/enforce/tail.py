"""Refusing a message of which the reader already has the head: only the tail can be changed.

The open strings and brackets are closed, and members that override the ones already delivered are
appended: Node, Python, Go, Jackson and most others take the last of two members with the same
name; serde refuses both, which refuses the call too. cJSON and RapidJSON take the first: for a
reader not known to take the last, say `override=False`.
"""

import re
from collections.abc import Collection, Iterator

from agentd.enforce.rewrite import (
    Level,
    Rewrite,
    blank,
    deny_line,
    kind_of,
    last_of,
    metas_of,
    raw_value,
    refusal,
    text_of,
    unknown_methods,
)
from agentd.mcp import jsontext, protocol
from agentd.mcp.framing import Frame
from agentd.mcp.jsontext import AFTER, COLON, KEY, VALUE, Member, Scanner

_HIGH_SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_HIGH_START = re.compile(rb"[dD][89abAB][0-9a-fA-F]?")
_LITERALS = (b"true", b"false", b"null", b"NaN", b"Infinity", b"-Infinity")
_FILLERS = {KEY: b'"":0', COLON: b":0", VALUE: b"0"}


def deny_frame(
    frame: Frame,
    chunk: bytes,
    rule: str,
    reason: str,
    *,
    indexes: Collection[int] | None = None,
    override: bool = True,
) -> tuple[int, Rewrite]:
    """Refuse the message of a frame in the chunk that ended it, wherever it began.

    Returns the offset in `chunk` at which the data is to be put, and the rewrite. `indexes` are
    those of `deny_line`, `override` that of `deny_tail`.
    """
    if frame.start >= 0:
        return frame.start, deny_line(chunk[frame.start : frame.end], rule, reason, indexes)
    return 0, deny_tail(frame.head, chunk[: frame.end], rule, reason, override=override)


def deny_tail(
    head: bytes, tail: bytes, rule: str, reason: str, *, override: bool = True
) -> Rewrite:
    """Refuse the message `head + tail`; `head` is with its reader, `tail` ends with the message.

    A newline at the end of `tail` stays, unless the head alone is a complete message: then the
    tail is filled with what makes the line unreadable, the newline too if there is nothing else
    (the line after it is lost then). Level "none": the head is complete and the tail is empty.
    """
    body = tail.rstrip(b"\r\n")
    ending = tail[len(body) :]
    if not head.strip():
        done = deny_line(tail, rule, reason)
        return Rewrite(done.data, done.level)
    scanner = Scanner(jsontext.DENSE)
    scanner.feed(head)
    if scanner.done and scanner.valid:
        return _after_the_end(body, ending)
    readable = scanner.valid and scanner.stack[:1] == b"{" and not jsontext.is_dense(head + body)
    if override and readable:
        for text, level in _overrides(scanner, head, body, rule, reason):
            if len(text) <= len(body):
                padded = text[:-1] + blank(len(body) - len(text)) + text[-1:]
                return Rewrite(padded + ending, level)
    return Rewrite(_breaking(scanner, len(body)) + ending, "broken")


def _after_the_end(body: bytes, ending: bytes) -> Rewrite:
    if body:
        return Rewrite(b"!" * len(body) + ending, "broken")
    if ending:
        return Rewrite(b"!" * len(ending), "broken")
    return Rewrite(b"", "none")


def _breaking(scanner: Scanner, size: int) -> bytes:
    """Return `size` bytes after which no parser takes the text, whatever follows.

    Quote and exclamation mark by turns break it inside a string, after a backslash and outside
    alike. Where there is no room for that, the newline breaks an open string.
    """
    if size >= 4 or not scanner.valid:
        return (b'"!' * (size // 2 + 1))[:size]
    return blank(size) if scanner.in_string else b"!" * size


def _overrides(
    scanner: Scanner, head: bytes, body: bytes, rule: str, reason: str
) -> Iterator[tuple[bytes, Level]]:
    """Candidates for the tail, best first."""
    full = head + body
    found = jsontext.members(full, full.find(b"{"))
    kept = _keep(found, len(head))
    kept_bytes = full[len(head) : kept]
    if not scanner.feed(kept_bytes) or scanner.done:
        return
    before = kept_bytes + _close(scanner, full[:kept], full[kept:]) + _identity(full, found, kept)
    size = len(body) - len(before)
    for text, level in _endings(full, found, rule, reason, size):
        yield before + text, level


def _keep(found: list[Member], split: int) -> int:
    """Return the offset up to which the original stays: past the id, or a key, that is cut."""
    for member in found:
        if member.key_start < split < member.key_start + len(member.key):
            if text_of(member.key) == "id" and member.end >= 0:
                return member.end
            return member.key_start + len(member.key)
        if member.key_start < split <= member.end and text_of(member.key) == "id":
            return member.end
    return split


def _identity(full: bytes, found: list[Member], kept: int) -> bytes:
    """Return the members `jsonrpc` and `id` of the original, if they are past what is kept."""
    text = b""
    for key in ("jsonrpc", "id"):
        member = last_of(found, key)
        if member is not None and member.end > kept:
            text += b'"%s":%s,' % (key.encode(), raw_value(full, member))
    return text


def _endings(
    full: bytes, found: list[Member], rule: str, reason: str, size: int
) -> Iterator[tuple[bytes, Level]]:
    if kind_of(full) == "response":
        before = b'"result":{"isError":true,"content":[{"type":"text","text":"'
        text, _ = refusal(rule, reason, size - len(before) - 5)
        if text:
            yield before + text + b'"}]}}', "error"
        return
    method = text_of(raw_value(full, last_of(found, "method"))) or ""
    metas = metas_of(full, found)
    if method in protocol.CLIENT_REQUESTS and last_of(found, "id") is not None:
        before = b'"method":"tools/call","params":{"name":"'
        for meta in metas:
            text, whole = refusal(rule, reason, size - len(before) - len(meta) - 3)
            if whole or (text and meta is metas[-1]):
                yield before + text + b'"' + meta + b"}}", "reason" if whole else "shortened"
    for candidate in unknown_methods(metas[-1], rule, reason, size):
        yield candidate, "method"


def _close(scanner: Scanner, head: bytes, tail: bytes) -> bytes:
    """Return what brings the text after `head` to where a member of its object may be appended."""
    text = b""
    expect = scanner.expect
    if scanner.in_string:
        text += _close_string(scanner, head, tail)
        expect = COLON if scanner.string_is_key else AFTER
    elif scanner.scalar:
        text += _close_scalar(scanner.scalar)
        expect = AFTER
    for bracket in reversed(scanner.stack[1:]):
        in_object = bracket == 0x7B
        text += _FILLERS.get(expect, b"") + (b"}" if in_object else b"]")
        expect = AFTER
    if expect in (COLON, VALUE):
        return text + _FILLERS[expect] + b","
    return text + (b"," if expect == AFTER else b"")


def _close_string(scanner: Scanner, head: bytes, tail: bytes) -> bytes:
    """Return the rest of the open string: of its character, its escape, its surrogate pair."""
    if scanner.escape:
        return _close_escape(scanner.escape, head[: len(head) - len(scanner.escape)])
    if _HIGH_SURROGATE.search(head[-256:]):
        return b'\\udc00"'
    rest = tail[: _continuation(head)]
    return rest + b'"'


def _close_escape(escape: bytes, before: bytes) -> bytes:
    """Return the rest of an escape, so that no half of a surrogate pair stays alone."""
    low = _HIGH_SURROGATE.search(before[-256:]) is not None
    if escape == b"\\":
        return b'udc00"' if low else b'n"'
    digits = escape[2:]
    if low:
        return b"dc00"[len(digits) :] + b'"'
    if _HIGH_START.fullmatch(digits):
        return b"0" * (4 - len(digits)) + b'\\udc00"'
    return b"0" * (4 - len(digits)) + b'"'


def _continuation(head: bytes) -> int:
    """Return how many bytes the UTF-8 character at the end of `head` still lacks."""
    for back, byte in enumerate(reversed(head[-3:]), start=1):
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return max(0, length - back)
    return 0


def _close_scalar(scalar: bytes) -> bytes:
    """Return the rest of the number or literal that is cut."""
    for literal in _LITERALS:
        if literal.startswith(scalar) and scalar != b"-":
            return literal[len(scalar) :]
    return b"" if scalar[-1:].isdigit() else b"0"
