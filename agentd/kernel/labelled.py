"""Which processes may have a label: what the programs look at first, mapped from `labelled`.

A byte for each process, by its number. The kernel sets those of a label that is inherited and
clears those of processes that are gone; a byte that is set without a label costs only time.
"""

import mmap

from agentd.kernel.libbpf import Map
from agentd.kernel.wire import LABEL_RESERVED, U32


class Labelled:
    """The map `labelled`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def mark(self, tgid: int) -> None:
        """Makes the label of a process count; to be called when it is in `labels`."""
        offset = tgid // mmap.PAGESIZE * mmap.PAGESIZE
        access = mmap.PROT_READ | mmap.PROT_WRITE
        with mmap.mmap(self._fd, mmap.PAGESIZE, mmap.MAP_SHARED, access, offset=offset) as memory:
            memory[tgid - offset] = 1

    def mark_all(self, labels: Map) -> None:
        """The same for all that is in `labels`, such as what a daemon before this one has left."""
        for key in labels.keys():  # noqa: SIM118 (a BPF map, which is no iterable)
            (tgid,) = U32.unpack(key)
            if not tgid & LABEL_RESERVED:
                self.mark(tgid)
