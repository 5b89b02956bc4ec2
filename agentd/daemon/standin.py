"""Judges held tasks while there is no engine: the verdict that the workload configured for it.

A task that the engine had already decided on goes on as decided. Of the others, those of a
workload with `on_failure: allow` go on; the rest are denied: a received request is overwritten
with a refusal in place, a task held at open or exec is killed, as only that keeps it from going on.
"""

import contextlib
import os
import signal
from collections.abc import Mapping
from errno import EPERM
from typing import Any

from agentd.enforce.stops import is_stopped
from agentd.kernel import memory
from agentd.kernel.answers import answer_to
from agentd.kernel.libbpf import Map
from agentd.kernel.maps import HoldValue
from agentd.kernel.wire import (
    DATA_INSIDE,
    HOLD,
    HOLD_CALL,
    HOLD_DECIDED,
    HOLD_PENDING,
    HOLD_READ,
    HOLDS_FAIL_CLOSED,
    LABEL,
    ROLE_MCP,
    ROLE_TO_CLIENT,
    U32,
    U64,
    WORKLOAD,
)

RULE = "engine-down"
REASON = "agentd could not judge this call, try again"
BREAKER = b"!"
_REFUSED = ("request", "notification")
_PENDING_PATIENCE_NS = 50_000_000


class StandIn:
    """Resolves entries of the map `holds` without the engine."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._holds = maps["holds"]
        self._workloads = maps["workloads"]
        self._labels = maps["labels"]
        self._roles = maps["roles"]
        self._answers = maps.get("answers")

    def release_all(self, now_ns: int) -> list[dict[str, Any]]:
        """Resolves every hold there is; returns what was done, for the journal.

        `now_ns` is CLOCK_BOOTTIME. A hold whose stop is still on its way is left for the next
        call, unless it has been so for 50 ms.
        """
        by_process: dict[tuple[int, int], list[HoldValue]] = {}
        for _, value in self._holds.items():  # noqa: PERF102 (a BPF map, which has no values())
            hold = HoldValue(*HOLD.unpack(value))
            by_process.setdefault((hold.tgid, hold.start_ns), []).append(hold)
        done = []
        for (tgid, start_ns), holds in by_process.items():
            if any(
                hold.state == HOLD_PENDING and now_ns - hold.time_ns < _PENDING_PATIENCE_NS
                for hold in holds
            ):
                continue
            for hold, outcome in zip(
                holds, self._release(tgid, start_ns, holds, now_ns), strict=True
            ):
                self._holds.delete(U64.pack(hold.id))
                done.append(
                    {
                        "tgid": tgid,
                        "start_ns": start_ns,
                        "session": hold.session,
                        "outcome": outcome,
                        "hold_us": (now_ns - hold.time_ns) // 1000,
                        "decided": hold.state == HOLD_DECIDED,
                    }
                )
        return done

    def _release(self, tgid: int, start_ns: int, holds: list[HoldValue], now_ns: int) -> list[str]:
        """Resolves all holds of one process before it goes on."""
        label = self._labels.get(U32.pack(tgid))
        if label is None or LABEL.unpack(label)[0] != start_ns:
            return ["gone"] * len(holds)  # who has this pid now is not who was held
        outcomes = [
            "released" if hold.state == HOLD_DECIDED else self._resolve(hold, now_ns)
            for hold in holds
        ]
        with contextlib.suppress(ProcessLookupError):
            os.kill(tgid, signal.SIGKILL if "killed" in outcomes else signal.SIGCONT)
        return outcomes

    def _resolve(self, hold: HoldValue, now_ns: int) -> str:
        conf = self._workloads.get(U32.pack(hold.workload))
        closed = bool(conf and WORKLOAD.unpack(conf)[0] & HOLDS_FAIL_CLOSED)
        if hold.kind == HOLD_CALL and self._answers is not None:
            self._answers.put(*answer_to(hold, -EPERM if closed else 0, now_ns))
            return "denied" if closed else "released"
        if not closed:
            return "released"
        if hold.kind != HOLD_READ or not is_stopped(hold.tgid, hold.tid):
            return "killed"
        try:
            role = self._roles.get(U64.pack(hold.ino))
            refuse_in_place(hold, U32.unpack(role)[0] if role else 0)
        except ProcessLookupError:
            return "gone"
        except OSError:
            return "killed"
        return "denied"


def refuse_in_place(hold: HoldValue, role: int) -> None:
    """Overwrites every request in a received buffer with a refusal of the same length.

    `role` is what is known of the channel (ROLE_ flags). A message that is not here whole is made
    unreadable; what is no MCP stays as it is. Raises OSError if the memory is out of reach.
    """
    # Imported late: the supervisor stays small until the engine really fails.
    from agentd.enforce.rewrite import deny_line  # noqa: PLC0415
    from agentd.mcp import jsonrpc  # noqa: PLC0415

    pieces = memory.segments(hold.tgid, hold.address, hold.length, hold.iovcnt)
    data = memory.read(hold.tgid, pieces)
    breakable = not role & ROLE_TO_CLIENT and (bool(role & ROLE_MCP) or b"jsonrpc" in data)
    *lines, rest = data.split(b"\n")
    for index, line in enumerate(lines):
        if not index and hold.access & DATA_INSIDE:
            if breakable:
                lines[index] = BREAKER * len(line)
        elif any(message.kind in _REFUSED for message in jsonrpc.parse(line)):
            lines[index] = deny_line(line, RULE, REASON).data
    if breakable:
        rest = BREAKER * len(rest)
    changed = b"\n".join([*lines, rest])
    if changed != data:
        memory.write(hold.tgid, pieces, changed)
