"""The tests that rules carry: each `match` example must match its rule, each `pass` must not.

An example is the subject of an event, as the evaluator takes it, and may also have `session`
({labels: [...], posture: ...}), `task` and `workload`. A bare text stands for the field that the
kind of rule is mostly about: the tool, the path, the executable, the address.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentd.policy.evaluator import Decision, Evaluator
from agentd.policy.rules import Example, Policy, Rule
from agentd.policy.side import signal_name

MAIN_FIELD = {"mcp": "tool", "file": "path", "process": "exe", "network": "address"}
MAIN_FIELD_OF = {
    "network.socket": "family",
    "process.namespace": "kind",
    "system.mount": "path",
    "system.bpf": "command",
}
CONTEXT_FIELDS = ("session", "task", "workload")


@dataclass(slots=True)
class ExampleSession:
    """The session of an example."""

    workload: str
    labels: set[str]
    task: dict[str, Any] | None
    posture: str = "enforce"
    id: str = "s-example"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one example."""

    rule: str
    file: Path
    line: int
    kind: str
    """match or pass."""
    example: Example
    ok: bool
    explanation: str
    """Why it is not ok, or which rules matched."""


@dataclass(slots=True)
class Report:
    """The results, and the rules that have no example of some kind."""

    results: list[Result] = field(default_factory=list)
    untested: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every example came out right."""
        return all(result.ok for result in self.results)


def run(policy: Policy) -> Report:
    """All examples of all rules, each judged by the whole policy."""
    evaluator = Evaluator(policy)
    report = Report()
    for rule in policy.rules:
        report.results.extend(_results(policy, evaluator, rule))
        if not rule.tests.match or not rule.tests.pass_:
            report.untested.append(rule.id)
    return report


def _results(policy: Policy, evaluator: Evaluator, rule: Rule) -> Iterator[Result]:
    source = policy.sources[rule.id]
    for kind, examples in (("match", rule.tests.match), ("pass", rule.tests.pass_)):
        for index, example in enumerate(examples):
            decision = judge(evaluator, rule, example)
            matched = decision is not None and rule.id in decision.rules
            yield Result(
                rule=rule.id,
                file=source.file,
                line=source.examples[kind, index],
                kind=kind,
                example=example,
                ok=matched == (kind == "match"),
                explanation=_explain(kind, decision, matched=matched),
            )


def judge(evaluator: Evaluator, rule: Rule, example: Example) -> Decision | None:
    """The decision on one example of a rule."""
    field_name = MAIN_FIELD_OF.get(rule.on) or MAIN_FIELD[rule.family]
    subject: dict[str, Any] = {field_name: example} if isinstance(example, str) else dict(example)
    context: dict[str, Any] = {name: subject.pop(name, None) for name in CONTEXT_FIELDS}
    if rule.on == "mcp.tool_call":
        subject.setdefault("method", "tools/call")
    elif rule.on == "file.open":
        subject.setdefault("access", (rule.match.access or ("read",))[0])
    elif rule.on == "process.exec":
        argv = subject.get("argv") or [""]
        subject.setdefault("exe", argv[0])
    elif rule.on == "process.trace":
        subject.setdefault("access", (rule.match.access or ("read",))[0])
    elif rule.on == "process.signal":
        subject.setdefault("signal", signal_name((rule.match.signal or (15,))[0]))
    elif rule.on == "system.mount":
        subject.setdefault("kind", (rule.match.kind or ("mount",))[0])
    elif rule.family == "network" and rule.on != "network.socket":
        subject.setdefault("family", "unix" if "path" in subject else "ipv4")
        subject.setdefault("protocol", "tcp")
        subject.setdefault("port", 443)
    workload = context["workload"] or _some_workload(rule)
    given = context["session"] or {}
    session = ExampleSession(
        workload=workload,
        labels=set(given.get("labels") or ()),
        task=context["task"],
        posture=given.get("posture", "enforce"),
    )
    return evaluator.evaluate(rule.on, workload, subject, session)


def _some_workload(rule: Rule) -> str:
    """A workload that the rule is for: the first that is named without a wildcard."""
    return next((name for name in rule.workloads if name.replace("-", "").isalnum()), "example")


def _explain(kind: str, decision: Decision | None, *, matched: bool) -> str:
    if decision is None:
        found = "no rule matched"
    else:
        found = f"matched {', '.join(decision.rules)} ({decision.verdict})"
        if decision.errors:
            found += "; " + "; ".join(decision.errors)
    if matched == (kind == "match"):
        return found
    return f"the rule should {'not ' if kind == 'pass' else ''}match; {found}"
