"""Rules on the side doors: what can be written, what they match, what the kernel is told."""

from pathlib import Path
from typing import Any

import pytest

from agentd.policy.compiler import compile_plan
from agentd.policy.evaluator import Evaluator
from agentd.policy.model import RuleModel, problems
from agentd.policy.own import SELF, own_globs, way_globs
from agentd.policy.path_plan import ACT_ORDER, compile_paths
from agentd.policy.side import HOOKS, SIDE_KINDS, side_acts, signal_number
from tests.unit.policy.policies import policy_of

OWN = [Path("/etc/agentd"), Path("/var/lib/agentd"), Path("/var/lib/agentd/journal.db")]


def matches(rule: dict[str, Any], subject: dict[str, Any]) -> bool:
    policy = policy_of({"action": "deny", **rule})
    return Evaluator(policy).evaluate(rule["on"], "w", subject) is not None


@pytest.mark.parametrize(
    ("rule", "subject", "expected"),
    [
        ({"on": "process.trace"}, {"exe": "/a", "access": "read"}, True),
        (
            {"on": "process.trace", "match": {"access": "attach"}},
            {"exe": "/a", "access": "read"},
            False,
        ),
        (
            {"on": "process.trace", "match": {"exe": "**/sshd"}},
            {"exe": "/usr/bin/sshd", "access": "read"},
            True,
        ),
        (
            {"on": "process.signal", "match": {"signal": ["KILL", 15]}},
            {"exe": "/a", "signal": "SIGTERM"},
            True,
        ),
        (
            {"on": "process.signal", "match": {"signal": "KILL"}},
            {"exe": "/a", "signal": "SIGHUP"},
            False,
        ),
        ({"on": "process.namespace", "match": {"kind": "join"}}, {"kind": "join"}, True),
        ({"on": "process.namespace", "match": {"kind": "join"}}, {"kind": "user"}, False),
        (
            {"on": "system.mount", "match": {"kind": "bind", "path": "/etc/**"}},
            {"kind": "mount|bind|move", "path": "/etc/pam.d"},
            True,
        ),
        (
            {"on": "system.mount", "match": {"path": "/etc/**", "except": "/etc/x"}},
            {"kind": "bind", "path": "/etc/x"},
            False,
        ),
        ({"on": "system.bpf"}, {"command": "0"}, True),
    ],
)
def test_matching(rule: dict[str, Any], subject: dict[str, Any], expected: bool) -> None:
    assert matches(rule, subject) is expected


def test_two_signals_to_one_program_are_told_apart() -> None:
    """The rules by name are kept in a cache, which must not know of the signal."""
    policy = policy_of({"on": "process.signal", "action": "deny", "match": {"signal": "KILL"}})
    evaluator = Evaluator(policy)
    for signal, expected in (("SIGKILL", True), ("SIGHUP", False), ("SIGKILL", True)):
        decision = evaluator.evaluate("process.signal", "w", {"exe": "/a", "signal": signal})
        assert (decision is not None) is expected


@pytest.mark.parametrize(
    ("rule", "where", "mend"),
    [
        ({"on": "process.trace", "match": {"access": "write"}}, "access", "read, attach"),
        ({"on": "file.open", "match": {"access": "attach", "path": "/a"}}, "access", "read, write"),
        ({"on": "process.namespace", "match": {"kind": "bind"}}, "kind", "user, create, join"),
        ({"on": "system.bpf", "match": {"exe": "/a"}}, "exe", "can match nothing"),
        ({"on": "process.exec", "match": {"signal": "KILL"}}, "signal", "argv, exe"),
        ({"id": SELF, "on": "system.bpf"}, "id", "another id"),
    ],
)
def test_mistakes_are_named(rule: dict[str, Any], where: str, mend: str) -> None:
    model = RuleModel.model_validate({"id": "r", "action": "deny", **rule})
    found = list(problems(model))
    assert any(where in place and mend in text for place, _, text in found), found


@pytest.mark.parametrize("given", ["SIGNOTHING", 0, 65, "-9"])
def test_what_is_no_signal_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="is not a signal"):
        signal_number(given)
    with pytest.raises(ValueError, match="is not a signal"):
        RuleModel.model_validate(
            {"id": "r", "on": "process.signal", "action": "deny", "match": {"signal": given}}
        )


