"""Where the engine runs: in front of ordinary work, and not where a task waits for it.

A held task waits on its CPU for a moment (bpf/include/hold.h). A scheduler that woke the engine on
that very CPU would keep both waiting, so the engine stays off the CPU of the last hold.
"""

import os
import time

_NICE = -10
_SETTLE_NS = 50_000_000


class Placement:
    """CPU affinity and priority of this process."""

    def __init__(self) -> None:
        self._allowed = os.sched_getaffinity(0)
        self._avoided = -1
        self._since_ns = 0
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)

    def keep_off(self, cpu: int) -> None:
        """A task waits, or has waited, on `cpu`. Moves at most every 50 ms."""
        if cpu == self._avoided:
            return
        others = self._allowed - {cpu}
        now = time.monotonic_ns()
        if not others or now - self._since_ns < _SETTLE_NS:
            return
        os.sched_setaffinity(0, others)
        self._avoided, self._since_ns = cpu, now
