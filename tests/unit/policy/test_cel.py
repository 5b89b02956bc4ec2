"""Conditions: what loads, what is refused, and what fails."""

import itertools
import re
from typing import Any

import pytest

from agentd.policy.cel import CelError, Condition, Scope
from agentd.policy.cel_calls import FORMS
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
        "event.tool.startsWith(event.number)",
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


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ('session.has("a", "b")', '\'has("a", "b")\' at column 9'),
        ("session.has()", "'session.has(\"LABEL\")'"),
        ("session.has(1)", "'has(1)' at column 9"),
        ('event.tool.has("a")', "'has(\"a\")' at column 12"),
        ('session.labels.has("a")', "'has(\"a\")' at column 16"),
        ("has(event.a, event.b)", "'has(event.a, event.b)' at column 1"),
        ("true &&\n event.tool.startsWith()", "'startsWith()' at line 2, column 13"),
        ('startsWith(event.tool, "a")', "write TEXT.startsWith("),
        ("event.tool.endsWith(1)", "'endsWith(1)' at column 12"),
        ('event.tool.contains(b"a")', "'contains(b\"a\")' at column 12"),
        ("event.tool.contains(null)", "'contains(null)' at column 12"),
        ("event.tool.matches()", "'matches()' at column 12"),
        ('matches("a")', "or matches(TEXT, "),
        ("event.tool.size(1) == 1", "'size(1)' at column 12"),
        ("[1].exists(x)", "write LIST.exists(NAME, CONDITION)"),
        ('timestamp(event.at).getDate("UTC") == 1', "write TIME.getDate()"),
        ('duration("5x") < duration(event.age)', "'duration(\"5x\")' at column 1 has no value"),
        ('timestamp("soon") < timestamp(event.at)', 'write timestamp("2026-'),
        ("int(true) == event.number", "'int(true)' at column 1 has no value"),
        ("size(1) == event.number", "'size(1)' at column 1 has no value"),
        ('"a" + 1 == workload.name', "cannot be evaluated: Unsupported operation: string + int"),
        ("session.posture", "cannot be evaluated: the expression gave str"),
        ("task.objective.getDate() == 1", "'getDate' is called on a value of another type"),
        ("session.id.name == 1", "cannot be evaluated: No such overload"),
    ],
)
def test_a_call_that_always_fails_is_found_at_load(source: str, says: str) -> None:
    with pytest.raises(CelError) as caught:
        Condition(source)
    assert says.strip("'") in f"{caught.value}; {caught.value.mend}"
    assert caught.value.mend


@pytest.mark.parametrize(
    "source",
    [
        'session.has("a)(,") || session.has(r"b,c")',
        "session.has(has(event.n) ? 'a' : \"b\")",
        "session.has(event.label)",
        "event.tool.startsWith(\"a\" + 'b')",
        "event.tool.contains('\"') // , contains(1)",
        "event.tool.matches(  // a comment, with a comma\n  'a')",
        "event.list.map(x, x > 0, [x, 1]).size() == 1",
        'event.n == size("abc") && event.list.size() == 2',
        'task != null && timestamp(task.expires) < timestamp("2026-11-23T18:00:00Z")',
        'task == null || duration("1h30m").getMinutes() == 90',
        "event.startsWith == 1",
        "session.labels[3] == 'a'",
    ],
)
def test_a_call_that_may_do_is_left_alone(source: str) -> None:
    Condition(source)


def test_forms_are_those_of_the_library() -> None:
    """Every function can be called as the mend says, with a value of the right type."""
    values = {
        "TEXT": '"a"',
        "NUMBER": "1",
        "VALUE": '"a"',
        "LIST": "[true]",
        "NAME": "x",
        "CONDITION": "x",
        '"PATTERN"': '"a"',
        "TIME": 'timestamp("2026-11-23T18:00:00Z")',
        "event.FIELD": "event.tool",
    }
    for form in itertools.chain.from_iterable(FORMS.values()):
        call = form
        for word, value in values.items():
            call = re.sub(rf"(?<![\w\"]){re.escape(word)}(?![\w\"])", value, call)
        assert holds(f"[{call}].size() == 1", {"tool": "x"}), call
