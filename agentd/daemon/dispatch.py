"""Takes records out of the rings and hands each to who understands it."""

import time
from collections import deque
from collections.abc import Callable

from agentd.daemon.activity import Activity, refreshed
from agentd.daemon.anticipation import Anticipation
from agentd.daemon.calls import Calls
from agentd.daemon.labelling import Labelling
from agentd.daemon.messages import Messages
from agentd.daemon.placement import Placement
from agentd.daemon.writeholds import WriteHolds
from agentd.enforce.approvals import Approvals
from agentd.enforce.stops import Stops
from agentd.kernel.decide_wire import HOOK_WRITE
from agentd.kernel.maps import HoldValue, KernelMaps
from agentd.kernel.ring import RingReader
from agentd.kernel.wire import (
    DATA,
    HOLD,
    HOLD_CALL,
    HOLD_EXEC,
    HOLD_OPEN,
    HOLD_READ,
    MAX_CPUS,
    REC_CANDIDATE,
    REC_CHANGE,
    REC_DATA,
    REC_EXEC,
    REC_EXIT,
    REC_FORK,
    REC_OPEN,
    REC_REFUSAL,
    REC_SOCKET,
    RECORD,
)
from agentd.workloads.identity import ProcessKey

Beat = Callable[[], None]
_QUIET_US = 100_000
_QUIET_SOON_US = 25_000
_SLACK_US = 5_000
_HOLDS_AT_ONCE = 64
_PUT_OFF_NS = 20_000_000


