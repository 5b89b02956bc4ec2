"""What is done to a stopped process once it is judged: goes on, or is killed.

The order makes a crash harmless: the map says "decided" before SIGCONT is sent and forgets the
hold after it, so the supervisor never judges again what was judged, and never misses a stop.
"""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

from agentd.kernel.maps import HoldValue, KernelMaps

_STOP_PATIENCE_S = 0.05
_STARVED_S = 1.0
_SPIN_S = 0.0005
_STOPPED = frozenset("Tt")


class Stops:
    """The stopped tasks that the engine knows of, by process."""

    def __init__(self, kernel: KernelMaps) -> None:
        self._kernel = kernel
        self._waiting: dict[int, int] = {}  # holds by process
        self._open: set[int] = set()

    def take(self, hold: HoldValue) -> bool:
        """Takes a hold on; False if somebody has resolved it already, or it was taken before."""
        if hold.id in self._open:
            return False
        if not self._kernel.waits.is_waiting(hold.cpu, hold.id) and not self._kernel.is_held(hold):
            return False
        self._open.add(hold.id)
        self._waiting[hold.tgid] = self._waiting.get(hold.tgid, 0) + 1
        return True

    def go_on(self, hold: HoldValue) -> None:
        """Lets the task go on, unless another thread of its process is stopped for a verdict."""
        seen = self._sees_it_itself(hold)  # before all else: the task waits for it
        last = self._forget(hold)
        if seen or self._sees_it_itself(self._kernel.now(hold)):
            return
        if not self._kernel.mark_decided(hold):
            return
        if last:
            with contextlib.suppress(ProcessLookupError):
                os.kill(hold.tgid, signal.SIGCONT)
        self._kernel.drop_hold(hold)

    def is_held(self, hold: HoldValue) -> bool:
        """Whether the task has been kept from going on up to now."""
        if self._kernel.waits.is_waiting(hold.cpu, hold.id):
            return True
        return is_stopped(hold.tgid, hold.tid)

    def _sees_it_itself(self, hold: HoldValue) -> bool:
        """Says that the hold is decided; True if its task has not given up waiting before.

        The task then forgets the hold, even if this process ends here.
        """
        waits = self._kernel.waits
        if not waits.is_waiting(hold.cpu, hold.id):
            return False
        waits.decide(hold.cpu, hold.id)
        if waits.has_seen(hold.cpu, hold.id):
            return True
        if not waits.is_stopping(hold.cpu, hold.id) and waits.is_waiting(hold.cpu, hold.id):
            return True
        # A few instructions of its CPU: but that one may have other work first.
        begun = time.monotonic()
        while waits.is_waiting(hold.cpu, hold.id) and (now := time.monotonic()) < begun + 1.0:
            if now > begun + _SPIN_S:
                time.sleep(_SPIN_S)
        return waits.has_seen(hold.cpu, hold.id)

    def kill(self, hold: HoldValue) -> bool:
        """Kills the held process; False if it is gone."""
        done = kill_process(self._kernel, hold.tgid, hold.start_ns)
        self._forget(hold)
        self._kernel.drop_hold(hold)
        return done

    def forget_process(self, tgid: int, start_ns: int) -> None:
        """The process has exited; its holds end with it."""
        if tgid in self._waiting:
            for hold in self._kernel.held():
                if hold.tgid == tgid and hold.start_ns == start_ns:
                    self._forget(hold)
                    self._kernel.drop_hold(hold)

    def _forget(self, hold: HoldValue) -> bool:
        """True if no other hold of the process is open."""
        if hold.id not in self._open:
            return hold.tgid not in self._waiting
        self._open.remove(hold.id)
        left = self._waiting.pop(hold.tgid) - 1
        if left:
            self._waiting[hold.tgid] = left
        return not left


def is_stopped(tgid: int, tid: int) -> bool:
    """Whether a held thread is stopped (by the signal or its tracer), or so within 50 ms.

    One that gets no CPU to take its stop with has not run either: for that there is a second. False
    means that it has run since: anybody with the right uid can send SIGCONT to a held process, and
    on this tier nothing can refuse it.
    """
    begun = time.monotonic()
    while True:
        state = thread_state(tgid, tid)
        if state in _STOPPED:
            return True
        waited = time.monotonic() - begun
        if state != "R" or waited > _STARVED_S:
            return False
        if waited > _STOP_PATIENCE_S and not stop_is_pending(tgid, tid):
            return thread_state(tgid, tid) in _STOPPED
        time.sleep(0.0002)


def thread_state(tgid: int, tid: int) -> str:
    """The state letter of a thread as in proc(5); "X" if there is no such thread."""
    try:
        text = Path(f"/proc/{tgid}/task/{tid}/stat").read_bytes()
    except OSError:
        return "X"
    return chr(text[text.rindex(b")") + 2])


def stop_is_pending(tgid: int, tid: int) -> bool:
    """Whether a thread has been sent SIGSTOP and has not come to take it yet (proc(5))."""
    try:
        text = Path(f"/proc/{tgid}/task/{tid}/status").read_text("ascii", "replace")
    except OSError:
        return False
    pending = re.search(r"^SigPnd:\t([0-9a-f]+)$", text, re.MULTILINE)
    return pending is not None and bool(int(pending[1], 16) >> (signal.SIGSTOP - 1) & 1)


def kill_process(kernel: KernelMaps, tgid: int, start_ns: int) -> bool:
    """SIGKILL to a labelled process, through a pidfd so that a reused pid is never hit."""
    try:
        pidfd = os.pidfd_open(tgid)
    except OSError:
        return False
    try:
        label = kernel.label_of(tgid)
        if label is None or label.start_ns != start_ns:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def kill_session(kernel: KernelMaps, session: int) -> int:
    """SIGKILL to every process of a session until none is left to kill; returns how many.

    The oldest die first: a shell must not go on to its next command because the one before died.
    A child that is forked meanwhile has the label too, so the next round finds it.
    """
    killed: set[tuple[int, int]] = set()
    while True:
        fresh = [
            (tgid, label.start_ns)
            for tgid, label in kernel.labelled()
            if label.session == session and (tgid, label.start_ns) not in killed
        ]
        if not fresh:
            return len(killed)
        for tgid, start_ns in sorted(fresh, key=lambda each: each[1]):
            kill_process(kernel, tgid, start_ns)
            killed.add((tgid, start_ns))
