"""Says to the kernel that somebody judges what is held; without it holds fall to `on_failure`."""

import mmap
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

    def beat(self, now_ns: int) -> None:
        """`now_ns` is CLOCK_BOOTTIME; the kernel believes it for two seconds."""
        self._words[_ALIVE_WORD] = now_ns
