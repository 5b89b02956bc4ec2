"""The words through which a waiting task and the engine agree, mapped from the array `waits`.

A held task waits on its CPU before it is stopped (bpf/include/hold.h). Each side writes its own
word before it reads the other's. The words are accessed through a memoryview, which moves eight
bytes at once.
"""

import ctypes
import mmap
import threading
from typing import Final

from agentd.kernel.wire import MAX_WAITS, Wait

_ALL_ONES: Final = (1 << 64) - 1
_WORDS: Final = ctypes.sizeof(Wait) // 8
_STOPPING: Final = Wait.stopping.offset // 8
_DECIDED: Final = Wait.decided.offset // 8


class Waits:
    """The map `waits`; holds are named by id."""

    def __init__(self, fd: int) -> None:
        size = -(-MAX_WAITS * ctypes.sizeof(Wait) // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._words = memoryview(memory).cast("Q")
        self._barrier = threading.Lock()

    def is_waiting(self, cpu: int, hold_id: int) -> bool:
        """Whether the task waits there, or is just about to stop or to go on."""
        return self._words[cpu * _WORDS] == hold_id

    def is_stopping(self, cpu: int, hold_id: int) -> bool:
        """Whether its patience has ended: it stops unless it has seen the verdict before."""
        return self._words[cpu * _WORDS + _STOPPING] == hold_id

    def has_seen(self, cpu: int, hold_id: int) -> bool:
        """Whether the task has seen its verdict and goes on; no more known once another waits."""
        return self._words[cpu * _WORDS + _STOPPING] == hold_id ^ _ALL_ONES

    def decide(self, cpu: int, hold_id: int) -> None:
        """Lets the task go on if it still waits; what is read after this is read after it."""
        self._words[cpu * _WORDS + _DECIDED] = hold_id
        with self._barrier:  # a locked instruction
            pass
