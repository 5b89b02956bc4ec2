"""The messages of one direction of a channel, by what is about to be written to it.

A channel may take a write in part, or not at all (EAGAIN, EINTR); the rest is written once more,
and is not judged once more. How much was taken is known only when the next write comes.
"""

from agentd.mcp.framing import DEFAULT_LIMIT
from agentd.mcp.stream import MessageStream


class Outgoing:
    """`stream` is fed by the caller, with what `follow` has not found to be judged already."""

    __slots__ = ("_cut", "_given", "_head", "_judged", "_position", "stream")

    def __init__(self, position: int) -> None:
        """`position`: how many bytes the channel has taken so far, unseen."""
        self.stream = MessageStream()
        self._position = position
        self._head = bytearray()  # what the channel has taken of a line that has not ended
        self._cut = False  # that was too long to be kept
        self._judged = b""  # let go, and not known to be taken
        self._given = b""  # the same before refusals were put into it

    def follow(self, position: int, data: bytes, *, settled: bool = True) -> bytes:
        """Return what of `data` has been judged already, as it is to be written now.

        `data` is to be written when the channel has taken `position` bytes in all. Not `settled`:
        a write before it has not returned, and may be taken or not.
        """
        if not settled:
            return b""
        taken = position - self._position
        if 0 <= taken <= len(self._judged):
            self._take(taken)
        else:  # others have been let through unseen
            self._position = position
            self._judged = self._given = b""
            self._end_line(b"")
            self.stream = MessageStream()
        for again in (self._judged, self._given):
            if data.startswith(again) or again.startswith(data):
                return self._judged[: len(data)]
        self._judged = self._given = b""
        self.stream = MessageStream()
        self.stream.feed(bytes(self._head))
        if self._cut:
            self.stream.lost()
        return b""

    def let_go(self, given: bytes, judged: bytes) -> None:
        """Take what was to be written, and what is in its place now."""
        self._given += given
        self._judged += judged

    def _take(self, count: int) -> None:
        end = self._judged.rfind(b"\n", 0, count) + 1
        if end:
            self._end_line(self._judged[end:count])
        elif not self._cut:
            self._head += self._judged[:count]
            if len(self._head) > DEFAULT_LIMIT:
                self._head.clear()
                self._cut = True
        self._judged = self._judged[count:]
        self._given = self._given[count:]
        self._position += count

    def _end_line(self, rest: bytes) -> None:
        self._head = bytearray(rest)
        self._cut = False
