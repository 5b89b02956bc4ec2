"""Says to the kernel that somebody judges what is held; without it holds fall to `on_failure`.

And whether the engine is awake. One that is finds a hold by itself, and the interrupt that would
wake it is left out: in a virtual machine that costs the task that waits more than its verdict does.
"""

import ctypes
import mmap
import os
import platform
import time
from typing import Final

from agentd.kernel.libbpf import Map
from agentd.kernel.wire import Enforcing

ENGINE: Final = 0
SUPERVISOR: Final = 1
_ALIVE_WORD: Final = Enforcing.alive_ns.offset // 8
_AWAKE_WORD: Final = Enforcing.awake.offset // 8
_JUDGES_WORD: Final = Enforcing.judges.offset // 4
_SYS_MEMBARRIER: Final = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL_EXPEDITED: Final = 2


class Heartbeat:
    """The words `alive_ns`, `judges` and `awake` of the map `enforcing`, mapped."""

    def __init__(self, enforcing: Map, judge: int) -> None:
        """This process is `judge`: ENGINE or SUPERVISOR."""
        memory = mmap.mmap(
            enforcing.fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        memoryview(memory).cast("I")[_JUDGES_WORD + judge] = os.getpid()
        self._words = memoryview(memory).cast("Q")
        self._barrier = _SYS_MEMBARRIER.get(platform.machine())
        self._libc = ctypes.CDLL(None)

    def beat(self) -> None:
        """Now; the kernel believes it for two seconds, or until the last judge has ended."""
        self._words[_ALIVE_WORD] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def last(self) -> int:
        """When somebody has said that he judges: CLOCK_BOOTTIME, ns."""
        return self._words[_ALIVE_WORD]

    def end(self) -> None:
        """Nobody judges from here on."""
        self._words[_ALIVE_WORD] = 0

    def sleeps(self) -> None:
        """From here on a hold wakes the engine; those that have not are in the ring by now."""
        self._words[_AWAKE_WORD] = 0
        # The look at the ring must not come before the word is written (announce() in hold.h).
        if self._barrier is not None:
            self._libc.syscall(self._barrier, _MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0)

    def wakes(self) -> None:
        """The engine looks at the ring of holds before it sleeps again."""
        self._words[_AWAKE_WORD] = 1
