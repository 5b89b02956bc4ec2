"""What lets a held task go on without more ado."""

from dataclasses import replace
from typing import Any

import pytest

from agentd.daemon.refusing import Held
from agentd.daemon.transcript import Judged
from agentd.kernel.maps import HoldValue
from agentd.kernel.wire import HOLD
from agentd.mcp.connection import Conversation
from agentd.mcp.framing import Frame
from agentd.mcp.jsonrpc import parse
from agentd.mcp.stream import Line

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}'
NOBODY: Any = None
"""Whose it is makes no difference here."""


def held(*verdicts: str) -> Held:
    """A read of so many calls, with these verdicts."""
    hold = HoldValue(*HOLD.unpack(bytes(HOLD.size)))
    line = Line(Frame(CALL, 0, len(CALL) + 1), parse(CALL))
    seen = Conversation().observe(line.messages[0], "server", 0)
    judged = [Judged(line, 0, line.messages[0], seen, None, verdict) for verdict in verdicts]
    return Held(hold, NOBODY, NOBODY, NOBODY, [], CALL + b"\n", 0, judged)


@pytest.mark.parametrize("verdicts", [(), ("allow",), ("audit",), ("allow", "audit")])
def test_what_is_allowed_passes(verdicts: tuple[str, ...]) -> None:
    assert held(*verdicts).passes


@pytest.mark.parametrize("verdict", ["deny", "hold", "kill"])
def test_one_verdict_against_it_is_enough(verdict: str) -> None:
    assert not held("allow", verdict).passes


@pytest.mark.parametrize("kept", [{"unseen": 1}, {"first": True}, {"answer": lambda _errno: None}])
def test_bytes_unseen_and_writes_take_the_long_way(kept: dict[str, Any]) -> None:
    assert not replace(held("allow"), **kept).passes
