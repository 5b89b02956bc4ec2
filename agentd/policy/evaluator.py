"""Events against rules: the verdict on the hot path.

Rules are compiled once for each policy and grouped by kind of event and workload. The names of an
MCP message or an exec select its rules through a bounded cache, a file's path through an index, so
that an event which matches nothing costs a few microseconds however many rules there are.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

from agentd.policy import matching
from agentd.policy.cel import Condition, Scope
from agentd.policy.globs import NameGlobs, PathIndex
from agentd.policy.matching import CACHE_ENTRIES, Subject, Test
from agentd.policy.rules import (
    ACTION_RANK,
    SEVERITY_RANK,
    Action,
    Approve,
    KillScope,
    OnTimeout,
    Policy,
    Rule,
    Severity,
)
from agentd.policy.side import SIDE_KINDS

FAIL_CLOSED: frozenset[Action] = frozenset({"deny", "hold", "kill"})
MAX_GROUPS = 1024
CACHED_NAME = 512  # characters; longer names are not worth keeping


class SessionView(Protocol):
    """What policy sees of a session."""

    @property
    def id(self) -> str:
        """As in events."""

    @property
    def posture(self) -> str:
        """The posture of its workload: observe or enforce."""

    @property
    def labels(self) -> AbstractSet[str]:
        """The marks that rules have set; asked for only where a condition depends on them."""

    @property
    def task(self) -> dict[str, Any] | None:
        """What the session was started for."""


class ProcessView(Protocol):
    """What policy sees of the process that acts."""

    def to_dict(self) -> dict[str, object]:
        """The `process` object of an event."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one event: the most severe of the matching rules.

    Events share it: its lists are not to be changed.
    """

    verdict: Action
    rule: str
    """The rule that decided: among the rules with this verdict the one of highest severity."""
    rules: list[str]
    """All rules that matched, the deciding one first, the others in the order of the files."""
    reason: str
    severity: Severity
    """The highest of all rules that matched."""
    tags: list[str]
    kill_scope: KillScope | None
    """Set when the verdict is kill."""
    timeout_s: float | None
    """Seconds; set when the verdict is hold."""
    on_timeout: OnTimeout | None
    marks: list[str]
    """Session labels to set."""
    errors: list[str]
    """Conditions that could not be evaluated: `RULE: what happened`."""


class CompiledRule:
    """One rule, ready for evaluation."""

    __slots__ = (
        "action",
        "approve",
        "condition",
        "id",
        "kill",
        "marks",
        "names",
        "on",
        "paths",
        "reason",
        "rest",
        "severity",
        "tags",
        "workloads",
    )

    def __init__(self, rule: Rule) -> None:
        self.id = rule.id
        self.on = rule.on
        self.workloads = NameGlobs(rule.workloads)
        self.action = rule.action
        self.kill: KillScope = rule.kill or "process"
        self.approve = rule.approve or Approve()
        self.marks = rule.mark
        self.severity = rule.severity
        self.reason = rule.told
        self.tags = rule.tags
        self.condition = None if rule.when is None else Condition(rule.when)
        self.rest: Test | None = None
        self.paths: list[str] = []
        self.names: Test
        match rule.family:
            case "mcp":
                self.names = matching.mcp_names(rule.match)
                self.rest = matching.mcp_arguments(rule.match)
            case "system":
                self.names = _always
                self.rest = matching.side_test(rule.match)
            case "process" if rule.on in SIDE_KINDS:
                self.names = matching.exec_names(rule.match)
                self.rest = matching.side_test(rule.match)
            case "process":
                self.names = matching.exec_names(rule.match)
                self.rest = matching.exec_argv(rule.match)
            case "file":
                test = matching.FileTest(rule.match)
                self.names, self.paths = test, test.paths.positive
            case _ if rule.on == "network.socket":
                self.names = matching.socket_test(rule.match)
            case _:
                self.names = matching.network_test(rule.match)


class _Group:
    """The rules for one kind of event and one workload."""

    __slots__ = ("_cache", "_family", "_index", "_unindexed", "rules")

    def __init__(self, family: str, rules: list[CompiledRule]) -> None:
        self.rules = rules
        self._family = family
        self._cache: dict[tuple[str, str, str], list[CompiledRule]] = {}
        self._index = PathIndex()
        self._unindexed: set[int] = set()
        for position, rule in enumerate(rules if family == "file" else ()):
            if not rule.paths:
                self._unindexed.add(position)
            for glob in rule.paths:
                self._index.add(glob, position)

    def candidates(self, subject: Subject, named: str | None = None) -> Iterable[CompiledRule]:
        """The rules whose names, paths and addresses match, in the order of the files."""
        if named is not None:
            ids = {rule.id for rule in self.candidates(subject)} | {named}
            return [rule for rule in self.rules if rule.id in ids]
        if self._family == "file":
            owners = set(self._unindexed)
            for path in matching.file_paths(subject):
                owners |= self._index.owners(path)
            return [self.rules[at] for at in sorted(owners) if self.rules[at].names(subject)]
        if self._family == "network":
            return [rule for rule in self.rules if rule.names(subject)]
        if self._family == "mcp":
            server = matching.server_name(subject)
            key = (_text(subject.get("tool")), server, _text(subject.get("method")))
        else:
            key = (_text(subject.get("exe")), _text(subject.get("filename")), "")
        found = self._cache.get(key)
        if found is None:
            found = [rule for rule in self.rules if rule.names(subject)]
            if len(self._cache) >= CACHE_ENTRIES:
                self._cache.clear()
            if sum(map(len, key)) <= CACHED_NAME:
                self._cache[key] = found
        return found


def _always(_subject: Subject) -> bool:
    return True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


class Evaluator:
    """A policy, compiled. Not thread-safe; make a new one for a new policy."""

    def __init__(self, policy: Policy) -> None:
        self.failures: OrderedDict[str, str] = OrderedDict()
        """Rule id -> its last evaluation error, for rules whose condition has failed."""
        self._rules = [CompiledRule(rule) for rule in policy.rules]
        self._groups: dict[tuple[str, str], _Group] = {}
        self._decisions: dict[tuple[CompiledRule, ...], Decision] = {}
        self._scope = Scope()

    def wants(self, on: str, workload: str) -> bool:
        """Whether any rule for that kind of event applies to that workload."""
        return bool(self._group(on, workload).rules)

    def evaluate(
        self,
        on: str,
        workload: str,
        subject: Subject,
        session: SessionView | None = None,
        named: str | None = None,
        *,
        process: ProcessView | None = None,
    ) -> Decision | None:
        """The decision on one event, or None if no rule matches.

        `named`: a rule whose names match whatever the subject says, as the kernel knows the file.
        `process`: what conditions see as `event.process`.

        `subject` is the event's subject: for mcp.* method, tool, server (name or object) and
        arguments or params, as JSON values; for file.* path, to, access; for process.exec exe,
        filename, argv; for network.* family, address, port, protocol, path. A `tools/call` is
        judged by the rules of mcp.tool_call and of mcp.request together, whichever is asked for.
        Never raises on account of the subject: a condition that fails counts as true for deny,
        hold and kill, and as false for allow and audit.
        """
        if on == "mcp.request" and subject.get("method") == "tools/call":
            on = "mcp.tool_call"
        group = self._group(on, workload)
        if not group.rules:
            return None
        matched: list[CompiledRule] = []
        errors: list[str] = []
        for rule in group.candidates(subject, named):
            if rule.rest is not None and not rule.rest(subject):
                continue
            if rule.condition is not None:
                if process is not None:
                    subject = {**subject, "process": process.to_dict()}
                    process = None
                try:
                    if not self._holds(rule.condition, workload, subject, session):
                        continue
                except Exception as error:  # noqa: BLE001 (the library raises nearly any kind)
                    text = f"{rule.id}: {type(error).__name__}: {error}"
                    errors.append(text)
                    self.failures[rule.id] = text
                    if rule.action not in FAIL_CLOSED:
                        continue
            matched.append(rule)
        if not matched:
            return None
        return _decide(matched, errors) if errors else self._decided(tuple(matched))

    def _decided(self, matched: tuple[CompiledRule, ...]) -> Decision:
        """What these rules decide, made once."""
        decision = self._decisions.get(matched)
        if decision is None:
            if len(self._decisions) >= CACHE_ENTRIES:
                self._decisions.clear()
            decision = self._decisions[matched] = _decide(matched, [])
        return decision

    def _group(self, on: str, workload: str) -> _Group:
        group = self._groups.get((on, workload))
        if group is None:
            kinds = {on, "mcp.request"} if on == "mcp.tool_call" else {on}
            group = _Group(
                on.partition(".")[0],
                [r for r in self._rules if r.on in kinds and r.workloads.match(workload)],
            )
            if len(self._groups) >= MAX_GROUPS:
                self._groups.clear()
            self._groups[on, workload] = group
        return group

    def _holds(
        self,
        condition: Condition,
        workload: str,
        subject: Subject,
        session: SessionView | None,
    ) -> bool:
        labels: AbstractSet[str] = frozenset()
        if session is not None and condition.asks_session:
            labels = session.labels
        self._scope.labels = labels
        variables: dict[str, dict[str, Any] | None] = {
            "session": {
                "id": "" if session is None else session.id,
                "workload": workload,
                "posture": "" if session is None else session.posture,
                "labels": list(labels),
            },
            "workload": {"name": workload},
            "task": None if session is None else session.task,
        }
        return condition.holds(self._scope, subject, variables)


def _decide(matched: Sequence[CompiledRule], errors: list[str]) -> Decision:
    """The most severe verdict, and everything that goes with it."""
    decider = max(matched, key=_weight)  # the first of equals
    kill = decider.action == "kill"
    hold = decider.action == "hold"
    session = kill and any(r.action == "kill" and r.kill == "session" for r in matched)
    return Decision(
        verdict=decider.action,
        rule=decider.id,
        rules=[decider.id, *(rule.id for rule in matched if rule is not decider)],
        reason=decider.reason,
        severity=max((rule.severity for rule in matched), key=SEVERITY_RANK.__getitem__),
        tags=list(dict.fromkeys(tag for rule in (decider, *matched) for tag in rule.tags)),
        kill_scope=("session" if session else "process") if kill else None,
        timeout_s=decider.approve.timeout if hold else None,
        on_timeout=decider.approve.on_timeout if hold else None,
        marks=list(dict.fromkeys(mark for rule in matched for mark in rule.marks)),
        errors=errors,
    )


def _weight(rule: CompiledRule) -> tuple[int, int]:
    return ACTION_RANK[rule.action], SEVERITY_RANK[rule.severity]
