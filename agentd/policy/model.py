"""Rules as people write them, checked with pydantic while files are read."""

import ipaddress
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from agentd.policy import cel, globs
from agentd.policy.arguments import parse_steps
from agentd.policy.exchange import read_rule
from agentd.policy.own import SELF
from agentd.policy.regexes import Regex
from agentd.policy.rules import (
    HOLD_TIMEOUT_S,
    Access,
    Action,
    Approve,
    Defaults,
    Example,
    KillScope,
    Kind,
    On,
    OnTimeout,
    Protocol,
    Rule,
    Severity,
    SocketFamily,
)
from agentd.policy.side import KINDS, signal_number
from agentd.spelling import nearest

RULE_ID = r"^[a-z0-9][a-z0-9-]{0,62}$"
LABEL = r"^[a-z0-9][a-z0-9:._-]{0,63}$"
TAG = r"^[a-z0-9][a-z0-9-]*:[^\s:][^\s]*$"
MAX_TIMEOUT_S = 24 * 3600.0

MATCH_FIELDS: dict[str, frozenset[str]] = {
    "mcp": frozenset({"tool", "server", "method", "arguments"}),
    "file": frozenset({"path", "except_", "access"}),
    "process": frozenset({"exe", "argv"}),
    "network": frozenset({"cidr", "except_", "port", "protocol", "path"}),
    "process.trace": frozenset({"exe", "access"}),
    "process.signal": frozenset({"exe", "signal"}),
    "process.namespace": frozenset({"kind"}),
    "system.mount": frozenset({"kind", "path", "except_"}),
    "system.bpf": frozenset(),
    "network.socket": frozenset({"family"}),
}
"""By kind of event; where that is not listed, by its first part."""

_PROCESS = frozenset(
    {"process"}
    | {
        f"process.{field}"
        for field in ("pid", "start", "ppid", "uid", "exe", "argv", "comm", "ancestry")
    }
)
EVENT_FIELDS: dict[str, frozenset[str]] = {
    "mcp": frozenset({"method", "tool", "server", "arguments", "params", "result", "direction"})
    | {"error", "is_error", "anomalies"},
    "file": _PROCESS | {"path", "to", "access", "op"},
    "process": _PROCESS | {"exe", "filename", "argv"},
    "network": _PROCESS
    | {"family", "protocol", "address", "port", "path", "given", "direction", "error"},
    "process.trace": _PROCESS | {"exe", "pid", "access"},
    "process.signal": _PROCESS | {"exe", "pid", "signal"},
    "process.namespace": _PROCESS | {"kind", "types"},
    "system.mount": _PROCESS | {"kind", "path"},
    "system.bpf": _PROCESS | {"command"},
    "network.socket": _PROCESS | {"family", "type", "protocol", "error"},
}
"""What a condition can ask of `event`, by kind of event as in MATCH_FIELDS."""


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
    """A glob, a list of globs or {regex: ...} -> the fields of TextTestModel."""
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


def _signals(value: Any) -> Any:
    """SIGKILL, KILL, 9 or a list of them -> numbers."""
    numbers = []
    for item in _listed(value):
        try:
            numbers.append(signal_number(item))
        except ValueError as error:
            raise MendError(str(error), "write SIGTERM, TERM or 15") from None
    return numbers


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


class TextTestModel(_Strict):
    """Globs over a text (any of those without `!`, none of those with), or a regular expression."""

    globs: tuple[Annotated[str, AfterValidator(_value_glob)], ...] = ()
    regex: Annotated[str, AfterValidator(_regex)] | None = None


TextTests = Annotated[TextTestModel, BeforeValidator(_scalars)]


class MatchModel(_Strict):
    """What an event must look like; all fields given must match. Which fields: MATCH_FIELDS."""

    tool: NameGlobs | None = None
    server: NameGlobs | None = None
    method: NameGlobs | None = None
    arguments: dict[Annotated[str, AfterValidator(_argument_path)], TextTests] | None = None
    path: NameGlobs | None = None
    """Path globs for file.*, name globs on the socket path for network.*."""
    except_: Exceptions | None = Field(default=None, alias="except")
    """Path globs for file.*, networks for network.*."""
    access: Annotated[tuple[Access, ...], BeforeValidator(_listed), Field(min_length=1)] | None = (
        None
    )
    exe: PathGlobs | None = None
    argv: TextTests | None = None
    cidr: Networks | None = None
    port: Ports | None = None
    protocol: (
        Annotated[tuple[Protocol, ...], BeforeValidator(_listed), Field(min_length=1)] | None
    ) = None
    signal: Annotated[tuple[int, ...], BeforeValidator(_signals), Field(min_length=1)] | None = None
    kind: Annotated[tuple[Kind, ...], BeforeValidator(_listed), Field(min_length=1)] | None = None
    family: (
        Annotated[tuple[SocketFamily, ...], BeforeValidator(_listed), Field(min_length=1)] | None
    ) = None


