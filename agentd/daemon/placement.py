"""Where the engine runs: in front of ordinary work, and not where a task waits for it.

A held task waits on its CPU for a moment (bpf/include/hold.h). A scheduler that woke the engine on
that very CPU would keep both waiting, so the engine stays off the CPU of the last hold.

On the other one the client that has sent the call often still runs. What makes the engine preempt
it at once is a short slice (kernel/sched/fair.c, PREEMPT_SHORT, Linux 6.12), together with a better
nice value than the work's. Neither lets it starve anybody, which a real-time policy could: it
parses hostile bytes. With what can wait it stands behind the work, by the same two means.
"""

import ctypes
import os
import platform
import struct
import time
from typing import Final

_NICE_BETTER: Final = 10
_NICE_WORSE: Final = 5
_NICE_BEST: Final = -20
_SLICE_NS: Final = 100_000  # the shortest there is
_LONG_SLICE_NS: Final = 10_000_000
_SYS_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
_SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")  # sched_setattr(2), first version
_SETTLE_NS = 50_000_000
_syscall = ctypes.CDLL(None).syscall


class Placement:
    """CPU affinity and priority of this process."""

    def __init__(self) -> None:
        self._allowed = os.sched_getaffinity(0)
        self._avoided = -1
        self._since_ns = 0
        ordinary = os.getpriority(os.PRIO_PROCESS, 0)
        self._behind = ordinary + _NICE_WORSE
        self._ahead = max(_NICE_BEST, ordinary - _NICE_BETTER)
        self._is_behind = True
        self.stand(behind=False)

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

    def stand(self, *, behind: bool) -> None:
        """Whether ordinary work comes first: what is done can wait, and a client may not."""
        if behind == self._is_behind:
            return
        self._is_behind = behind
        if behind:
            _set(self._behind, _LONG_SLICE_NS)
        else:
            _set(self._ahead, _SLICE_NS)

    def let_pass(self) -> None:
        """Whoever waits for this CPU goes first, if this process stands behind."""
        if self._is_behind:
            os.sched_yield()


def _set(nice: int, slice_ns: int) -> None:
    """Kernels before 6.12 ignore the slice."""
    fields = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    if _SYS_SCHED_SETATTR is None or _syscall(_SYS_SCHED_SETATTR, 0, fields, 0):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
