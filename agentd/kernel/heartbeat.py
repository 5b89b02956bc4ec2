"""Says to the kernel that somebody judges what is held; without it holds fall to `on_failure`."""

import mmap
import os
import time
from typing import Final

from agentd.kernel.libbpf import Map
from agentd.kernel.wire import Enforcing

ENGINE: Final = 0
SUPERVISOR: Final = 1
_ALIVE_WORD: Final = Enforcing.alive_ns.offset // 8
_JUDGES_WORD: Final = Enforcing.judges.offset // 4


class Heartbeat:
    """The words `alive_ns` and `judges` of the map `enforcing`, mapped."""

    def __init__(self, enforcing: Map, judge: int) -> None:
        """This process is `judge`: ENGINE or SUPERVISOR."""
        memory = mmap.mmap(
            enforcing.fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        memoryview(memory).cast("I")[_JUDGES_WORD + judge] = os.getpid()
        self._words = memoryview(memory).cast("Q")

    def beat(self) -> None:
        """Now; the kernel believes it for two seconds, or until the last judge has ended."""
        self._words[_ALIVE_WORD] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def end(self) -> None:
        """Nobody judges from here on."""
        self._words[_ALIVE_WORD] = 0
