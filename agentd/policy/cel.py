"""Conditions (`when:`) in CEL: checked and compiled at load, evaluated on the hot path.

`session.has("label")` is compiled to a call that looks the label up directly, `matches` to one that
keeps the compiled pattern (the library compiles it at every call: 50 us), and only the fields of
`event`, `session`, `workload` and `task` that an expression names are converted for it.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, cast

from agentd.policy import extensions
from agentd.policy.cel_calls import FORMS, LITERAL, blank, calls, wrong
from agentd.policy.regexes import Regex
from agentd.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

VARIABLES = frozenset({"event", "session", "workload", "task"})
MAX_SOURCE = 2000  # the library's parser recurses: a longer one could exhaust the stack
SESSION_FIELDS = frozenset({"id", "workload", "posture", "labels"})
WORKLOAD_FIELDS = frozenset({"name"})
TASK_FIELDS = frozenset({"objective", "requester", "expires"})
FIELDS = {"session": SESSION_FIELDS, "workload": WORKLOAD_FIELDS, "task": TASK_FIELDS}

_BOUND = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
_HAS_LABEL = re.compile(r"(?<![\w.])session\s*\.\s*has\s*\(")
_MATCHES = re.compile(r"\bmatches\s*\(")
_USE = re.compile(r"(?<![\w.])(event|session|workload|task)\b(?:\s*\.\s*([A-Za-z_]\w*))?")
_EVENT_FIELD = re.compile(r"(?<![\w.])event\s*\.\s*((?:process\s*\.\s*)?[A-Za-z_]\w*)\b(?!\s*\()")
_NO_OVERLOAD = "Undefined variable or function: "
_MEND = "CEL converts no types: write int(x), double(x) or string(x), and compare"
_SAMPLE: dict[str, dict[str, Any] | None] = {
    "session": {"id": "s-1", "workload": "w", "posture": "enforce", "labels": ["read:secret"]},
    "workload": {"name": "w"},
    "task": {"objective": "o", "requester": "r", "expires": "2026-11-23T18:00:00Z"},
}
_POSITION = re.compile(r"<input>:(\d+):(\d+): (.*)")


class CelError(ValueError):
    """An expression that cannot be used; `mend` says what to write."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


class _Program(Protocol):
    def execute(self, context: Any = None) -> Any: ...
    def variables(self) -> list[str]: ...
    def functions(self) -> list[str]: ...


class _Context(Protocol):
    def add_variable(self, name: str, value: Any) -> None: ...
    def add_function(self, name: str, function: Any) -> None: ...


class _Cel(Protocol):
    def compile(self, expression: str) -> _Program: ...
    def Context(self) -> _Context: ...  # noqa: N802 (the module's own name)


_cel = cast("_Cel", extensions.load("cel", "cel"))


@lru_cache(maxsize=128)
def _pattern(pattern: str) -> Regex:
    return Regex(pattern, dot_all=False)


def _pattern_found(text: str, pattern: str) -> bool:
    return _pattern(pattern).search(text)


class Scope:
    """What expressions are evaluated against. One for each evaluator; not thread-safe."""

    __slots__ = ("_context", "labels")

    def __init__(self) -> None:
        self.labels: AbstractSet[str] = frozenset()
        self._context = _cel.Context()
        self._context.add_function("session_has", lambda label: label in self.labels)
        self._context.add_function("pattern_found", _pattern_found)

    def run(self, program: _Program, values: dict[str, Any]) -> Any:
        """The value of the program; raises whatever the library raises."""
        for name, value in values.items():
            self._context.add_variable(name, value)
        return program.execute(self._context)


class Condition:
    """One compiled expression."""

    __slots__ = ("_fields", "_program", "asks_session", "source")

    def __init__(self, source: str) -> None:
        """Raise CelError: syntax, unknown names, an expression that cannot be true or false.

        Raise RegexError for a pattern in the text of the expression.
        """
        self.source = source
        if len(source) > MAX_SOURCE:
            raise CelError(f"an expression over {MAX_SOURCE} characters", "split the rule")
        checked = _compile(source)
        bare = blank(source)
        bound = set(_BOUND.findall(bare))
        _check_calls(source)
        _check_names(source, checked, bound)
        self._fields = _used_fields(bare, bound)
        self.asks_session = bool(_HAS_LABEL.search(bare)) or any(
            name == "session" for name, _ in self._fields
        )
        """Whether it depends on what the session has done."""
        rewritten = _outside_strings(source, _HAS_LABEL, "session_has(")
        self._program = _cel.compile(_outside_strings(rewritten, _MATCHES, "pattern_found("))
        if all(name != "event" for name, _ in self._fields):
            self._try()

    def _try(self) -> None:
        """With what sessions have, which is always of the same types. Raises CelError."""
        try:
            self.holds(Scope(), {}, _SAMPLE)
        except TypeError as error:
            why = str(error).partition(". ")[0]
            raise CelError(f"{self.source!r} cannot be evaluated: {why}", _MEND) from error
        except Exception as error:
            if str(error).startswith(_NO_OVERLOAD):
                name = str(error).split("'")[1]
                message = f"{self.source!r}: {name!r} is called on a value of another type"
                raise CelError(message, _forms(name)) from error

    def holds(
        self, scope: Scope, event: dict[str, Any], variables: dict[str, dict[str, Any] | None]
    ) -> bool:
        """Whether the expression is true. Raises whatever the library raises when it fails.

        `variables` has session, workload and task; a None is CEL's null. Values in `event` must not
        be nested deeper than JSON parsers allow (1,024): the library converts them recursively.
        """
        values: dict[str, Any] = {}
        for name, fields in self._fields:
            whole = event if name == "event" else variables[name]
            if fields is None or whole is None:
                values[name] = whole
            else:
                values[name] = {field: whole[field] for field in fields if field in whole}
        result = scope.run(self._program, values)
        if result is True or result is False:
            return result
        raise TypeError(f"the expression gave {type(result).__name__}, not true or false")


