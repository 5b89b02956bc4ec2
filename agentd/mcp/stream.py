"""From the chunks of one byte stream to messages, whichever way its reader frames them.

MCP ends a message with a newline. Readers built on a streaming decoder (Go's `json.Decoder`) take a
value that spans lines, and one whose newline has not come yet; both must be seen too.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agentd.mcp import jsonrpc
from agentd.mcp.framing import DEFAULT_LIMIT, Frame, LineFramer
from agentd.mcp.jsonrpc import Message
from agentd.mcp.jsontext import Scanner

_LONGEST_SPAN = 1 << 20
_LINES_AT_ONCE = 1024
_OPENERS = (b"{", b"[")
_CLOSERS = (b"}", b"]")


@dataclass(slots=True)
class Line:
    """A line, or a value over several lines, and its messages ([]: not JSON).

    `garbled`: it is not JSON, nor the first line of a value, and yet more lenient parsers than ours
    (trailing commas, comments, bare keys) might find an object in it.
    """

    frame: Frame
    messages: list[Message]
    garbled: bool = False


class MessageStream:
    """Messages of one direction of one channel.

    `framer` is the line framer underneath: its `lost()`, `synced` and `oversized` are for the
    caller.
    """

    __slots__ = ("_early", "_fed", "_oversized", "_scanner", "_span", "_span_start", "framer")

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.framer = LineFramer(limit)
        self._oversized = 0
        self._scanner = Scanner()
        self._fed = 0  # bytes of the unfinished line that the scanner has seen
        self._early = 0  # bytes of the unfinished line that were told as a message already
        self._span = b""  # lines before the current one, if together they begin a value
        self._span_start = 0  # where that began, as an offset in the current chunk

    def feed(self, chunk: bytes, between: Callable[[], None] = lambda: None) -> list[Line]:
        """Take the next chunk; returns what became complete in it, in order.

        A message over several lines comes after the lines it spans (which are not JSON by
        themselves), with the frame of the whole span and the anomaly "multi-line". A message
        whose newline is still missing comes at once, with the anomaly "no-newline" and a frame
        that ends with the chunk; it is not returned again when only its newline follows. One that
        is too long to be followed is told as "over-limit"; the rest of its line is lost. `between`
        is called now and then where the lines are many.
        """
        lines: list[Line] = []
        frames = self.framer.feed(chunk)
        if self.framer.oversized != self._oversized:
            self._oversized = self.framer.oversized
            self._forget()
        for index, frame in enumerate(frames):
            if index % _LINES_AT_ONCE == _LINES_AT_ONCE - 1:
                between()
            if self._early and self._told(frame, lines):
                continue
            messages = jsonrpc.parse(frame.raw)
            lines.append(Line(frame, messages))
            if self._span or not messages:
                self._follow(frame, messages, lines)
            self._fed = 0
        if self.framer.pending_size and chunk.rstrip()[-1:] in _CLOSERS:
            self._peek(chunk, lines)
        if self._span:
            self._span_start -= len(chunk)
        return lines

    def lost(self) -> None:
        """Say that bytes of the stream are missing here: nothing is told until a new line."""
        self.framer.lost()
        self._forget()

    def _forget(self) -> None:
        self._fed = self._early = 0
        self._span = b""

    def _told(self, frame: Frame, lines: list[Line]) -> bool:
        """Whether this line was told before its newline came; anything more on it counts anew."""
        early, self._early = self._early, 0
        if frame.raw[early:].strip(b" \t\r"):
            return False
        if self._span:  # told as the end of a span: what it is by itself is still to be told
            lines.append(Line(frame, jsonrpc.parse(frame.raw)))
        self._forget()
        return True

    def _follow(self, frame: Frame, messages: list[Message], lines: list[Line]) -> None:
        """Let the value that earlier lines began go on, or begin one with this line."""
        raw = frame.raw
        if self._span:
            self._scanner.feed(raw[self._fed :] + b"\n")
            whole = self._joined(raw, frame.start)
            if self._scanner.done and self._scanner.valid:
                self._span = b""
                self._tell(whole, self._span_start, frame.end, ("multi-line",), lines)
                return
            if self._scanner.valid and len(whole) <= _LONGEST_SPAN:
                self._span = whole
                return
            self._span = b""
            self._fed = 0
            if self._scanner.valid or self._scanner.exhausted:
                over = Frame(whole, self._span_start, frame.end)
                lines.append(Line(over, [_over_limit(whole, "multi-line")]))
                return
        if messages:
            return
        if raw.lstrip()[:1] in _OPENERS:
            if not self._fed:
                self._scanner = Scanner()
            if self._scanner.feed(raw[self._fed :] + b"\n") and not self._scanner.done:
                self._span = raw
                self._span_start = frame.start
                return
        lines[-1].garbled = b"{" in raw

    def _peek(self, chunk: bytes, lines: list[Line]) -> None:
        """Tell the unfinished line if its value is complete."""
        if self._early:
            return
        if not self._fed and not self._span:
            self._scanner = Scanner()
        new = self.framer.since(self._fed)
        self._fed += len(new)
        if self._scanner.feed(new) and not self._scanner.done:
            return
        if not self._scanner.valid and not self._scanner.exhausted:
            return
        raw = self.framer.pending
        start = len(chunk) - len(raw)
        odd: tuple[str, ...] = ("no-newline",)
        if self._span:
            raw = self._joined(raw, start)
            start = self._span_start
            odd = ("multi-line", "no-newline")
        if self._scanner.exhausted:
            frame = Frame(raw, start, len(chunk))
            lines.append(Line(frame, [_over_limit(raw, *odd)]))
            self.lost()
        elif self._tell(raw, start, len(chunk), odd, lines):
            self._early = self.framer.pending_size

    def _joined(self, raw: bytes, start: int) -> bytes:
        """Join the span and `raw`, with the white space between them in its length."""
        gap = start - self._span_start - len(self._span)
        return self._span + b"\n" * gap + raw

    @staticmethod
    def _tell(raw: bytes, start: int, end: int, odd: tuple[str, ...], lines: list[Line]) -> bool:
        messages = jsonrpc.parse(raw)
        for message in messages:
            message.anomalies = (*message.anomalies, *odd)
        if all(message.kind == "invalid" for message in messages):
            return False
        lines.append(Line(Frame(raw, start, end), messages))
        return True


def _over_limit(raw: bytes, *odd: str) -> Message:
    message = jsonrpc.over_limit(raw)
    message.anomalies = (*message.anomalies, *odd)
    return message
