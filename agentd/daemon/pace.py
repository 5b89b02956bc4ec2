"""When the engine's loop has to look up from its waiting."""

import time
from collections.abc import Callable
from typing import Protocol

HOUSEKEEPING_NS = 250_000_000
"""Records that flow are looked at then, too, all at once: that costs half of one by one."""
SOON_NS = 20_000_000
"""As long they wait where one of them may be of a refusal, or call for a kill."""
_DECIDED_NS = 50_000_000


class Records(Protocol):
    """What the rings have (`Dispatch`)."""

    def busy(self) -> bool:
        """Whether a burst is under way."""

    def puts_off(self) -> int:
        """For how many ns all but holds is better left."""

    def flowing(self) -> bool:
        """Whether more may wait without a wake-up."""


class Rows(Protocol):
    """What waits to be written (`Journal`)."""

    decided: bool

    @property
    def pending(self) -> bool:
        """Whether anything does."""


class Pace:
    """Deadlines of the loop, in ns of CLOCK_MONOTONIC."""

    def __init__(
        self,
        records: Records,
        rows: Rows,
        tells_soon: Callable[[], bool],
        flush_ms: int,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`tells_soon`: whether records that flow should not wait for the chores.

        `flush_ms`: the longest time that an event stays in memory; a decision: 50 ms.
        """
        self._records = records
        self._rows = rows
        self._tells_soon = tells_soon
        self._flush_ns = flush_ms * 1_000_000
        self._clock = clock
        self._flushed = self._next_chores = 0

    def wait_s(self) -> float:
        """Seconds until something is due that nothing wakes the loop for."""
        now = self._clock()
        if self._records.busy():
            return 0.0
        if put_off_ns := self._records.puts_off():
            return put_off_ns / 1e9
        due = self._next_chores
        if self._records.flowing() and self._tells_soon():
            due = min(due, now + SOON_NS)
        if self._rows.pending:
            due = min(due, self._flushed + self._patience_ns)
        return max(0, due - now) / 1e9

    def flush_is_due(self) -> bool:
        """Whether what waits is to be written now; then it counts as done."""
        now = self._clock()
        if now - self._flushed < self._patience_ns:
            return False
        self._flushed = now
        return True

    def chores_due(self) -> int | None:
        """The number of the chores' turn if it has come; then it counts as done."""
        now = self._clock()
        if now < self._next_chores:
            return None
        self._next_chores = now + HOUSEKEEPING_NS
        return now // HOUSEKEEPING_NS

    @property
    def _patience_ns(self) -> int:
        return min(self._flush_ns, _DECIDED_NS) if self._rows.decided else self._flush_ns
