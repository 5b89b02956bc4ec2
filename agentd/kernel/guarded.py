"""agentd's own processes, as the kernel protects them from those that it watches."""

import os
from pathlib import Path

from agentd.kernel.decide_wire import GUARDED
from agentd.kernel.libbpf import Map
from agentd.kernel.wire import U32

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class GuardedProcesses:
    """The map `guarded`. Children of these processes are protected without being in it."""

    def __init__(self, table: Map) -> None:
        self._table = table

    def replace(self, pids: set[int]) -> None:
        """These processes, and no others; one that is gone is left out."""
        fresh = {}
        for pid in pids:
            start_ns = _start_ns(pid)
            if start_ns is not None:
                fresh[U32.pack(pid)] = GUARDED.pack(start_ns)
        for key, value in fresh.items():
            self._table.put(key, value)
        for key in list(self._table.keys()):
            if key not in fresh:
                self._table.delete(key)


def _start_ns(pid: int) -> int | None:
    """When it was started (CLOCK_BOOTTIME, exact to 10 ms), from /proc/PID/stat: proc(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(text[text.rindex(b")") + 2 :].split()[19]) * _TICK_NS
