"""A policy is the same after it has been JSON, whatever is in it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentd.policy.exchange import policy_to_json, read_policy
from agentd.policy.loader import load
from agentd.policy.model import RuleModel
from agentd.policy.rules import (
    Approve,
    Defaults,
    Examples,
    Match,
    Policy,
    Rule,
    Source,
    TextTest,
)
from agentd.workloads.workload import Selector, Workload

RULES = Path(__file__).parents[3] / "rules"


def through_json(policy: Policy) -> Policy:
    return read_policy(json.loads(json.dumps(policy_to_json(policy))))


def without_examples(policy: Policy) -> Policy:
    return replace(
        policy,
        rules=[replace(rule, tests=Examples()) for rule in policy.rules],
        sources={rule: replace(source, examples={}) for rule, source in policy.sources.items()},
    )


def test_the_shipped_rules(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("disable: [exec-shared-memory]\n")
    policy = load([RULES, tmp_path])
    assert len(policy.disabled) == 1
    assert through_json(policy) == without_examples(policy)


TEXTS = st.lists(st.text(max_size=8), max_size=3).map(tuple)
TESTS = st.builds(TextTest, globs=TEXTS, regex=st.none() | st.text(max_size=8))
MAYBE_TEXTS = st.none() | TEXTS
PORTS = st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), max_size=3).map(tuple)
MATCHES = st.builds(
    Match,
    tool=MAYBE_TEXTS,
    server=MAYBE_TEXTS,
    method=MAYBE_TEXTS,
    arguments=st.none() | st.dictionaries(st.text(max_size=8), TESTS, max_size=3),
    path=MAYBE_TEXTS,
    except_=MAYBE_TEXTS,
    access=st.sampled_from([None, ("read",), ("read", "write")]),
    exe=MAYBE_TEXTS,
    argv=st.none() | TESTS,
    cidr=MAYBE_TEXTS,
    port=st.none() | PORTS,
    protocol=st.sampled_from([None, ("tcp", "udp"), ("unix",)]),
)
PLAIN_RULES = st.builds(
    Rule,
    id=st.text(max_size=8),
    on=st.sampled_from(["mcp.request", "file.open", "network.connect"]),
    action=st.sampled_from(["allow", "hold", "kill"]),
    workloads=TEXTS,
    match=MATCHES,
    when=st.none() | st.text(max_size=8),
    kill=st.sampled_from([None, "process", "session"]),
    approve=st.none() | st.builds(Approve, timeout=st.floats(0, 1e5)),
    mark=TEXTS,
    severity=st.sampled_from(["low", "high"]),
    reason=st.text(max_size=8),
    tags=TEXTS,
    tests=st.just(Examples()),
)
SELECTORS = st.builds(
    Selector,
    exe=st.none() | st.text(max_size=8),
    argv=MAYBE_TEXTS,
    uid=st.none() | st.lists(st.integers(0, 9) | st.text(max_size=8), max_size=3).map(tuple),
    env=st.none() | st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=2),
)
WORKLOADS = st.builds(
    Workload,
    name=st.text(max_size=8),
    posture=st.sampled_from(["observe", "enforce"]),
    select=st.lists(SELECTORS, max_size=2).map(tuple),
)
SOURCES = st.builds(
    Source,
    file=st.sampled_from([Path("/etc/agentd/a.yaml"), Path("/x/\udcff.yaml")]),
    line=st.integers(0, 9),
    examples=st.just({}),
)


@given(
    st.lists(PLAIN_RULES, max_size=3),
    st.lists(WORKLOADS, max_size=3),
    st.dictionaries(st.text(max_size=8), SOURCES, max_size=2),
)
def test_any_policy(
    rules: list[Rule], workloads: list[Workload], sources: dict[str, Source]
) -> None:
    policy = Policy({each.name: each for each in workloads}, rules, sources, sources)
    assert through_json(policy) == policy


GLOBS = st.sampled_from(["*", "a*", "!b", "x"])
WRITTEN_RULES = st.fixed_dictionaries(
    {
        "id": st.just("a"),
        "on": st.just("mcp.tool_call"),
        "action": st.sampled_from(["allow", "audit", "deny", "hold", "kill"]),
    },
    optional={
        "workloads": GLOBS | st.lists(GLOBS, min_size=1, max_size=2),
        "match": st.fixed_dictionaries(
            {},
            optional={
                "tool": GLOBS | st.lists(GLOBS, min_size=1, max_size=2),
                "arguments": st.dictionaries(
                    st.sampled_from(["a", "a.b", "**"]),
                    GLOBS | st.integers() | st.none() | st.just({"regex": "a+"}),
                    max_size=2,
                ),
            },
        ),
        "when": st.just("task != null"),
        "mark": st.just("a") | st.just(["a", "b"]),
        "tags": st.just(["a:b"]),
        "tests": st.just({"match": [{"tool": "a"}], "pass": ["b"]}),
    },
)


@given(WRITTEN_RULES)
def test_any_rule_that_can_be_written(written: dict[str, Any]) -> None:
    """The model dumps the form that is read: everything that is written arrives."""
    rule = RuleModel.model_validate(written).to_rule(Defaults())
    policy = Policy(rules=[rule])
    assert through_json(policy) == without_examples(policy)
    assert (rule.action, rule.when) == (written["action"], written.get("when"))
    assert rule.mark == tuple(written.get("mark", ()))
    assert (rule.approve is None) == (rule.action != "hold")
    assert set(rule.match.arguments or ()) == set(written.get("match", {}).get("arguments", ()))
    if "tests" in written:
        assert rule.tests == Examples(({"tool": "a"},), ("b",))
