"""Where things are in JSON text, without building values.

Parsers give values; evasion and rewriting are about bytes: which id stood on the wire, where a
batch element ends, in which state a message is cut. Nothing here recurses, so depth is no limit.
Grammar: RFC 8259, plus NaN and Infinity, which Python and JavaScript tooling emit.
"""

import re
from dataclasses import dataclass

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_STRUCTURE = re.compile(rb'["{}\[\]]')
_SCALAR = re.compile(rb"[^\s,\]}:\"{\[]+")
_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING_BODY = re.compile(
    rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+',
)
_PARTIAL_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_WHOLE_SCALAR = re.compile(
    rb"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null|NaN|-?Infinity)\Z"
)

VALUE, VALUE_OR_END, KEY, KEY_OR_END, COLON, AFTER = range(6)
"""What may come next: a value; a value or `]`; a key; a key or `}`; `:`; `,` or a closer."""


@dataclass(slots=True)
class Member:
    """One member of an object: byte offsets of its key (with quotes) and of its value.

    `end` is -1 if the text ends inside the value, and `start` too if it ends before it.
    """

    key: bytes
    key_start: int
    start: int
    end: int


def skip_space(text: bytes, at: int) -> int:
    """Offset of the first byte at or after `at` that is not JSON white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def skip_value(text: bytes, at: int) -> int:
    """Offset just past the value that begins at `at`, or -1 if the text ends inside it.

    Brackets are counted, not matched: the text is expected to have been parsed.
    """
    first = text[at : at + 1]
    if first == b'"':
        string = _STRING.match(text, at)
        return string.end() if string else -1
    if first not in (b"{", b"["):
        scalar = _SCALAR.match(text, at)
        return scalar.end() if scalar else -1
    depth = 0
    while (found := _STRUCTURE.search(text, at)) is not None:
        at = found.end()
        mark = text[at - 1]
        if mark == 0x22:
            string = _STRING.match(text, at - 1)
            if string is None:
                return -1
            at = string.end()
        elif mark in b"{[":
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return at
    return -1


def members(text: bytes, at: int) -> list[Member]:
    """Members of the object that begins at `at`, in order, duplicates kept.

    Stops quietly where the text ends or is not an object any more.
    """
    found: list[Member] = []
    at = skip_space(text, at + 1)
    while text[at : at + 1] == b'"':
        key_start = at
        at = skip_value(text, at)
        if at < 0:
            found.append(Member(text[key_start:], key_start, -1, -1))
            break
        key = text[key_start:at]
        at = skip_space(text, at)
        if text[at : at + 1] != b":":
            found.append(Member(key, key_start, -1, -1))
            break
        start = skip_space(text, at + 1)
        end = skip_value(text, start)
        found.append(Member(key, key_start, start if start < len(text) else -1, end))
        if end < 0:
            break
        at = skip_space(text, end)
        if text[at : at + 1] != b",":
            break
        at = skip_space(text, at + 1)
    return found


def elements(text: bytes, at: int) -> list[tuple[int, int]]:
    """Start and end offsets of the elements of the array that begins at `at`.

    Stops quietly where the text ends or is not an array any more.
    """
    found: list[tuple[int, int]] = []
    at = skip_space(text, at + 1)
    while at < len(text) and text[at] != 0x5D:
        end = skip_value(text, at)
        if end < 0:
            break
        found.append((at, end))
        at = skip_space(text, end)
        if text[at : at + 1] != b",":
            break
        at = skip_space(text, at + 1)
    return found


class Scanner:
    """Follows the JSON grammar through bytes that arrive in pieces, one value only.

    Attributes: `valid` (no byte so far breaks the grammar), `done` (the value is complete),
    `stack` (open brackets, outermost first), `expect` (what may come next), `in_string`,
    `string_is_key`, `escape` (the unfinished escape, from its backslash on), `scalar` (the
    unfinished number or literal). Bytes after the value, other than white space, clear `valid`.
    """

    __slots__ = (
        "done",
        "escape",
        "expect",
        "in_string",
        "scalar",
        "stack",
        "string_is_key",
        "valid",
    )

    def __init__(self) -> None:
        self.stack = bytearray()
        self.expect = VALUE
        self.in_string = False
        self.string_is_key = False
        self.escape = b""
        self.scalar = b""
        self.valid = True
        self.done = False

    def feed(self, data: bytes) -> bool:
        """Take the next piece; returns `valid`."""
        at, end = 0, len(data)
        while at < end and self.valid:
            if self.in_string:
                at = self._string(data, at)
            elif self.scalar or data[at] not in b' \t\r\n{}[]:,"':
                at = self._scalar(data, at)
            else:
                at = skip_space(data, at)
                if at < end and data[at] in b'{}[]:,"':
                    self._mark(data[at])
                    at += 1
        return self.valid

    def _string(self, data: bytes, at: int) -> int:
        """Go on inside a string, from `at`; returns where it stopped."""
        if self.escape:
            data = self.escape + data[at:]
            shift = at - len(self.escape)
            self.escape = b""
            return shift + self._string(data, 0)
        body = _STRING_BODY.match(data, at)
        stop = body.end() if body else at
        if stop == len(data):
            return stop
        if data[stop] == 0x22:
            self.in_string = False
            if self.string_is_key:
                self.expect = COLON
            else:
                self._after()
            return stop + 1
        if _PARTIAL_ESCAPE.match(data, stop):
            self.escape = data[stop:]
            return len(data)
        self.valid = False
        return stop

    def _scalar(self, data: bytes, at: int) -> int:
        """Go on inside a number or literal; it ends at the first byte that cannot be in one."""
        found = _SCALAR.match(data, at)
        stop = found.end() if found else at
        if not self.scalar and self.expect not in (VALUE, VALUE_OR_END):
            self.valid = False
            return stop
        self.scalar += data[at:stop]
        if len(self.scalar) > 64 and not _WHOLE_SCALAR.match(self.scalar + b"0"):
            self.valid = False
        elif stop < len(data):
            self.valid = _WHOLE_SCALAR.match(self.scalar) is not None
            self.scalar = b""
            self._after()
        return stop

    def _mark(self, mark: int) -> None:
        """Take one structural byte."""
        expect = self.expect
        if mark == 0x22 and expect in (KEY, KEY_OR_END, VALUE, VALUE_OR_END):
            self.in_string = True
            self.string_is_key = expect in (KEY, KEY_OR_END)
        elif mark == 0x7B and expect in (VALUE, VALUE_OR_END):
            self.stack.append(mark)
            self.expect = KEY_OR_END
        elif mark == 0x5B and expect in (VALUE, VALUE_OR_END):
            self.stack.append(mark)
            self.expect = VALUE_OR_END
        elif mark == 0x3A and expect == COLON:
            self.expect = VALUE
        elif mark == 0x2C and expect == AFTER and self.stack:
            self.expect = KEY if self.stack[-1] == 0x7B else VALUE
        elif self._closes(mark):
            self.stack.pop()
            self._after()
        else:
            self.valid = False

    def _closes(self, mark: int) -> bool:
        if not self.stack:
            return False
        if mark == 0x7D:
            return self.stack[-1] == 0x7B and self.expect in (AFTER, KEY_OR_END)
        return mark == 0x5D and self.stack[-1] == 0x5B and self.expect in (AFTER, VALUE_OR_END)

    def _after(self) -> None:
        self.expect = AFTER
        self.done = not self.stack
