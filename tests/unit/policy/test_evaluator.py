"""Verdicts: severity order, what is in a decision, and failures that close the gate."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.policy.evaluator import Decision, Evaluator
from agentd.policy.rules import ACTION_RANK, Action
from tests.unit.policy.policies import Session, policy_of

CALL = {"method": "tools/call", "tool": "write_file", "server": "fs", "arguments": {"path": "/a"}}
ACTIONS = st.sampled_from(get_args(Action))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def rule(action: str, **more: Any) -> dict[str, Any]:
    return {"on": "mcp.tool_call", "action": action, **more}


def test_no_rule_no_decision() -> None:
    evaluator = Evaluator(policy_of(rule("deny", match={"tool": "other"})))
    assert evaluator.evaluate("mcp.tool_call", "w", CALL) is None
    assert evaluator.evaluate("file.open", "w", {"path": "/a"}) is None


def test_a_decision_has_everything_of_the_matching_rules() -> None:
    evaluator = Evaluator(
        policy_of(
            rule("audit", severity="critical", mark=["a:1"], tags=["x:1"]),
            rule("kill", severity="low", reason="low", tags=["x:2"]),
            rule("kill", severity="high", reason="high", mark=["b:1", "a:1"], tags=["x:1", "x:3"]),
            rule("kill", severity="high", kill="session", reason="later"),
            rule("deny", match={"tool": "other"}),
        )
    )
    decision = evaluator.evaluate("mcp.tool_call", "w", CALL)
    assert decision is not None
    assert (decision.verdict, decision.rule, decision.reason) == ("kill", "r2", "high")
    assert decision.rules == ["r2", "r0", "r1", "r3"]
    assert decision.severity == "critical"
    assert decision.kill_scope == "session"
    assert decision.marks == ["a:1", "b:1"]
    assert decision.tags == ["x:1", "x:3", "x:2"]
    assert decision.timeout_s is None


def test_a_decision_is_made_once_for_each_set_of_rules() -> None:
    evaluator = Evaluator(
        policy_of(rule("allow"), rule("deny", match={"arguments": {"path": "/denied"}}))
    )

    def decision_on(path: str) -> Decision | None:
        return evaluator.evaluate("mcp.tool_call", "w", {**CALL, "arguments": {"path": path}})

    allowed, denied = decision_on("/a"), decision_on("/denied")
    assert allowed is not None
    assert denied is not None
    assert (allowed.verdict, denied.verdict) == ("allow", "deny")
    assert decision_on("/b") is allowed
    assert decision_on("/denied") is denied


def test_a_hold_says_how_long() -> None:
    evaluator = Evaluator(
        policy_of(rule("hold", approve={"timeout": "500ms", "on_timeout": "kill"}), rule("allow"))
    )
    decision = evaluator.evaluate("mcp.tool_call", "w", CALL)
    assert decision is not None
    assert (decision.verdict, decision.timeout_s, decision.on_timeout) == ("hold", 0.5, "kill")
    assert decision.reason == "not allowed by rule r0"


@given(st.lists(ACTIONS, min_size=1, max_size=6))
def test_the_most_severe_action_decides(actions: list[Action]) -> None:
    decision = Evaluator(policy_of(*map(rule, actions))).evaluate("mcp.tool_call", "w", CALL)
    assert decision is not None
    assert decision.verdict == max(actions, key=ACTION_RANK.__getitem__)


@given(st.lists(ACTIONS, max_size=5), st.integers(0, 5))
def test_adding_an_allow_never_weakens(actions: list[Action], position: int) -> None:
    without = Evaluator(policy_of(*map(rule, actions))).evaluate("mcp.tool_call", "w", CALL)
    more: list[Action] = [*actions[:position], "allow", *actions[position:]]
    added = Evaluator(policy_of(*map(rule, more))).evaluate("mcp.tool_call", "w", CALL)
    assert added is not None
    if without is not None:
        assert added.verdict == without.verdict


def test_calls_are_judged_by_call_and_request_rules_together() -> None:
    evaluator = Evaluator(
        policy_of(
            {"on": "mcp.request", "action": "audit", "match": {"method": "tools/*"}},
            rule("deny"),
        )
    )
    for on in ("mcp.tool_call", "mcp.request"):
        decision = evaluator.evaluate(on, "w", CALL)
        assert decision is not None
        assert decision.rules == ["r1", "r0"]
    other = evaluator.evaluate("mcp.request", "w", {"method": "tools/list"})
    assert other is not None
    assert other.rules == ["r0"]


def test_params_cannot_be_hidden_behind_empty_arguments() -> None:
    secret = {"arguments": {"**": "/etc/shadow"}}
    evaluator = Evaluator(
        policy_of(
            {"on": "mcp.request", "action": "deny", "match": secret},
            {"on": "mcp.response", "action": "deny", "match": secret},
        )
    )
    read = {"method": "resources/read", "params": {"uri": "file:///etc/shadow"}, "arguments": {}}
    assert evaluator.evaluate("mcp.request", "w", read)
    assert evaluator.evaluate("mcp.response", "w", {"result": ["/etc/shadow"]})
    answer = {"method": "tools/call", "tool": "t", "arguments": None}
    assert evaluator.evaluate("mcp.response", "w", {**answer, "result": ["/etc/shadow"]})
    assert not evaluator.evaluate("mcp.response", "w", {**answer, "result": ["/etc/motd"]})
    named = {"method": "tools/call", "tool": "t", "params": {"_meta": "/etc/shadow"}}
    assert not evaluator.evaluate("mcp.request", "w", {**named, "arguments": {}})


def test_workloads_servers_and_wants() -> None:
    evaluator = Evaluator(
        policy_of(rule("deny", workloads=["ci-*", "!ci-x"], match={"server": "fs"}))
    )
    assert evaluator.wants("mcp.tool_call", "ci-1")
    assert not evaluator.wants("mcp.tool_call", "ci-x")
    assert not evaluator.wants("mcp.response", "ci-1")
    assert evaluator.evaluate("mcp.tool_call", "ci-1", CALL)
    assert evaluator.evaluate("mcp.tool_call", "ci-1", {**CALL, "server": {"name": "fs"}})
    assert not evaluator.evaluate("mcp.tool_call", "ci-1", {**CALL, "server": {"name": "git"}})
    assert not evaluator.evaluate("mcp.tool_call", "dev", CALL)


@pytest.mark.parametrize(
    ("action", "matches"),
    [("kill", True), ("deny", True), ("hold", True), ("audit", False), ("allow", False)],
)
def test_a_condition_that_fails_closes_the_gate(action: str, matches: bool) -> None:
    evaluator = Evaluator(policy_of(rule(action, when="event.missing == 1"), rule("audit")))
    decision = evaluator.evaluate("mcp.tool_call", "w", CALL)
    assert decision is not None
    assert ("r0" in decision.rules) is matches
    assert decision.errors == ["r0: KeyError: 'missing'"]
    assert evaluator.failures["r0"] == "r0: KeyError: 'missing'"


def test_conditions_see_the_session() -> None:
    evaluator = Evaluator(
        policy_of(
            rule("deny", when='session.has("read:secret") && task != null && task.objective != ""')
        )
    )
    task = {"objective": "x"}
    assert evaluator.evaluate("mcp.tool_call", "w", CALL, Session(labels={"read:secret"})) is None
    assert evaluator.evaluate("mcp.tool_call", "w", CALL, Session(task=task)) is None
    assert evaluator.evaluate("mcp.tool_call", "w", CALL) is None
    assert evaluator.evaluate(
        "mcp.tool_call", "w", CALL, Session(labels={"read:secret"}, task=task)
    )


def file_rule(**match: Any) -> Evaluator:
    return Evaluator(policy_of({"on": "file.open", "action": "deny", "match": match}))


@pytest.mark.parametrize(
    ("subject", "matches"),
    [
        ({"path": "/root/.x/a", "access": "read"}, True),
        ({"path": "/proc/7/root/root/.x/a", "access": "read|write"}, True),
        ({"path": "/root/.x/a", "access": "write"}, False),
        ({"path": "/root/.x/a.pub", "access": "read"}, False),
        ({"path": "/root/.y/a", "access": "read"}, False),
        ({"path": None, "access": "read"}, False),
        ({}, False),
    ],
)
def test_files(subject: dict[str, Any], matches: bool) -> None:
    evaluator = file_rule(path=["~/.x/*"], access="read", **{"except": "**/*.pub"})
    assert bool(evaluator.evaluate("file.open", "w", subject)) is matches


def test_writes_outside_a_directory() -> None:
    evaluator = file_rule(path="!/work/**", access="write")
    assert evaluator.evaluate("file.open", "w", {"path": "/etc/x", "access": "write"})
    assert evaluator.evaluate("file.open", "w", {"path": "/work/../etc/x", "access": "write"})
    assert not evaluator.evaluate("file.open", "w", {"path": "/work/x", "access": "write"})


def test_a_rename_is_judged_by_both_names() -> None:
    evaluator = Evaluator(
        policy_of({"on": "file.rename", "action": "deny", "match": {"path": "~/.bashrc"}})
    )
    assert evaluator.evaluate("file.rename", "w", {"path": "/tmp/a", "to": "/root/.bashrc"})
    assert evaluator.evaluate("file.rename", "w", {"path": "/root/.bashrc", "to": "/tmp/a"})
    assert not evaluator.evaluate("file.rename", "w", {"path": "/tmp/a", "to": "/tmp/b"})


@pytest.mark.parametrize(
    ("match", "subject", "matches"),
    [
        ({"exe": "**/gcore"}, {"exe": "/usr/bin/gcore", "argv": []}, True),
        ({"exe": "**/x.sh"}, {"exe": "/usr/bin/dash", "filename": "/tmp/x.sh"}, True),
        ({"exe": ["**/x.sh", "!/bin/dash"]}, {"exe": "/bin/dash", "filename": "/x.sh"}, False),
        ({"exe": "!/usr/bin/*"}, {"exe": "/usr/bin/ls", "filename": "ls"}, False),
        ({"exe": "!/usr/bin/*"}, {"exe": "/tmp/ls", "filename": "/usr/bin/ls"}, True),
        ({"argv": ["a", "b*"]}, {"exe": "/x", "argv": ["x", "bb", "a"]}, True),
        ({"argv": ["a", "b*"]}, {"exe": "/x", "argv": ["x", "a"]}, False),
        ({"argv": ["a", "!b*"]}, {"exe": "/x", "argv": ["x", "a", "b"]}, False),
        ({"argv": {"regex": "a +b$"}}, {"exe": "/x", "argv": ["a", " b"]}, True),
        ({"argv": ["*"]}, {"exe": "/x"}, False),
    ],
)  # fmt: skip
def test_execs(match: dict[str, Any], subject: dict[str, Any], matches: bool) -> None:
    evaluator = Evaluator(policy_of({"on": "process.exec", "action": "deny", "match": match}))
    assert bool(evaluator.evaluate("process.exec", "w", subject)) is matches


def to(address: str, port: int = 443, protocol: str = "tcp") -> dict[str, Any]:
    family = "ipv6" if ":" in address else "ipv4"
    return {"family": family, "address": address, "port": port, "protocol": protocol}


@pytest.mark.parametrize(
    ("match", "subject", "matches"),
    [
        ({"cidr": "10.0.0.0/8"}, to("10.1.1.1"), True),
        ({"cidr": "10.0.0.0/8"}, to("::ffff:10.1.1.1"), True),
        ({"cidr": "10.0.0.0/8"}, to("11.1.1.1"), False),
        ({"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}, to("10.1.1.1"), False),
        ({"except": "10.0.0.0/8"}, to("fd00::1"), True),
        ({"cidr": "fd00::/8"}, to("fd00::1%eth0"), True),
        ({"cidr": "fd00::/8"}, {"family": "unix", "path": "/x"}, False),
        ({"cidr": "fd00::/8"}, to("nonsense"), False),
        ({"port": "80-90"}, to("1.1.1.1", 85), True),
        ({"port": [80, 443]}, to("1.1.1.1", 81), False),
        ({"protocol": "udp"}, to("1.1.1.1"), False),
        ({"path": "*/docker.sock"}, {"family": "unix", "path": "/run/docker.sock"}, True),
        ({"path": "*/docker.sock"}, to("1.1.1.1"), False),
        ({"protocol": ["unix"]}, {"family": "unix", "path": "@x"}, True),
        ({}, {"family": "unix", "path": "@x"}, True),
    ],
)
def test_networks(match: dict[str, Any], subject: dict[str, Any], matches: bool) -> None:
    evaluator = Evaluator(policy_of({"on": "network.connect", "action": "deny", "match": match}))
    assert bool(evaluator.evaluate("network.connect", "w", subject)) is matches


EVERYTHING = Evaluator(
    policy_of(
        rule("deny", match={"tool": "a*", "arguments": {"**": ["~/.x", "!b*"], "a.*": "x"}}),
        rule("deny", match={"arguments": {"**": {"regex": "x+$"}}}, when="event.arguments.a == 1"),
        {"on": "file.open", "action": "deny", "match": {"path": "**/*.pem"}},
        {"on": "process.exec", "action": "deny", "match": {"exe": "**/x", "argv": "x"}},
        {"on": "network.connect", "action": "deny", "match": {"cidr": "10.0.0.0/8", "port": 1}},
    )
)


@given(
    st.sampled_from(["mcp.tool_call", "file.open", "process.exec", "network.connect"]),
    st.dictionaries(
        st.sampled_from(
            "method tool server arguments params path access to exe filename address port".split()  # noqa: SIM905
        ),
        JSON,
    ),
)
def test_no_subject_raises(on: str, subject: dict[str, Any]) -> None:
    EVERYTHING.evaluate(on, "w", subject)
