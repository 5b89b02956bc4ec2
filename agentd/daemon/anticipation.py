"""Has the engine awake when a hold comes: waking up for it takes longer than its verdict.

Where calls come in rows, the engine polls for a moment after each hold: if a CPU is left that
neither client nor server wants, or if that turns out to make the row faster. And who writes to a
channel wakes the engine by the same call that wakes the reader: it is there when the reader has
what was written, and is held.

The engine waits for the channels of others without a descriptor of its own: what is registered goes
with the last descriptor of the channel's parties (epoll(7), questions and answers), so both see
each other's end as if nobody looked.
"""

import os
import select
import time
from collections.abc import Callable

from agentd.daemon.trial import PollingTrial
from agentd.kernel.maps import HoldValue
from agentd.kernel.peek import duplicate
from agentd.kernel.wire import HOLD_READ

_READS_WITHIN_NS = 100_000
_OTHERS_RAN_NS = 100_000
_PARTIES = 2
_ROOM_STANDS_NS = 100_000_000  # what affinities leave seldom changes
_CHANNELS_MAX = 4096


class Anticipation:
    """What holds tell about the next one."""

    def __init__(
        self, has_holds: Callable[[], bool], judge: Callable[[], object], linger_us: int
    ) -> None:
        """`judge` takes all holds there are. With a `linger_us` of 0 nothing is anticipated."""
        self._has_holds = has_holds
        self._judge = judge
        self._linger_ns = linger_us * 1000
        self._trial = PollingTrial(self._linger_ns)
        self._patience_ns = _READS_WITHIN_NS
        self._allowed = os.sched_getaffinity(0)
        self._writes = select.epoll()
        # Always ready: a wake-up is told even if the reader was faster than this process, and has
        # what was written. Its hold comes within microseconds; to sleep again would cost more.
        self._writes.register(os.eventfd(1), select.EPOLLIN)
        self._watched: set[tuple[int, int, int]] = set()
        self._last_ns = 0
        self._has_room = self._polls = False
        self._room_for = self._room_until_ns = 0  # whose thread was asked about it, and till when

    def fileno(self) -> int:
        """Readable, edge-triggered, whenever somebody has written to a channel."""
        return self._writes.fileno()

    def judged(self, hold: HoldValue) -> None:
        """A hold is done with."""
        if not self._linger_ns:
            return
        self._last_ns = time.monotonic_ns()
        self._patience_ns = _READS_WITHIN_NS
        self._trial.held(self._last_ns)
        if hold.tid != self._room_for or self._last_ns >= self._room_until_ns:
            self._look_for_room(hold.tid)
        self._polls = self._has_room or self._trial.polls
        channel = hold.ino, hold.tgid, hold.start_ns
        if hold.kind == HOLD_READ and channel not in self._watched:
            self._watch(hold.tgid, hold.fd)
            if len(self._watched) >= _CHANNELS_MAX:
                self._watched.clear()
            self._watched.add(channel)

    def stay(self, until_ns: int) -> None:
        """Judges what comes in the next moment, until `until_ns` (CLOCK_MONOTONIC) at most."""
        now = time.monotonic_ns
        if self._linger_ns and len(self._writes.poll(0)) > 1:
            self._await_reader()
        while self._polls and (before := now()) < min(self._last_ns + self._linger_ns, until_ns):
            if self._has_holds():
                self._judge()
                continue
            os.sched_yield()  # whoever else wants this CPU comes first
            if not self._has_room and now() - before > _OTHERS_RAN_NS:
                self._trial.disturbed()

    def _look_for_room(self, tid: int) -> None:
        self._room_for, self._room_until_ns = tid, self._last_ns + _ROOM_STANDS_NS
        try:
            self._has_room = leaves_room(self._allowed, os.sched_getaffinity(tid))
        except ProcessLookupError:
            self._has_room = False

    def _await_reader(self) -> None:
        """Somebody has written; nobody may hold up others by writing what is never read."""
        now = time.monotonic_ns
        until_ns = now() + self._patience_ns
        while not self._has_holds():
            if now() >= until_ns:
                self._patience_ns //= 2
                return
        self._judge()

    def _watch(self, tgid: int, fd: int) -> None:
        copy = duplicate(tgid, fd)
        if copy is None:
            return
        try:
            self._writes.register(copy, select.EPOLLIN | select.EPOLLET)
        except OSError:
            pass  # known already, or of a kind that tells nobody
        finally:
            os.close(copy)


def leaves_room(allowed: set[int], wanted: set[int]) -> bool:
    """Whether a client and a server that may run on `wanted` leave one of the `allowed` CPUs."""
    return len(allowed | wanted) > min(len(wanted), _PARTIES)
