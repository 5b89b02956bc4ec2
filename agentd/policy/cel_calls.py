"""Calls in a CEL expression, checked before it is ever evaluated.

The library has no type checker: a call with too many arguments, or with a number for a text, would
fail only at the first event that it should judge. It does not tell its syntax tree either, so calls
are found in the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TIME_PARTS = (
    "Date DayOfMonth DayOfWeek DayOfYear FullYear Hours Milliseconds Minutes Month Seconds"
)
FORMS: dict[str, tuple[str, ...]] = {
    "all": ("LIST.all(NAME, CONDITION)",),
    "bytes": ('bytes("TEXT")',),
    "contains": ('TEXT.contains("TEXT")',),
    "double": ("double(NUMBER)",),
    "duration": ('duration("1h30m")',),
    "dyn": ("dyn(VALUE)",),
    "endsWith": ('TEXT.endsWith("TEXT")',),
    "exists": ("LIST.exists(NAME, CONDITION)",),
    "exists_one": ("LIST.exists_one(NAME, CONDITION)",),
    "filter": ("LIST.filter(NAME, CONDITION)",),
    "has": ("has(event.FIELD)", 'session.has("LABEL")'),
    "int": ("int(NUMBER)",),
    "map": ("LIST.map(NAME, VALUE)", "LIST.map(NAME, CONDITION, VALUE)"),
    "matches": ('TEXT.matches("PATTERN")', 'matches(TEXT, "PATTERN")'),
    "size": ("size(VALUE)", "VALUE.size()"),
    "startsWith": ('TEXT.startsWith("TEXT")',),
    "string": ("string(VALUE)",),
    "timestamp": ('timestamp("2026-11-23T18:00:00Z")',),
    "type": ("type(VALUE)",),
    "uint": ("uint(NUMBER)",),
    **{f"get{part}": (f"TIME.get{part}()",) for part in _TIME_PARTS.split()},
}
"""How each function is called; an argument in quotes is a text."""

LITERAL = re.compile(
    r"""[rRbB]{0,2}(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    r"|//[^\n]*",
    re.DOTALL,
)
"""A text, bytes or a comment."""

_TRIED = frozenset(
    {"bytes", "double", "duration", "int", "size", "string", "timestamp", "type", "uint"}
)
_CALL = re.compile(r"(?<!\w)([A-Za-z_]\w*)\s*\(")
_SESSION = re.compile(r"(?<![\w.])session\s*\.\s*$")
_SCALAR = re.compile(r"-?\s*\d[\w.]*(?:[eE][-+]?\d+)?|true|false|null")


@dataclass(frozen=True, slots=True)
class Call:
    """One call in the text of an expression."""

    name: str
    start: int
    """Where the name stands, in characters from 0."""
    receiver: str
    """"" for a function; `session` or another text for what stands before the dot."""
    arguments: tuple[str, ...]
    """Without comments and the blanks around them."""

    @property
    def text(self) -> str:
        """The call without what it is called on."""
        return f"{self.name}({', '.join(self.arguments)})"

    @property
    def constant(self) -> bool:
        """Whether its one argument is a value that stands there: it can be tried at once."""
        return (
            not self.receiver
            and self.name in _TRIED
            and [_kind(argument) for argument in self.arguments] in (["text"], ["value"])
        )


def calls(source: str) -> Iterator[Call]:
    """All calls of the functions in FORMS."""
    bare = blank(source)
    uncommented = blank(source, only_comments=True)
    for found in _CALL.finditer(bare):
        name, before = found[1], bare[: found.start()]
        if name not in FORMS:
            continue
        receiver = "VALUE" if before.rstrip().endswith(".") else ""
        if receiver and _SESSION.search(before):
            receiver = "session"
        texts = [uncommented[part].strip() for part in _arguments(bare, found.end())]
        yield Call(name, found.start(), receiver, () if texts == [""] else tuple(texts))


def blank(source: str, *, only_comments: bool = False) -> str:
    """The source with blanks for texts and comments, of the same length."""

    def blanks(found: re.Match[str]) -> str:
        text = found.group()
        return text if only_comments and not text.startswith("//") else " " * len(text)

    return LITERAL.sub(blanks, source)


def _arguments(bare: str, start: int) -> Iterator[slice]:
    """Where the arguments stand of a call whose bracket ends before `start`."""
    depth = 0
    for position in range(start, len(bare)):
        character = bare[position]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if depth < 0 or (character == "," and depth == 0):
            yield slice(start, position)
            start = position + 1
        if depth < 0:
            return


def wrong(call: Call) -> bool:
    """Whether no form of the function is called like this."""
    return not any(_fits(call, form) for form in FORMS[call.name])


def _fits(call: Call, form: str) -> bool:
    head, _, rest = form.partition("(")
    receiver, dot, _ = head.rpartition(".")
    parameters = [each for each in rest.removesuffix(")").split(", ") if each]
    of_session = receiver == "session"
    return (
        (call.receiver == "session" if of_session else bool(dot) == bool(call.receiver))
        and len(parameters) == len(call.arguments)
        and all(
            not wanted.startswith('"') or _kind(given) != "value"
            for wanted, given in zip(parameters, call.arguments, strict=True)
        )
    )


def _kind(argument: str) -> str:
    """`text` or `value` (a number, bytes, ...) for a literal, `other` for all else."""
    literal = LITERAL.match(argument)
    if literal is not None and literal.end() == len(argument):
        return "value" if "b" in argument[:2].lower().partition(argument[-1])[0] else "text"
    return "value" if _SCALAR.fullmatch(argument) else "other"
