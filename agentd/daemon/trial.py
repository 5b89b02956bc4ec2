"""Whether polling between the calls of a row makes the row faster: tried, as it depends.

In a virtual machine a wake-up takes longer than a verdict. An engine that polls spares it, and
keeps client and server on the CPU that it leaves to them, where they wake each other cheaply. From
a client that works on while its server does, it takes more than that is worth.
"""

from collections import deque
from typing import Final

BLOCK: Final = 128
"""Calls in a row whose median tells how good a way is: in some, garbage is collected."""
SETTLING: Final = 128
"""Calls before them that are not counted: the scheduler moves tasks in the meantime."""
STANDS: Final = 512
"""Calls in a row for which a new choice is kept: the programs were cold, or had a bad spell."""
STANDS_MOST: Final = 4096
"""Calls in a row for which a choice is kept that several trials have borne out."""
_GROWTH: Final = 4
WORTH: Final = 0.95
"""Polling takes a CPU: it is better only if it leaves less than this part of the time."""


class PollingTrial:
    """One way until the other is tried, then the better one; for longer each time it is kept."""

    def __init__(self, row_gap_ns: int) -> None:
        """Holds less than `row_gap_ns` after the one before are of the same row."""
        self._row_gap_ns = row_gap_ns
        self._last_ns = 0
        self._in_row = False
        self._polling = False
        self._rival_ns: int | None = None  # what the other way took; None: this one stands
        self._stands = SETTLING + BLOCK
        self._next_stands = STANDS
        self._gaps: deque[int] = deque(maxlen=BLOCK)
        self._count = self._disturbances = 0

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
        self._gaps.append(gap_ns)
        if self._rival_ns is None:
            if self._count >= self._stands:
                self._rival_ns = self._typical()
                self._begin(polling=not self._polling)
        elif self._count == SETTLING + BLOCK:
            times = self._rival_ns, self._typical()
            without, polling = times if self._polling else times[::-1]
            self._choose(polling=polling < WORTH * without)

    def disturbed(self) -> None:
        """Somebody else ran on the CPU that is polled on. Beside a busy one it is given up."""
        self._disturbances += 1
        if self._polling and 2 * self._disturbances > self._count + SETTLING:
            self._choose(polling=False)

    def _typical(self) -> int:
        """The median of the last calls."""
        return sorted(self._gaps)[len(self._gaps) // 2]

    def _choose(self, *, polling: bool) -> None:
        on_trial = self._rival_ns is not None
        if polling != (self._polling ^ on_trial):  # the way that was in force before
            self._next_stands = STANDS
        self._rival_ns = None
        self._stands = self._next_stands
        self._next_stands = min(_GROWTH * self._stands, STANDS_MOST)
        self._begin(polling=polling)

    def _begin(self, *, polling: bool) -> None:
        self._polling = polling
        self._count = self._disturbances = 0
