"""Judges held tasks while there is no engine: the verdict that the workload configured for it.

A task that the engine had already decided on goes on as decided. Of the others, those of a
workload with `on_failure: allow` go on; the rest are denied: a received request is overwritten
with a refusal in place, a task held at open or exec is killed, as only that keeps it from going on.
"""

import contextlib
import os
import signal
from typing import Any

from agentd.kernel import memory
from agentd.kernel.libbpf import Map
from agentd.kernel.wire import (
    HOLD,
    HOLD_DECIDED,
    HOLD_PENDING,
    HOLD_READ,
    HOLDS_FAIL_CLOSED,
    U32,
    WORKLOAD,
)

RULE = "engine-down"
REASON = "agentd could not judge this call, try again"
_PENDING_PATIENCE_NS = 50_000_000


class StandIn:
    """Resolves entries of the map `holds` without the engine."""

    def __init__(self, holds: Map, workloads: Map) -> None:
        self._holds = holds
        self._workloads = workloads

    def release_all(self, now_ns: int) -> list[dict[str, Any]]:
        """Resolves every hold there is; returns what was done, for the journal.

        `now_ns` is CLOCK_BOOTTIME. A hold whose stop is still on its way is left for the next
        call, unless it has been so for 50 ms.
        """
        done = []
        for key, value in self._holds.items():
            (_, time_ns, start_ns, tgid, _, session, workload, kind, state, *where) = HOLD.unpack(
                value
            )
            if state == HOLD_PENDING and now_ns - time_ns < _PENDING_PATIENCE_NS:
                continue
            outcome = "released"
            if state != HOLD_DECIDED:
                outcome = self._resolve(tgid, kind, workload, where)
            _signal(tgid, signal.SIGCONT)
            self._holds.delete(key)
            done.append(
                {
                    "tgid": tgid,
                    "start_ns": start_ns,
                    "session": session,
                    "outcome": outcome,
                    "hold_us": (now_ns - time_ns) // 1000,
                    "decided": state == HOLD_DECIDED,
                }
            )
        return done

    def _resolve(self, tgid: int, kind: int, workload: int, where: list[int]) -> str:
        conf = self._workloads.get(U32.pack(workload))
        if not (conf and WORKLOAD.unpack(conf)[0] & HOLDS_FAIL_CLOSED):
            return "released"
        if kind == HOLD_READ:
            _, _, _, address, length, iovcnt, _, _, _ = where
            try:
                refuse_in_place(tgid, address, length, iovcnt)
            except ProcessLookupError:
                return "gone"
            except OSError:
                _signal(tgid, signal.SIGKILL)
                return "killed"
            return "denied"
        _signal(tgid, signal.SIGKILL)
        return "killed"


def refuse_in_place(tgid: int, address: int, length: int, iovcnt: int) -> None:
    """Overwrites every request in a received buffer with a refusal of the same length.

    A message that is not here whole is blanked. Raises OSError if the memory is out of reach.
    """
    # Imported late: the supervisor stays small until the engine really fails.
    from agentd.enforce.rewrite import blank, deny_line  # noqa: PLC0415

    pieces = memory.segments(tgid, address, length, iovcnt)
    data = memory.read_segments(tgid, pieces)
    lines = []
    for line in data.splitlines(keepends=True):
        body = line.rstrip(b"\n")
        if len(body) == len(line):
            lines.append(blank(len(line)))
        else:
            lines.append(deny_line(body, RULE, REASON).data + b"\n")
    memory.write_segments(tgid, pieces, b"".join(lines))


def _signal(tgid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(tgid, number)
