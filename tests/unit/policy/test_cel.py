"""Conditions: what loads, what is refused, and what fails."""

from typing import Any

import pytest

from agentd.policy.cel import CelError, Condition, Scope
from agentd.policy.regexes import RegexError

SESSION = {"id": "s-1", "workload": "w", "posture": "enforce", "labels": ["read:secret"]}


def holds(source: str, event: dict[str, Any] | None = None, task: Any = None) -> bool:
    scope = Scope()
    scope.labels = {"read:secret"}
    variables = {"session": SESSION, "workload": {"name": "w"}, "task": task}
    return Condition(source).holds(scope, event or {}, variables)


@pytest.mark.parametrize(
    "source",
    [
        'session.has("read:secret") && task == null',
        'session . has ( "read:secret" )',
        '!session.has("other")',
        '"session.has(" != "x"',
        '"read:secret" in session.labels',
        'workload.name == "w" && session.posture == "enforce"',
        '["a", "b"].exists(tool, tool == "a")',
        "has(session.id)",
        '"abc".matches("^a.c$")',
        'matches("abc", "b")',
        "// a comment with session.has(\ntrue",
    ],
)
def test_true(source: str) -> None:
    assert holds(source)


@pytest.mark.parametrize(
    ("source", "asks"),
    [
        ('session.has("read:secret")', True),
        ('"read:secret" in session.labels', True),
        ('["a"].exists(each, session.labels.exists(label, label == each))', True),
        ('"session.has(" != workload.name', False),
        ("event.session == 1 && task == null", False),
    ],
)
def test_asks_for_the_session(source: str, *, asks: bool) -> None:
    assert Condition(source).asks_session is asks


def test_fields_of_the_event() -> None:
    event = {"tool": "x", "arguments": {"n": [1, 2]}, "huge": object()}
    assert holds('event.tool == "x" && event.arguments.n.exists(i, i == 2)', event)
    assert not holds("has(event.server)", event)
    assert holds('task.objective.startsWith("fix")', task={"objective": "fix it"})


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("1 +", "column 4"),
        ("true &&\n  || false", "line 2, column 3"),
        ("evnt.tool == 1", "'evnt' at column 1"),
        ('session.hass("x")', "'hass' at column 9"),
        ("task.objektive == 1", "did you mean 'objective'"),
        ("session.taks == 1", "session has no field 'taks'"),
        ("true" + " && true" * 400, "over 2000 characters"),
        ("", "column 1"),
    ],
)
def test_refused_with_the_place(source: str, says: str) -> None:
    with pytest.raises(CelError) as caught:
        Condition(source)
    assert says in f"{caught.value}; {caught.value.mend}"
    assert caught.value.mend


@pytest.mark.parametrize(
    "source",
    [
        "event.missing == 1",
        "event.tool",
        "event.number / 0 == 1",
        'event.tool.matches("(")',
        "event.tool.matches(event.number)",
        "size(event.number) == 1",
        "task.objective == 'x'",
    ],
)
def test_failures_raise_ordinary_exceptions(source: str) -> None:
    with pytest.raises((ArithmeticError, KeyError, RuntimeError, TypeError, ValueError)):
        holds(source, {"tool": "x", "number": 1})


@pytest.mark.parametrize(
    "source",
    [
        'event.tool.matches("(")',
        "event.a . matches( r'(?=x)' )",
        'event.a.matches("a(") || true',
    ],
)
def test_a_pattern_that_is_none_is_found_at_load(source: str) -> None:
    with pytest.raises(RegexError, match="is not a regular expression"):
        Condition(source)


@pytest.mark.parametrize(
    "source",
    [
        "event.tool.matches('a\\\\.b')",
        'event.tool.matches("(" + event.end)',
        "event.text == \"matches('(')\"",
    ],
)
def test_what_is_no_pattern_in_the_text_is_left_alone(source: str) -> None:
    Condition(source)
