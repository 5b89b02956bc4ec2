"""Where things are in JSON text, without building values.

Parsers give values; evasion and rewriting are about bytes: which id stood on the wire, where a
batch element ends, in which state a message is cut. Nothing here recurses, so depth is no limit.
Grammar: RFC 8259, plus NaN and Infinity, which Python and JavaScript tooling emit.
"""

import re
from dataclasses import dataclass

# No possessive quantifiers: those of CPython 3.11.2 (Debian 12) match wrongly (gh-106052). Repeats
# of groups are bounded, because each costs memory until the match ends; the callers loop.
_FLAT = re.compile(rb'(?:[^"{}\[\]]+|"[^"\\]{0,200}"){0,64}')
_SCALAR = re.compile(rb"[^\s,\]}:\"{\[]+")
_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING_BODY = re.compile(
    rb'(?:[^"\\\x00-\x1f]+|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){1,64}',
)
_PARTIAL_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_WHOLE_SCALAR = re.compile(
    rb"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null|NaN|-?Infinity)\Z"
)

DENSE = 250_000
"""Brackets, or steps of a scanner, that a hostile message may cost us once more to be refused."""

VALUES = 500_000
"""Values, about, that are read of one message at most (`is_heavy`): they take half a second."""

_MARKS = b'{[,:"'
_STEPS = 2 * VALUES + 64

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
        return _skip_string(text, at)
    if first not in (b"{", b"["):
        scalar = _SCALAR.match(text, at)
        return scalar.end() if scalar else -1
    depth, size = 1, len(text)
    at += 1
    while depth:
        flat = _FLAT.match(text, at)
        at = flat.end() if flat else at
        if at == size:
            return -1
        mark = text[at]
        if mark == 0x22:
            at = _skip_string(text, at)
            if at < 0:
                return -1
        elif mark in b"{}[]":
            depth += 1 if mark in b"{[" else -1
            at += 1
    return at


def _skip_string(text: bytes, at: int) -> int:
    """Offset just past the string that begins at `at`, or -1."""
    end = text.find(b'"', at + 1)
    while end > 0 and text[end - 1] == 0x5C:
        first = end - 1
        while text[first - 1] == 0x5C:
            first -= 1
        if (end - first) % 2 == 0:
            break
        end = text.find(b'"', end + 1)
    return end + 1 or -1


def is_dense(text: bytes) -> bool:
    """Whether walking this text bracket by bracket would take too long (over about 0.1 s)."""
    if len(text) <= DENSE:
        return False
    return text.count(b"{") + text.count(b"[") > DENSE or is_heavy(text)


def is_heavy(text: bytes) -> bool:
    """Whether a parser would make so many values of this text that it takes too long.

    Strings, and commas, colons and opening brackets outside them, are counted: more than `VALUES`.
    What is in strings costs nothing, so that a long text passes. A few passes in C, no objects.
    """
    if len(text) <= VALUES or _marks(text) <= VALUES:
        return False
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
    strings = bare.count(b'"') // 2
    return strings > VALUES or strings + _marks(b"".join(bare.split(b'"')[::2])) > VALUES


def _marks(text: bytes) -> int:
    return len(text) - len(text.translate(None, _MARKS))


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
    unfinished number or literal). Bytes after the value, other than white space, clear `valid`,
    and so does `exhausted`: more than `most` tokens; else as many as a text has that is not heavy.
    """

    __slots__ = (
        "done",
        "escape",
        "exhausted",
        "expect",
        "in_string",
        "most",
        "scalar",
        "stack",
        "steps",
        "string_is_key",
        "valid",
    )

    def __init__(self, most: int = _STEPS) -> None:
        self.most = most
        self.stack = bytearray()
        self.expect = VALUE
        self.in_string = False
        self.string_is_key = False
        self.escape = b""
        self.scalar = b""
        self.valid = True
        self.done = False
        self.steps = 0
        self.exhausted = False

    def feed(self, data: bytes) -> bool:
        """Take the next piece; returns `valid`."""
        at, end = 0, len(data)
        self.steps -= 1  # the first may only go on with what the piece before has begun
        while at < end and self.valid:
            self.steps += 1
            if self.steps > self.most:
                self.exhausted = True
                self.valid = False
            elif self.in_string:
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
        stop = at
        while (body := _STRING_BODY.match(data, stop)) is not None:
            stop = body.end()
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
