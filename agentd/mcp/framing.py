"""Cutting a byte stream into lines: the framing of MCP over stdio, all protocol versions."""

from dataclasses import dataclass

DEFAULT_LIMIT = 64 << 20
"""Longest line kept, in bytes."""

_CLOSER = ord("}")


@dataclass(slots=True)
class Frame:
    """One line that ended in the chunk just fed.

    `raw` is the line as it stood on the wire, without its newline and the carriage returns before
    it. `start` and `end` are byte offsets in that chunk: `start` is negative if the line began
    in earlier chunks (by as many bytes as were there), `end` is just past the newline.
    """

    raw: bytes
    start: int
    end: int

    @property
    def head(self) -> bytes:
        """What of the line was in earlier chunks, and so with its reader already."""
        return self.raw[: -self.start] if self.start < 0 else b""


class LineFramer:
    """Lines out of the chunks of one byte stream. Linear in the bytes fed, whatever their cut.

    A line longer than `limit` bytes is dropped and counted in `oversized`; while its rest is still
    arriving, and after `lost()`, `synced` is False: what passes then was not seen whole.
    """

    __slots__ = ("_limit", "_parts", "_size", "oversized", "synced")

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.oversized = 0
        self.synced = True

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next chunk; returns the lines that ended in it, blank ones left out."""
        stop = chunk.find(b"\n")
        if stop < 0:
            self._keep(chunk)
            return []
        if stop == len(chunk) - 1 and self.synced and not self._size and stop <= self._limit:
            if chunk[stop - 1] == _CLOSER:  # as nearly all lines end
                return [Frame(chunk[:stop], 0, stop + 1)]
            raw = chunk[:stop].rstrip(b"\r")
            return [Frame(raw, 0, stop + 1)] if raw and not raw.isspace() else []
        return self._lines(chunk, stop)

    def _lines(self, chunk: bytes, stop: int) -> list[Frame]:
        frames: list[Frame] = []
        start = 0
        while stop >= 0:
            if not self.synced:
                self.synced = True
            elif self._size + stop - start > self._limit:
                self.oversized += 1
            else:
                raw = chunk[start:stop]
                if self._size:
                    raw = b"".join((*self._parts, raw))
                raw = raw.rstrip(b"\r")
                if raw and not raw.isspace():
                    frames.append(Frame(raw, start - self._size, stop + 1))
            self._parts.clear()
            self._size = 0
            start = stop + 1
            stop = chunk.find(b"\n", start)
        if start < len(chunk):
            self._keep(chunk[start:])
        return frames

    def _keep(self, part: bytes) -> None:
        if not self.synced or not part:
            return
        if self._size + len(part) > self._limit:
            self.oversized += 1
            self.lost()
            return
        self._parts.append(part)
        self._size += len(part)

    @property
    def pending(self) -> bytes:
        """Head of the unfinished line. Joins what has arrived: do not ask once a chunk."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0] if self._parts else b""

    def since(self, offset: int) -> bytes:
        """Bytes of the unfinished line from `offset` on, without joining what stands before."""
        taken: list[bytes] = []
        need = self._size - offset
        for part in reversed(self._parts):
            if need <= 0:
                break
            taken.append(part[-need:])
            need -= len(part)
        return b"".join(reversed(taken))

    @property
    def pending_size(self) -> int:
        """Bytes of the unfinished line."""
        return self._size

    def lost(self) -> None:
        """Say that bytes of the stream are missing here: drop everything up to the next newline."""
        self._parts.clear()
        self._size = 0
        self.synced = False
