import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentd.ui import live, verdict

BASE: dict[str, object] = {
    "v": 1,
    "id": "h:0123abcd:17",
    "time": "2026-11-23T17:40:00.123456789Z",
    "workload": "claude-code",
    "session": "s-k3v9q2ab",
    "process": {"pid": 4312, "exe": "/usr/bin/node", "comm": "node", "argv": ["node", "s.js"]},
}
DENIED_CALL: dict[str, object] = BASE | {
    "class": "mcp.request",
    "mcp": {
        "method": "tools/call",
        "kind": "request",
        "tool": "write_file",
        "arguments": {"path": "/etc/passwd"},
        "direction": "client-to-server",
        "server": {"name": "filesystem", "pid": 4312, "exe": "/usr/bin/node"},
    },
    "decision": {
        "verdict": "deny",
        "rules": ["deny-write"],
        "reason": "no system files",
        "hold_us": 181,
        "outcome": "denied",
    },
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(), inner, max_size=12),
    max_leaves=30,
)
known_fields = st.sampled_from(
    ["time", "class", "workload", "session", "process", "count", "task", "mcp", "file", "network",
     "exec", "exit", "fork", "decision", "loss"]
)  # fmt: skip
known_parts = st.sampled_from(
    ["method", "kind", "tool", "arguments", "direction", "server", "client", "error", "is_error",
     "latency_us", "anomalies", "op", "access", "path", "to", "protocol", "address", "port",
     "argv", "exe", "filename", "comm", "pid", "code", "signal", "verdict", "rules", "reason",
     "hold_us", "hold_id", "approver", "on_timeout", "would", "outcome",
     "before_effect", "count", "source"]
)  # fmt: skip
classes = st.sampled_from(
    [
        "mcp.request",
        "mcp.response",
        "mcp.noise",
        "file.open",
        "file.rename",
        "network.connect",
        "network.accept",
        "process.exec",
        "process.exit",
        "process.fork",
        "session.start",
        "hold.open",
        "hold.decided",
        "loss",
        "tamper",
        "policy.rejected",
        "daemon.start",
    ]
)
odd_events = st.dictionaries(
    known_fields | st.text(),
    json_values | st.dictionaries(known_parts, json_values, max_size=8),
    max_size=10,
) | st.builds(
    lambda event, name, part, fields: {**event, "class": name, part: fields},
    st.dictionaries(known_fields, json_values, max_size=4),
    classes,
    known_fields,
    st.dictionaries(known_parts, json_values, max_size=12),
)


def test_denied_call_reads_as_a_sentence() -> None:
    assert live.render(DENIED_CALL, colour=False) == (
        "17:40:00.123Z DENY   claude-code/k3v9q2ab  node[4312]  "
        "tools/call write_file path=/etc/passwd -> filesystem  "
        "DENIED by deny-write: no system files (held 181us)"
    )


def test_colour_only_adds_sgr_sequences() -> None:
    plain = live.render(DENIED_CALL, colour=False)
    coloured = live.render(DENIED_CALL, colour=True)
    assert coloured != plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            {"class": "file.open", "file": {"op": "open", "access": "read", "path": "/a b"}},
            "open (read) /a b",
        ),
        (
            {"class": "file.rename", "file": {"op": "rename", "path": "/a", "to": "/b"}},
            "rename /a -> /b",
        ),
        (
            {
                "class": "network.connect",
                "network": {"family": "ipv6", "protocol": "tcp", "address": "::1", "port": 443},
            },
            "connect tcp [::1]:443",
        ),
        (
            {"class": "network.connect", "network": {"family": "unix", "path": "/run/x.sock"}},
            "connect unix /run/x.sock",
        ),
        ({"class": "process.exec", "exec": {"argv": ["git", "status"]}}, "exec git status"),
        ({"class": "process.exit", "exit": {"code": 3}}, "exit 3"),
        ({"class": "process.exit", "exit": {"signal": 9}}, "exit by signal 9"),
        ({"class": "process.fork", "fork": {"child": 77}}, "fork -> 77"),
        ({"class": "session.start", "task": {"objective": "mend it"}}, "session started: mend it"),
        (
            {"class": "loss", "loss": {"count": 12, "source": "ring"}},
            "LOSS   claude-code/k3v9q2ab  node[4312]  12 records lost (ring)",
        ),
        (
            {"class": "loss", "loss": {"count": 0, "source": "engine.killed"}},
            "an unknown number of records lost (engine.killed)",
        ),
        (
            {
                "class": "mcp.response",
                "mcp": {
                    "method": "tools/call",
                    "tool": "x",
                    "kind": "response",
                    "direction": "server-to-client",
                    "latency_us": 12400,
                    "error": {"code": -32602, "message": "no"},
                    "server": {"name": "fs"},
                },
            },
            "reply to tools/call x error -32602 no in 12.4ms <- fs",
        ),
        (
            {"class": "daemon.start", "daemon": {"version": "1.2", "tier": "observe"}},
            "READY  claude-code/k3v9q2ab  node[4312]  agentd 1.2 watches, tier observe",
        ),
        ({"class": "daemon.stop", "daemon": {"pid": 1}}, "agentd stops"),
        (
            {"class": "policy.loaded", "policy": {"rules": 75, "workloads": 20, "notes": [{}]}},
            "policy loaded: 75 rules, 20 workloads; 1 notes (agentd doctor)",
        ),
        (
            {"class": "policy.rejected", "policy": {"problems": ["a.yaml:3: no such field"]}},
            "policy rejected, the last good one stays in force: a.yaml:3: no such field",
        ),
        ({"class": "something.new", "tier": "observe"}, "something.new tier=observe"),
    ],
)
def test_each_class_says_what_happened(parts: dict[str, object], expected: str) -> None:
    assert expected in live.render({**BASE, **parts}, colour=False)


