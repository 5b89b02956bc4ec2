"""Whether polling between the calls of a row makes the row faster: tried, as it depends.

In a virtual machine a wake-up takes longer than a verdict. An engine that polls spares it, and
keeps client and server on the CPU that it leaves to them, where they wake each other cheaply. From
a client that works on while its server does, it takes more than that is worth.
"""

from typing import Final

BLOCK: Final = 128
"""Calls in a row by which one way is judged."""
SETTLING: Final = 128
"""Calls before them that are not counted: the scheduler moves tasks in the meantime."""
STANDS: Final = 4096
"""Calls in a row for which the better way is kept."""
WORTH: Final = 0.95
"""Polling takes a CPU: it is better only if it leaves less than this part of the time."""
_WAYS: Final = 2


class PollingTrial:
    """Both ways in turns, then the better one for a while, then again."""

    def __init__(self, row_gap_ns: int) -> None:
        """Holds less than `row_gap_ns` after the one before are of the same row."""
        self._row_gap_ns = row_gap_ns
        self._last_ns = 0
        self._in_row = False
        self._polling = False
        self._tried: list[int] = []  # ns that a block took: without polling, with it
        self._count = self._sum_ns = self._disturbances = 0

    @property
    def polls(self) -> bool:
        """Whether to poll for the next hold."""
        return self._polling and self._in_row

    def held(self, now_ns: int) -> None:
        """A hold is done with, at `now_ns` (any monotonic clock)."""
        gap_ns = now_ns - self._last_ns
        self._last_ns = now_ns
        self._in_row = gap_ns < self._row_gap_ns
        if not self._in_row:
            return
        self._count += 1
        if len(self._tried) == _WAYS:
            if self._count == STANDS:
                self._tried = []
                self._begin(polling=False)
            return
        if self._count > SETTLING:
            self._sum_ns += gap_ns
        if self._count == SETTLING + BLOCK:
            self._tried.append(self._sum_ns)
            without, *polling = self._tried
            self._begin(polling=not polling or polling[0] < WORTH * without)

    def disturbed(self) -> None:
        """Somebody else ran on the CPU that is polled on. Beside a busy one it is given up."""
        self._disturbances += 1
        if self._polling and 2 * self._disturbances > self._count + SETTLING:
            self._tried = [0] * _WAYS
            self._begin(polling=False)

    def _begin(self, *, polling: bool) -> None:
        self._polling = polling
        self._count = self._sum_ns = self._disturbances = 0
