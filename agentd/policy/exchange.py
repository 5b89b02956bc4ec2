"""A policy as JSON: how a short-lived process that reads the files hands it to the engine.

Rules and workloads are written field by field, under the names of the fields in `rules` and
`workloads.workload`; the pydantic models dump the same form. Readers raise KeyError, TypeError or
ValueError for anything else.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from agentd.policy.rules import (
    Approve,
    Examples,
    Match,
    Policy,
    Rule,
    Source,
    TextTest,
)
from agentd.workloads.workload import Selector, Workload

Json = dict[str, Any]
Item = TypeVar("Item")


def policy_to_json(policy: Policy) -> Json:
    """What `read_policy` reads; without the examples, which only `agentd rules test` needs."""
    rules = [asdict(rule) for rule in policy.rules]
    for rule in rules:
        del rule["tests"]
    return {
        "workloads": [asdict(workload) for workload in policy.workloads.values()],
        "rules": rules,
        "sources": _places(policy.sources),
        "disabled": _places(policy.disabled),
    }


def read_policy(data: Json) -> Policy:
    """The policy that `policy_to_json` wrote."""
    return Policy(
        workloads={each["name"]: read_workload(each) for each in data["workloads"]},
        rules=[read_rule(each) for each in data["rules"]],
        sources=_read_places(data["sources"]),
        disabled=_read_places(data["disabled"]),
    )


def read_rule(data: Json) -> Rule:
    """One rule; `tests` may be missing."""
    approve, tests = data["approve"], data.get("tests")
    return Rule(
        id=data["id"],
        on=data["on"],
        action=data["action"],
        workloads=tuple(data["workloads"]),
        match=_read_match(data["match"]),
        when=data["when"],
        kill=data["kill"],
        approve=None if approve is None else Approve(approve["timeout"], approve["on_timeout"]),
        mark=tuple(data["mark"]),
        severity=data["severity"],
        reason=data["reason"],
        tags=tuple(data["tags"]),
        tests=Examples(tuple(tests["match"]), tuple(tests["pass_"])) if tests else Examples(),
    )


def read_workload(data: Json) -> Workload:
    """One workload."""
    return Workload(
        name=data["name"],
        description=data["description"],
        posture=data["posture"],
        on_failure=data["on_failure"],
        select=tuple(_read_selector(selector) for selector in data["select"]),
    )


def _read_match(data: Json) -> Match:
    arguments, argv, port = data["arguments"], data["argv"], data["port"]
    return Match(
        tool=_items(data["tool"]),
        server=_items(data["server"]),
        method=_items(data["method"]),
        arguments=arguments and {path: _read_test(test) for path, test in arguments.items()},
        path=_items(data["path"]),
        except_=_items(data["except_"]),
        access=_items(data["access"]),
        exe=_items(data["exe"]),
        argv=None if argv is None else _read_test(argv),
        cidr=_items(data["cidr"]),
        port=None if port is None else tuple((first, last) for first, last in port),
        protocol=_items(data["protocol"]),
        signal=_items(data["signal"]),
        kind=_items(data["kind"]),
        family=_items(data["family"]),
    )


def _read_test(data: Json) -> TextTest:
    return TextTest(tuple(data["globs"]), data["regex"])


def _read_selector(data: Json) -> Selector:
    return Selector(
        exe=data["exe"],
        argv=_items(data["argv"]),
        uid=_items(data["uid"]),
        unit=data["unit"],
        cgroup=data["cgroup"],
        env=data["env"],
        ancestor=data["ancestor"],
    )


def _items(data: Sequence[Item] | None) -> tuple[Item, ...] | None:
    return None if data is None else tuple(data)


def _places(sources: dict[str, Source]) -> dict[str, tuple[str, int]]:
    return {rule: (str(source.file), source.line) for rule, source in sources.items()}


def _read_places(data: dict[str, tuple[str, int]]) -> dict[str, Source]:
    return {rule: Source(Path(file), line) for rule, (file, line) in data.items()}
