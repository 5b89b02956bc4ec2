"""Judges held tasks while there is no engine: the verdict that the workload configured for it.

A task that the engine had already decided on goes on as decided. Of the others, those of a
workload with `on_failure: allow` go on; the rest are denied: a received request is overwritten
with a refusal in place, and so is what is about to be written; a task held at open or exec is
killed, as only that keeps it from going on.
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
from agentd.kernel.decide_wire import HOOK_WRITE
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
    HOLDS_RESULTS,
    LABEL,
    ROLE_MCP,
    ROLE_TO_CLIENT,
    ROLE_TO_SERVER,
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
        flags = WORKLOAD.unpack(conf)[0] if conf else 0
        closed = bool(flags & HOLDS_FAIL_CLOSED)
        if hold.kind == HOLD_CALL and self._answers is not None:
            outcome = "denied" if closed else "released"
            result = -EPERM if closed else 0
            if closed and hold.syscall == HOOK_WRITE:
                result, outcome = _refuse_written(hold, self._role(hold))
            self._answers.put(*answer_to(hold, result, now_ns))
            return outcome
        if not closed:
            return "released"
        if hold.kind != HOLD_READ or not is_stopped(hold.tgid, hold.tid):
            return "killed"
        try:
            refuse_in_place(hold, self._role(hold), results=bool(flags & HOLDS_RESULTS))
        except ProcessLookupError:
            return "gone"
        except OSError:
            return "killed"
        return "denied"

    def _role(self, hold: HoldValue) -> int:
        """What is known of the channel: ROLE_ flags."""
        role = self._roles.get(U64.pack(hold.ino))
        return int(U32.unpack(role)[0]) if role else 0


def _refuse_written(hold: HoldValue, role: int) -> tuple[int, str]:
    """Puts refusals in the place of the messages that are about to be written.

    Returns the result of the call (-EPERM if these are not whole lines, or out of reach), and what
    became of it. What is no MCP stays as it is.
    """
    from agentd.enforce.rewrite import deny_line  # noqa: PLC0415
    from agentd.kernel import sending  # noqa: PLC0415
    from agentd.mcp import jsonrpc  # noqa: PLC0415

    try:
        pieces = sending.pieces_of(hold)
        data = memory.read(hold.tgid, pieces)
        lines = data.splitlines(keepends=True)
        kinds = [message.kind for line in lines for message in jsonrpc.parse(line)]
        whole = data.endswith(b"\n")
        if not role & ROLE_MCP and (b'"jsonrpc"' not in data or (whole and not kinds)):
            return 0, "released"
        if not whole or len(kinds) < len(lines) or "invalid" in kinds:
            return -EPERM, "denied"
        refused = b"".join(deny_line(line, RULE, REASON).data for line in lines)
        memory.overwrite(hold.tgid, pieces, refused)
    except OSError:
        return -EPERM, "denied"
    return 0, "denied"


def refuse_in_place(hold: HoldValue, role: int, *, results: bool = False) -> None:
    """Overwrites every request in a received buffer with a refusal of the same length.

    `role` is what is known of the channel (ROLE_ flags); `results`: of what a server has sent,
    every response is refused as well. A message that is not here whole is made unreadable; what is
    no MCP stays as it is. Raises OSError if the memory is out of reach.
    """
    # Imported late: the supervisor stays small until the engine really fails.
    from agentd.enforce.rewrite import deny_line  # noqa: PLC0415
    from agentd.mcp import jsonrpc  # noqa: PLC0415

    pieces = memory.segments(hold.tgid, hold.address, hold.length, hold.iovcnt)
    data = memory.read(hold.tgid, pieces)
    known = bool(role & ROLE_MCP) or b"jsonrpc" in data
    breakable = known and (results or not role & ROLE_TO_CLIENT)
    refused = (*_REFUSED, "response") if results and not role & ROLE_TO_SERVER else _REFUSED
    *lines, rest = data.split(b"\n")
    for index, line in enumerate(lines):
        if not index and hold.access & DATA_INSIDE:
            if breakable:
                lines[index] = BREAKER * len(line)
        elif any(
            message.kind in refused or (breakable and jsonrpc.OVER_LIMIT in message.anomalies)
            for message in jsonrpc.parse(line)
        ):
            lines[index] = deny_line(line, RULE, REASON).data
    if breakable:
        rest = BREAKER * len(rest)
    changed = b"\n".join([*lines, rest])
    if changed != data:
        memory.write(hold.tgid, pieces, changed)