class Dispatch:
    """Both rings. The holds ring is looked at between all records of the other."""

    def __init__(  # noqa: PLR0917 (one of each of the engine's parts)
        self,
        kernel: KernelMaps,
        labelling: Labelling,
        stops: Stops,
        approvals: Approvals,
        messages: Messages,
        activity: Activity,
        calls: Calls,
        writes: WriteHolds,
        linger_us: int,
    ) -> None:
        self._kernel = kernel
        self._labelling = labelling
        self._stops = stops
        self._approvals = approvals
        self._messages = messages
        messages.catch_up = self._catch_up
        self.beat: Beat = lambda: None
        """Says that holds are judged; called after each, and between records."""
        self._activity = activity
        self._calls = calls
        self._writes = writes
        self._events = RingReader(kernel.events.fd, kernel.events.max_entries)
        self._hold_ring = RingReader(kernel.hold_ring.fd, kernel.hold_ring.max_entries)
        self._taken: deque[bytes] = deque()
        """Off the ring and not looked at yet: a hold that comes in between is of later."""
        self._pending_seen: set[int] = set()
        self.placement = Placement()
        self.anticipation = Anticipation(self.has_holds, self.holds, linger_us)
        self._put_off_until_ns = 0
        self._looked_ns = self._found_ns = 0
        self._quiet_us = 0
        self.records = 0

    def busy(self) -> bool:
        """Whether a burst is under way that should not wait for the next tick."""
        return self._events.pending() > self._kernel.events.max_entries // 64

    def told(self) -> int:
        """Where the newest record stands: `past` it, what has happened until now is taken in."""
        return self._events.produced

    def past(self, told: int) -> bool:
        """Whether every record up to there is taken in."""
        return self._events.position >= told and not self._taken

    def puts_off(self) -> int:
        """For how many ns all but holds is better left: 0, or 20 ms at most.

        After a hold the task that goes on and its client want the CPUs, and the next may come.
        """
        return 0 if self.busy() else max(0, self._put_off_until_ns - time.monotonic_ns())

    def expect(self, *, soon: bool) -> None:
        """Has the kernel wake for a record after a pause; a shorter one where it matters `soon`.

        In a build, whose processes pause for less than 100 ms, that spares a quarter of the
        engine's CPU time.
        """
        quiet_us = _QUIET_SOON_US if soon else _QUIET_US
        if quiet_us != self._quiet_us:
            self._kernel.set_quiet(quiet_us)
            self._quiet_us = quiet_us

    def flowing(self) -> bool:
        """Whether records have come a moment ago, so that more may wait without a wake-up."""
        return self._looked_ns - self._found_ns < (self._quiet_us + _SLACK_US) * 1000

    def holds(self) -> None:
        """Judges every task that the holds ring tells of."""
        while records := self._hold_ring.read(_HOLDS_AT_ONCE):
            for record in records:
                hold = HoldValue(*HOLD.unpack_from(record))
                self._hold(hold, record[HOLD.size :])
                self.beat()
                if hold.cpu < MAX_CPUS:
                    self.placement.keep_off(hold.cpu)
                self.anticipation.judged(hold)
            if not self._put_off_until_ns:
                self._put_off_until_ns = time.monotonic_ns() + _PUT_OFF_NS

    def has_holds(self) -> bool:
        """Whether the holds ring tells of a task that is not judged yet."""
        return self._hold_ring.pending() > 0

    def glance(self) -> None:
        """Judges what is held, in the middle of other work."""
        if self.has_holds():
            self.holds()

    def linger(self) -> None:
        """Stays with the holds ring for a moment where the next hold is to be expected."""
        self.anticipation.stay(self._put_off_until_ns)

    def drain(self, limit: int) -> None:
        """At most a ring's worth of telemetry, `limit` records at once; holds come in between."""
        self._put_off_until_ns = 0
        budget = 32
        while budget and self._take(limit):
            budget -= 1
            self.beat()
            if self.busy():
                self.placement.stand(behind=False)
            while self._taken:
                self._record(self._taken.popleft())
                self.glance()
                self.placement.let_pass()
        while self._messages.tell():
            self.glance()
            self.placement.let_pass()

    def close(self) -> None:
        """What was judged is told."""
        while self._messages.tell():
            pass

    def _catch_up(self) -> None:
        """Takes in all that was told before a stop: forks, execs, links, marks; no flood hides it.

        A record that another CPU has not finished yet ends it.
        """
        told = self.told()
        while not self.past(told) and (self._taken or self._take(_HOLDS_AT_ONCE)):
            while self._taken:
                self._record(self._taken.popleft())
            self.beat()

    def _take(self, limit: int) -> bool:
        """At most `limit` records off the ring; False if there is none."""
        records = self._events.read(limit)
        self._taken.extend(records)
        self.records += len(records)
        self._looked_ns = time.monotonic_ns()
        if records:
            self._found_ns = self._looked_ns
        return bool(records)

    def sweep(self) -> None:
        """Holds whose record did not fit the ring, or whose stop took unusually long."""
        pending: set[int] = set()
        for hold in self._kernel.held():
            if hold.id not in self._pending_seen:
                pending.add(hold.id)
            else:
                self._hold(hold, b"")
        self._pending_seen = pending

    def _hold(self, hold: HoldValue, names: bytes) -> None:
        if hold.kind == HOLD_READ:
            self._messages.on_hold(hold, names)
            return
        if not self._stops.take(hold):
            return
        session = self._labelling.registry.by_number(hold.session)
        if session is None:
            self._stops.go_on(hold)
            return
        self._catch_up()
        info = self._labelling.process(hold.tgid, hold.start_ns, session)
        if hold.kind == HOLD_EXEC:
            self._activity.on_exec_hold(hold, session, info, names)
        elif hold.kind == HOLD_CALL and hold.syscall == HOOK_WRITE:
            self._writes.on_hold(hold, session, info)
        elif hold.kind == HOLD_CALL:
            info = refreshed(self._labelling, hold, info)
            self._calls.on_hold(hold, session, info, names)
        elif hold.kind == HOLD_OPEN:
            info = refreshed(self._labelling, hold, info)
            self._activity.files.on_open_hold(hold, session, info, names)

    def _record(self, record: bytes) -> None:
        head = RECORD.unpack_from(record)
        kind, _, number, time_ns, start_ns, tgid = head[:6]
        while self._messages.tell(time_ns):
            pass
        if kind == REC_CANDIDATE:
            self._labelling.candidate(tgid, record)
            return
        session = self._labelling.registry.by_number(number)
        if session is None:
            return
        if kind == REC_EXEC:
            self._activity.on_exec(record, session, ProcessKey(tgid, start_ns))
            return
        info = self._labelling.process(tgid, start_ns, session)
        if kind == REC_DATA:
            fields = DATA.unpack_from(record)
            ino, peer_ino, _, length, flags, _ = fields[10:]
            data = record[DATA.size : DATA.size + length]
            self._messages.on_data(session, info, time_ns, ino, peer_ino, flags, data)
        elif kind == REC_OPEN:
            self._activity.files.on_open(record, session, info)
        elif kind == REC_SOCKET:
            self._activity.network.on_socket(record, session, info)
        elif kind == REC_CHANGE:
            self._activity.files.on_change(record, session, info)
        elif kind == REC_REFUSAL:
            self._calls.on_refusal(record, session, info)
        elif kind == REC_FORK:
            self._activity.on_fork(record, session, info)
        elif kind == REC_EXIT:
            self._stops.forget_process(tgid, start_ns)
            self._approvals.gone(tgid)
            self._activity.on_exit(record, session, info)
