"""Whether polling between the calls of a row makes the row faster: tried, as it depends.

In a virtual machine a wake-up takes longer than a verdict. An engine that polls spares it, and
keeps client and server on the CPU that it leaves to them, where they wake each other cheaply. From
a client that works on while its server does, it takes more than that is worth.
"""

from collections import deque
from typing import Final, Literal

BLOCK: Final = 128
"""Calls in a row whose median tells how good a way is: in some, garbage is collected."""
SETTLING: Final = 128
"""Calls before them that are not counted: the scheduler moves tasks in the meantime."""
GLANCE: Final = 32
"""The last calls of a trial that may end it early; looked at from half of `SETTLING` on."""
STANDS: Final = 512
"""Calls in a row for which a new choice is kept: the programs were cold, or had a bad spell."""
STANDS_MOST: Final = 4096
"""Calls in a row for which a choice is kept that several trials have borne out."""
_GROWTH: Final = 4
WORTH: Final = 0.95
"""Polling takes a CPU: it is better only if it leaves less than this part of the time."""
MUCH_WORSE: Final = 1.2
"""A way that takes so many times as long is not tried to the end."""


class PollingTrial:
    """One way until the other is tried, then the better one; for longer each time it is kept.

    A row has bad spells, whichever way. The other way is chosen only if it is better than the one
    in force was before the trial, and than that is when it has been taken up again after it.
    """

    def __init__(self, row_gap_ns: int) -> None:
        """Holds less than `row_gap_ns` after the one before are of the same row."""
        self._row_gap_ns = row_gap_ns
        self._last_ns = 0
        self._in_row = False
        self._polling = False
        self._phase: Literal["stands", "other", "again"] = "stands"
        self._before_ns = self._other_ns = 0
        self._stands = self._next_stands = STANDS
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
        if self._phase == "stands":
            if self._count >= self._stands:
                self._before_ns = self._typical()
                self._begin("other", polling=not self._polling)
        elif self._count == SETTLING + BLOCK:
            self._judge()
        elif self._phase == "other" and self._is_much_worse():
            self._choose(polling=not self._polling)

    def disturbed(self) -> None:
        """Somebody else ran on the CPU that is polled on. Beside a busy one it is given up."""
        self._disturbances += 1
        if self._polling and 2 * self._disturbances > self._count + SETTLING:
            self._choose(polling=False)

    def _judge(self) -> None:
        """The other way has been tried, or the one in force before has been looked at again."""
        if self._phase == "other":
            self._other_ns = self._typical()
            if self._other_is_better_than(self._before_ns):
                self._begin("again", polling=not self._polling)
            else:
                self._choose(polling=not self._polling)
        else:
            self._choose(polling=self._polling ^ self._other_is_better_than(self._typical()))

    def _other_is_better_than(self, in_force_ns: int) -> bool:
        if self._polling ^ (self._phase == "again"):  # the other way is polling
            return self._other_ns < WORTH * in_force_ns
        return WORTH * self._other_ns <= in_force_ns

    def _is_much_worse(self) -> bool:
        if self._count % GLANCE or self._count < SETTLING // 2 + GLANCE:
            return False
        return self._typical(GLANCE) > MUCH_WORSE * self._before_ns

    def _typical(self, calls: int = BLOCK) -> int:
        """The median of the last calls."""
        gaps = sorted(list(self._gaps)[-calls:])
        return gaps[len(gaps) // 2]

    def _choose(self, *, polling: bool) -> None:
        in_force = self._polling ^ (self._phase == "other")
        if polling != in_force:
            self._next_stands = STANDS
        self._stands = self._next_stands
        self._next_stands = min(_GROWTH * self._stands, STANDS_MOST)
        self._begin("stands", polling=polling)

    def _begin(self, phase: Literal["stands", "other", "again"], *, polling: bool) -> None:
        self._phase = phase
        self._polling = polling
        self._count = self._disturbances = 0
