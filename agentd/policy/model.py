"""Rules as people write them. Used when files are read; the evaluator works on what it compiles."""

import ipaddress
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from agentd.policy import cel, globs
from agentd.policy.arguments import parse_steps
from agentd.policy.regexes import Regex

RULE_ID = r"^[a-z0-9][a-z0-9-]{0,62}$"
LABEL = r"^[a-z0-9][a-z0-9:._-]{0,63}$"
TAG = r"^[a-z0-9][a-z0-9-]*:[^\s:][^\s]*$"
MAX_TIMEOUT_S = 24 * 3600.0

On = Literal[
    "mcp.tool_call",
    "mcp.request",
    "mcp.response",
    "mcp.notification",
    "file.open",
    "file.delete",
    "file.rename",
    "process.exec",
    "network.connect",
    "network.bind",
]
Action = Literal["allow", "audit", "deny", "hold", "kill"]
Severity = Literal["info", "low", "medium", "high", "critical"]
KillScope = Literal["process", "session"]
OnTimeout = Literal["allow", "deny", "kill"]

ACTION_RANK: dict[Action, int] = {"allow": 0, "audit": 1, "hold": 2, "deny": 3, "kill": 4}
SEVERITY_RANK: dict[Severity, int] = {"info": 0, "low": 1, "medium": 2, "high": 3, "critical": 4}

MATCH_FIELDS: dict[str, frozenset[str]] = {
    "mcp": frozenset({"tool", "server", "method", "arguments"}),
    "file": frozenset({"path", "except_", "access"}),
    "process": frozenset({"exe", "argv"}),
    "network": frozenset({"cidr", "except_", "port", "protocol", "path"}),
}


