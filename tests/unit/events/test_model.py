"""The envelope: what is built is what is described, whatever the parts hold."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from agentd.events import envelope
from agentd.events.model import EventWriter, dumps, event_id, fragment

BOOT = "6b1c2f3e-1111-2222-3333-444455556666"


def build(parts: dict[str, Any], time_ns: int = 0, **named: Any) -> dict[str, Any]:
    writer = EventWriter("web-1", BOOT)
    body = writer.build(
        named.get("cls", "file.open"),
        time_ns,
        named.get("workload"),
        named.get("session"),
        7,
        parts,
    )
    found: dict[str, Any] = orjson.loads(body)
    return found


def test_every_field_is_where_the_description_says() -> None:
    process = {"pid": 4, "start": 5, "ppid": 1, "uid": 0, "exe": "/usr/bin/node", "argv": ["node"]}
    event = build(
        {
            "posture": "enforce",
            "process": fragment(process),
            "file": {"path": "/x", "op": "open", "access": "read"},
            "decision": {"verdict": "deny", "rules": ["r1"], "severity": "high"},
        },
        time_ns=1_795_455_600_123_456_789,
        workload="ci-bot",
        session="s-1",
    )
    parsed = envelope.Event.model_validate(event)
    assert parsed.id == event_id("web-1", BOOT, 7) == "web-1:6b1c2f3e:7"
    assert parsed.time == "2026-11-23T17:40:00.123456789Z"
    assert (parsed.cls, parsed.workload, parsed.session) == ("file.open", "ci-bot", "s-1")
    assert event["process"] == process
    assert list(event)[:3] == ["v", "id", "seq"]


def test_without_parts_workload_and_session_it_is_still_an_event() -> None:
    event = build({}, cls="daemon.start")
    envelope.Event.model_validate(event)
    assert "workload" not in event
    assert "session" not in event


def test_the_second_is_not_kept_too_long() -> None:
    writer = EventWriter("h", BOOT)
    times = [
        orjson.loads(writer.build("loss", ns, None, None, 1, {}))["time"][-13:]
        for ns in (999_999_999, 1_000_000_000, 5, 60_000_000_000)
    ]
    assert times == ["00.999999999Z", "01.000000000Z", "00.000000005Z", "00.000000000Z"]


HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(HOSTILE)
def test_nothing_hostile_raises_and_all_is_json(value: Any) -> None:
    orjson.loads(dumps({"value": value}))


def test_deep_nesting_and_undecodable_names() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    event = build({"mcp": {"arguments": deep}, "file": {"path": "/a\udcff", "op": "open"}})
    assert event["file"]["path"] == "/a?"


def test_the_schema_can_be_generated() -> None:
    schema = envelope.json_schema()
    assert schema["required"] == ["v", "id", "seq", "boot", "host", "time", "class"]