def _compile(source: str) -> _Program:
    try:
        return _cel.compile(source)
    except Exception as error:
        found = _POSITION.search(str(error))
        if found is None:
            raise CelError(f"{source!r}: {error}", "see the CEL language definition") from error
        line, column, text = found.groups()
        text = text.split(" expecting ")[0].removeprefix("Syntax error: ")
        where = f"column {column}" if line == "1" else f"line {line}, column {column}"
        raise CelError(
            f"{source!r} is not CEL: {where}: {text}", "mend the expression at that column"
        ) from error


def _check_calls(source: str) -> None:
    for call in calls(source):
        if wrong(call):
            problem = f"is not how {call.name!r} is called"
        elif call.name == "matches":
            _check_pattern(call.arguments[-1])
            continue
        elif call.constant:
            try:
                _cel.compile(call.text).execute(_cel.Context())
                continue
            except Exception:  # noqa: BLE001 (the library raises nearly any kind)
                problem = "has no value"
        else:
            continue
        where = f"{call.text!r} at {_place(source, call.start)}"
        raise CelError(f"{source!r}: {where} {problem}", _forms(call.name))


def _forms(name: str) -> str:
    return f"write {' or '.join(FORMS.get(name, ['another function']))}"


def _check_names(source: str, program: _Program, bound: set[str]) -> None:
    for name in program.variables():
        if name not in VARIABLES and name not in bound:
            raise CelError(
                f"{source!r}: unknown variable {name!r} at {_place_of(source, name)}",
                nearest(name, sorted(VARIABLES)),
            )
    functions = program.functions()
    for name in functions:
        if name[0].isalpha() and name not in FORMS:
            raise CelError(
                f"{source!r}: unknown function {name!r} at {_place_of(source, name)}",
                nearest(name, sorted(FORMS)),
            )


def _check_pattern(argument: str) -> None:
    """A pattern that is put together is known at its use only. Raises RegexError."""
    literal = LITERAL.match(argument)
    if literal is not None and literal.end() == len(argument):
        Regex(_cel.compile(argument).execute(_cel.Context()), dot_all=False)


def _place(source: str, position: int) -> str:
    """Where that is, as people count."""
    before = source[:position]
    column = f"column {position - before.rfind(chr(10))}"
    line = before.count("\n") + 1
    return column if line == 1 else f"line {line}, {column}"


def _place_of(source: str, name: str) -> str:
    found = re.search(rf"\b{re.escape(name)}\b", blank(source))
    return _place(source, found.start() if found else 0)


def event_fields(source: str) -> list[str]:
    """The fields of `event` that an expression names with a dot; `process.exe` is one, too."""
    bare = blank(source)
    if "event" in _BOUND.findall(bare):
        return []
    return ["".join(found.split()) for found in _EVENT_FIELD.findall(bare)]


def _used_fields(bare: str, bound: set[str]) -> list[tuple[str, tuple[str, ...] | None]]:
    """Variable -> the fields the expression names, or None where it uses the whole."""
    used: dict[str, set[str] | None] = {}
    for name, field in _USE.findall(_HAS_LABEL.sub("(", bare)):
        if name in bound:
            used[name] = None
            continue
        known = FIELDS.get(name)
        if field and known is not None and field not in known:
            raise CelError(f"{name} has no field {field!r}", nearest(field, sorted(known)))
        fields = used.setdefault(name, set())
        if not field:
            used[name] = None
        elif fields is not None:
            fields.add(field)
    return [
        (name, None if fields is None else tuple(sorted(fields))) for name, fields in used.items()
    ]


def _outside_strings(source: str, pattern: re.Pattern[str], replacement: str) -> str:
    """Replace a pattern everywhere but in string literals and comments."""
    parts: list[str] = []
    position = 0
    for literal in LITERAL.finditer(source):
        parts.append(pattern.sub(replacement, source[position : literal.start()]))
        parts.append(literal.group())
        position = literal.end()
    parts.append(pattern.sub(replacement, source[position:]))
    return "".join(parts)