def test_what_would_have_happened_and_counts() -> None:
    decision = {"verdict": "deny", "rules": ["r"], "would": True, "before_effect": False}
    event = {**BASE, "class": "file.delete", "file": {"op": "delete", "path": "/x"}}
    line = live.render({**event, "decision": decision, "count": 41}, colour=False)
    assert "deny?" in line
    assert "would be denied by r (after the effect)" in line
    assert line.endswith("x41")


HELD: dict[str, object] = {
    "verdict": "hold",
    "rules": ["ask"],
    "reason": "Needs approval.",
    "hold_id": "h7",
}
ANSWERED = {"approver": "uid 0", "hold_us": 491_600}


@pytest.mark.parametrize(
    ("event_class", "decision", "mark", "sentence"),
    [
        ("hold.open", {"outcome": "held"}, "HOLD", "HELD by ask: Needs approval. (hold h7)"),
        (
            "mcp.request",
            {"outcome": "allowed", **ANSWERED},
            "ALLOW",
            "APPROVED by uid 0 (rule ask, hold h7, held 491.6ms)",
        ),
        (
            "mcp.request",
            {"outcome": "denied", **ANSWERED},
            "DENY",
            "REFUSED by uid 0: Needs approval. (rule ask, hold h7, held 491.6ms)",
        ),
        (
            "file.open",
            {"outcome": "killed", **ANSWERED},
            "KILL",
            "REFUSED by uid 0, killed: Needs approval. (rule ask, hold h7, held 491.6ms)",
        ),
        (
            "mcp.request",
            {"outcome": "timeout", "on_timeout": "deny"},
            "DENY",
            "NO ANSWER, denied: Needs approval. (rule ask, hold h7)",
        ),
        ("mcp.request", {"outcome": "timeout", "on_timeout": "allow"}, "ALLOW", "NO ANSWER, allow"),
        ("mcp.request", {"outcome": "timeout"}, "DENY", "NO ANSWER: Needs"),
        (
            "mcp.request",
            {"outcome": "cancelled"},
            "HOLD",
            "held, cancelled: Needs approval. (rule ask",
        ),
        ("mcp.request", {"outcome": "allowed", "would": True}, "hold?", "would be held by ask"),
    ],
)
def test_a_hold_says_how_it_stands(
    event_class: str, decision: dict[str, object], mark: str, sentence: str
) -> None:
    event = DENIED_CALL | {"class": event_class, "decision": HELD | decision}
    line = live.render(event, colour=False)
    assert line.split()[1] == mark
    assert f"  {sentence}" in line


def test_an_audited_act_is_noted_and_not_late() -> None:
    decision = {"verdict": "audit", "rules": ["r"], "outcome": "allowed", "before_effect": False}
    event = {**BASE, "class": "file.open", "file": {"op": "open", "path": "/x"}}
    assert live.render(event | {"decision": decision}, colour=False).endswith("noted by r")


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b]0;owned\x07",
        "a\nDENY fake line",
        "\u202egnp.exe",
        "\x9b31m",
        "\ud800",
        "\u2028",
    ],
)
def test_hostile_text_is_neutralised_everywhere(hostile: str) -> None:
    event: dict[str, object] = {
        "time": hostile,
        "class": "mcp.request",
        "workload": hostile,
        "session": hostile,
        "process": {"comm": hostile, "pid": hostile},
        "mcp": {
            "method": hostile,
            "tool": hostile,
            "arguments": {hostile: hostile, "deep": [{hostile: hostile}]},
            "server": {"name": hostile},
            "anomalies": [hostile],
        },
        "decision": {"verdict": hostile, "rules": [hostile], "reason": hostile, "hold_id": hostile},
    }
    line = live.render(event, colour=False)
    assert line.isprintable()
    line.encode()


@given(odd_events)
@example({"class": "mcp.request", "count": 10**6000})
@example({"class": "mcp.response", "mcp": {"kind": "response", "latency_us": float("nan")}})
@example({"class": "loss", "loss": {"count": -(10**5000)}})
def test_render_never_raises_and_stays_one_printable_line(event: dict[str, object]) -> None:
    line = live.render(event, colour=False)
    assert line.isprintable()
    assert len(line) < 2500
    line.encode()


@pytest.mark.parametrize(
    ("micros", "text"),
    [(181, "181us"), (12_400, "12.4ms"), (3_200_000, "3.2s"), (250_000_000, "4m10s"), ("x", ""),
     (True, ""), (float("nan"), ""), (None, "")],
)  # fmt: skip
def test_duration(micros: object, text: str) -> None:
    assert verdict.duration(micros) == text