def test_static_rules_are_the_kernels_and_others_ask() -> None:
    policy = policy_of(
        {"on": "system.mount", "action": "deny"},
        {"on": "process.signal", "action": "deny", "when": "event.pid == 1"},
        {"on": "process.namespace", "action": "hold"},
        {"on": "system.bpf", "action": "audit"},
    )
    plan = compile_paths(policy)
    assert {rule.id: rule.treatment for rule in plan.rules} == {
        "r0": "deny",
        "r1": "ask",
        "r2": "ask",
        "r3": "tell",
    }
    assert {rule for rule, _ in plan.notes} == {"r1", "r2"}
    assert {note.rule_id for note in compile_plan(policy).notes} == {"r0", "r1", "r2", "r3"}
    assert compile_plan(policy, {"r0", "r1", "r2", "r3"}).notes == []


def test_rules_on_everything_take_no_part_in_matching_paths() -> None:
    plan = compile_paths(policy_of({"on": "process.trace", "action": "deny"}))
    assert (plan.unnamed, plan.automaton.positions) == (1, 0)


def test_a_rule_without_its_hook_is_left_out_and_says_so() -> None:
    policy = policy_of({"on": "process.namespace", "action": "deny", "match": {"kind": "user"}})
    plan = compile_paths(policy, hooks=frozenset(HOOKS.values()) - {"userns_create"})
    assert plan.rules == []
    assert "userns_create" in plan.left_out["r0"]
    (note,) = compile_plan(policy, (), plan.left_out).notes
    assert "userns_create" in note.text


def test_signals_are_told_apart() -> None:
    policy = policy_of(
        {"on": "process.signal", "action": "deny", "match": {"signal": "KILL"}},
        {"on": "process.signal", "action": "audit"},
    )
    plan = compile_paths(policy)
    slots = {rule.id: 1 << slot for slot, rule in enumerate(plan.rules)}
    assert plan.signals()[9] == slots["r0"] | slots["r1"]
    assert plan.signals()[15] == slots["r1"]


def test_agentd_protects_itself_from_every_workload() -> None:
    policy = policy_of(
        {"on": "file.open", "action": "kill", "match": {"path": "/etc/agentd/x"}},
        {"on": "system.bpf", "action": "allow", "workloads": ["b"]},
    )
    plan = compile_paths(policy, OWN)
    own = {slot for slot, rule in enumerate(plan.rules) if rule.id == SELF}
    assert own == {2, 3, 4}  # above all others
    assert plan.own == 1 << 2
    observed = plan.slots("a", observed=True)
    assert observed["write"] == 1 << 2
    assert observed["read"] == 0
    assert observed["rename"] == 1 << 2 | 1 << 3
    assert observed["bpf"] == 1 << 4
    assert plan.slots("b")["bpf"] & 1 << 4 == 0
    assert 2 in plan.automaton.match("/etc/agentd/rules.d/x.yaml")
    assert 2 in plan.automaton.match("/var/lib/agentd")
    assert plan.automaton.match("/var/lib") == {3}
    assert plan.automaton.match("/var/lib/other") == set()


def test_places_below_others_need_no_globs_of_their_own() -> None:
    assert own_globs(OWN) == (
        "/etc/agentd",
        "/etc/agentd/**",
        "/var/lib/agentd",
        "/var/lib/agentd/**",
    )
    assert way_globs(OWN) == ("/etc", "/var", "/var/lib")


def test_acts_are_in_the_kernels_order() -> None:
    header = Path(__file__).parents[3] / "bpf" / "include" / "decide_wire.h"
    text = header.read_text()
    names = [
        word.strip().split()[0].rstrip(",")
        for word in text.partition("enum act {")[2].partition("ACTS,")[0].splitlines()
        if word.strip()
    ]
    acts = [name.removeprefix("ACT_").lower().replace("_", "-") for name in names]
    assert acts == list(ACT_ORDER)


def test_every_side_rule_is_about_something() -> None:
    for on in SIDE_KINDS:
        (rule,) = policy_of({"on": on, "action": "audit"}).rules
        assert side_acts(rule)