class MendError(ValueError):
    """A value that cannot be used, and what to write instead."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _name_glob(glob: str) -> str:
    globs.NameGlobs([glob])
    return glob


def _path_glob(glob: str) -> str:
    for text in globs.expand_braces(glob.removeprefix("!")):
        globs.PathGlob(text)
    return glob


def _argument_path(path: str) -> str:
    parse_steps(path)
    return path


def _value_glob(glob: str) -> str:
    return _path_glob(glob) if glob.removeprefix("!").startswith(("/", "~/")) else _name_glob(glob)


def _regex(pattern: str) -> str:
    Regex(pattern)
    return pattern


def _condition(source: str) -> str:
    cel.Condition(source)
    return source


def _scalars(value: Any) -> Any:
    """A glob, a list of globs or {regex: ...} -> the fields of TextTest."""
    if isinstance(value, dict):
        return value
    return {
        "globs": [item if isinstance(item, str) else json.dumps(item) for item in _listed(value)]
    }


def _network(text: Any) -> Any:
    try:
        return str(ipaddress.ip_network(str(text)))
    except ValueError:
        pass
    try:
        mend = f"write {ipaddress.ip_network(str(text), strict=False)}"
    except ValueError:
        mend = "write an address or a network, such as 10.0.0.0/8 or fd00::/8"
    raise MendError(f"{text!r} is not a network", mend)


def _ports(value: Any) -> Any:
    """80, "8000-8999" or a list of them -> pairs of the first and the last port."""
    ranges = []
    for item in _listed(value):
        found = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", str(item))
        low = int(found[1]) if found else -1
        high = int(found[2] or found[1]) if found else -1
        if not 0 <= low <= high <= 65535:
            raise MendError(f"{item!r} is not a port", "write 443, or '8000-8999' for a range")
        ranges.append((low, high))
    return ranges


def _seconds(value: Any) -> Any:
    """`500ms`, `30s`, `5m`, `2h` -> seconds."""
    found = re.fullmatch(r"(\d{1,9})(ms|s|m|h)", str(value).strip())
    unit = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    seconds = int(found[1]) * unit[found[2]] if found else -1.0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise MendError(f"{value!r} is not a duration", "write 500ms, 30s, 5m or 2h (at most 24h)")
    return seconds


NameGlob = Annotated[str, AfterValidator(_name_glob)]
PathGlob = Annotated[str, AfterValidator(_path_glob)]
NameGlobs = Annotated[tuple[NameGlob, ...], BeforeValidator(_listed), Field(min_length=1)]
PathGlobs = Annotated[tuple[PathGlob, ...], BeforeValidator(_listed), Field(min_length=1)]
Exceptions = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
Networks = Annotated[
    tuple[Annotated[str, BeforeValidator(_network)], ...],
    BeforeValidator(_listed),
    Field(min_length=1),
]
Ports = Annotated[tuple[tuple[int, int], ...], BeforeValidator(_ports), Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextTest(_Strict):
    """Globs over a text (any of those without `!`, none of those with), or a regular expression."""

    globs: tuple[Annotated[str, AfterValidator(_value_glob)], ...] = ()
    regex: Annotated[str, AfterValidator(_regex)] | None = None


TextTests = Annotated[TextTest, BeforeValidator(_scalars)]


class Match(_Strict):
    """What an event must look like; all fields given must match. Which fields: MATCH_FIELDS."""

    tool: NameGlobs | None = None
    server: NameGlobs | None = None
    method: NameGlobs | None = None
    arguments: dict[Annotated[str, AfterValidator(_argument_path)], TextTests] | None = None
    path: NameGlobs | None = None
    """Path globs for file.*, name globs on the socket path for network.*."""
    except_: Exceptions | None = Field(default=None, alias="except")
    """Path globs for file.*, networks for network.*."""
    access: (
        Annotated[
            tuple[Literal["read", "write"], ...], BeforeValidator(_listed), Field(min_length=1)
        ]
        | None
    ) = None
    exe: PathGlobs | None = None
    argv: TextTests | None = None
    cidr: Networks | None = None
    port: Ports | None = None
    protocol: (
        Annotated[
            tuple[Literal["tcp", "udp", "unix"], ...], BeforeValidator(_listed), Field(min_length=1)
        ]
        | None
    ) = None


class Approve(_Strict):
    """How long a hold waits for a person, and what happens if nobody answers."""

    timeout: Annotated[float, BeforeValidator(_seconds)] = 120.0
    """Seconds."""
    on_timeout: OnTimeout = "deny"


Example = dict[str, Any] | str


class Tests(_Strict):
    """Examples of events: those the rule must match, and those it must leave alone."""

    match: tuple[Example, ...] = ()
    pass_: tuple[Example, ...] = Field(default=(), alias="pass")


class Rule(_Strict):
    """One rule."""

    id: Annotated[str, Field(pattern=RULE_ID)]
    on: On
    workloads: NameGlobs = ("*",)
    match: Match = Match()
    when: Annotated[str, AfterValidator(_condition)] | None = None
    action: Action
    kill: KillScope | None = None
    approve: Approve | None = None
    mark: Annotated[tuple[Annotated[str, Field(pattern=LABEL)], ...], BeforeValidator(_listed)] = ()
    severity: Severity = "medium"
    reason: Annotated[str, Field(max_length=500)] = ""
    tags: tuple[Annotated[str, Field(pattern=TAG)], ...] = ()
    tests: Tests = Tests()

    @property
    def family(self) -> str:
        """The first part of `on`: mcp, file, process or network."""
        return self.on.partition(".")[0]

    @property
    def told(self) -> str:
        """What the agent is told."""
        return self.reason or f"not allowed by rule {self.id}"


Problem = tuple[tuple[str | int, ...], str, str]


def problems(rule: Rule) -> Iterator[Problem]:
    """What is wrong between the fields of a rule: place inside the rule, message, mend."""
    allowed = MATCH_FIELDS[rule.family]
    for name in sorted(rule.match.model_fields_set - allowed):
        shown = ", ".join(sorted(field.rstrip("_") for field in allowed))
        yield (
            ("match", name.rstrip("_")),
            f"{name.rstrip('_')!r} means nothing for {rule.on}",
            f"{rule.on} can match {shown}",
        )
    if rule.kill is not None and rule.action != "kill":
        yield ("kill",), "'kill' needs 'action: kill'", "remove it or change the action"
    if rule.approve is not None and rule.action != "hold":
        yield ("approve",), "'approve' needs 'action: hold'", "remove it or change the action"
    if rule.family == "file":
        yield from _file_problems(rule)
    elif rule.family == "network":
        yield from _checked("except", rule.match.except_, _network)


def _checked(field: str, values: tuple[str, ...] | None, check: Any) -> Iterator[Problem]:
    for index, value in enumerate(values or ()):
        try:
            check(value)
        except (MendError, globs.GlobError) as error:
            yield ("match", field, index), f"{field}: {error}", error.mend


def _file_problems(rule: Rule) -> Iterator[Problem]:
    bad = list(_checked("path", rule.match.path, _path_glob))
    yield from bad
    yield from _checked("except", rule.match.except_, _path_glob)
    if rule.on != "file.open" or bad:
        return
    mend = (
        "name a file (**/id_rsa), an extension (**/*.pem), a directory (/srv/keys/**) or at least"
        " 3 letters a name begins with, or add 'access: [write]'"
    )
    paths = rule.match.path or ()
    if rule.match.access == ("write",):
        return
    if all(path.startswith("!") for path in paths):
        yield ("match",), "this rule would stop every open of every file", mend
    for index, path in enumerate(paths):
        if path.startswith("!"):
            continue
        for text in globs.expand_braces(path):
            if globs.PathGlob(text).key is None:
                message = f"path: {text!r} has no literal part that opens can be filtered by"
                yield ("match", "path", index), message, mend