class ApproveModel(_Strict):
    """How long a hold waits for a person, and what happens if nobody answers."""

    timeout: Annotated[float, BeforeValidator(_seconds)] = HOLD_TIMEOUT_S
    on_timeout: OnTimeout = "deny"


class ExamplesModel(_Strict):
    """Examples of events: those the rule must match, and those it must leave alone."""

    match: tuple[Example, ...] = ()
    pass_: tuple[Example, ...] = Field(default=(), alias="pass")


class RuleModel(_Strict):
    """One rule."""

    id: Annotated[str, Field(pattern=RULE_ID)]
    on: On
    workloads: NameGlobs = ("*",)
    match: MatchModel = MatchModel()
    when: Annotated[str, AfterValidator(_condition)] | None = None
    action: Action
    kill: KillScope | None = None
    approve: ApproveModel | None = None
    mark: Annotated[tuple[Annotated[str, Field(pattern=LABEL)], ...], BeforeValidator(_listed)] = ()
    severity: Severity = "medium"
    reason: Annotated[str, Field(max_length=500)] = ""
    tags: tuple[Annotated[str, Field(pattern=TAG)], ...] = ()
    tests: ExamplesModel = ExamplesModel()

    @property
    def family(self) -> str:
        """The first part of `on`: mcp, file, process, network or system."""
        return self.on.partition(".")[0]

    def to_rule(self, defaults: Defaults) -> Rule:
        """The rule as it is put in force."""
        rule = read_rule(self.model_dump())
        if self.action != "hold":
            return rule
        written = self.approve or ApproveModel()
        given = "timeout" in written.model_fields_set
        timeout = written.timeout if given else defaults.hold_timeout
        return replace(rule, approve=Approve(timeout, written.on_timeout))


Problem = tuple[tuple[str | int, ...], str, str]


def problems(rule: RuleModel) -> Iterator[Problem]:
    """What is wrong between the fields of a rule: place inside the rule, message, mend."""
    allowed = MATCH_FIELDS.get(rule.on) or MATCH_FIELDS.get(rule.family) or frozenset()
    for name in sorted(rule.match.model_fields_set - allowed):
        shown = ", ".join(sorted(field.rstrip("_") for field in allowed)) or "nothing"
        yield (
            ("match", name.rstrip("_")),
            f"{name.rstrip('_')!r} means nothing for {rule.on}",
            f"{rule.on} can match {shown}",
        )
    known = EVENT_FIELDS.get(rule.on) or EVENT_FIELDS[rule.family]
    for name in cel.event_fields(rule.when or ""):
        if name not in known:
            message = f"when: the event of {rule.on} has no field {name!r}"
            yield ("when",), message, nearest(name, sorted(known))
    if rule.kill is not None and rule.action != "kill":
        yield ("kill",), "'kill' needs 'action: kill'", "remove it or change the action"
    if rule.approve is not None and rule.action != "hold":
        yield ("approve",), "'approve' needs 'action: hold'", "remove it or change the action"
    if rule.id == SELF:
        yield ("id",), f"the id {SELF!r} is agentd's own", "give the rule another id"
    yield from _choice_problems(rule)
    if rule.family == "file":
        yield from _file_problems(rule)
    elif rule.on == "system.mount":
        yield from _checked("path", rule.match.path, _path_glob)
        yield from _checked("except", rule.match.except_, _path_glob)
    elif rule.on == "network.socket" and rule.match.family is None:
        yield ("match",), f"{rule.on} needs 'family'", "name kinds of sockets: [raw, packet, vsock]"
    elif rule.family == "network":
        yield from _checked("except", rule.match.except_, _network)


def _checked(field: str, values: tuple[str, ...] | None, check: Any) -> Iterator[Problem]:
    for index, value in enumerate(values or ()):
        try:
            check(value)
        except (MendError, globs.GlobError) as error:
            yield ("match", field, index), f"{field}: {error}", error.mend


def _choice_problems(rule: RuleModel) -> Iterator[Problem]:
    """Values of `access` and `kind` that another kind of event has."""
    for name, given in (("access", rule.match.access), ("kind", rule.match.kind)):
        allowed = KINDS.get(rule.on, ("read", "write") if name == "access" else ())
        for index, value in enumerate(given or ()):
            if value not in allowed and allowed:
                message = f"{name}: {rule.on} has no {value!r}"
                yield ("match", name, index), message, f"write one of {', '.join(allowed)}"


def _file_problems(rule: RuleModel) -> Iterator[Problem]:
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
