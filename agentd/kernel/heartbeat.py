"""Says to the kernel that somebody judges what is held; without it holds fall to `on_failure`."""

import mmap
import time
from typing import Final

from agentd.kernel.libbpf import Map
from agentd.kernel.wire import Enforcing

_ALIVE_WORD: Final = Enforcing.alive_ns.offset // 8


class Heartbeat:
    """The word `alive_ns` of the map `enforcing`, mapped."""

    def __init__(self, enforcing: Map) -> None:
        memory = mmap.mmap(
            enforcing.fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        self._words = memoryview(memory).cast("Q")

    def beat(self) -> None:
        """Now; the kernel believes it for two seconds."""
        self._words[_ALIVE_WORD] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
