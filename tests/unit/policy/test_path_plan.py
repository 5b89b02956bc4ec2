"""Rules on paths, compiled for the kernel: what is refused there, and what it asks about."""

from typing import Any

import pytest

from agentd.policy import path_plan
from agentd.policy.path_plan import PathPlan, by_act, compile_paths
from agentd.policy.rules import Approve, Match, Policy, Rule, TextTest


def rule(name: str, action: Any = "deny", on: Any = "file.open", **fields: Any) -> Rule:
    fields.setdefault("match", Match(path=(f"/{name}/**",)))
    if action == "hold":
        fields.setdefault("approve", Approve())
    return Rule(id=name, on=on, action=action, **fields)


def plan(*rules: Rule) -> PathPlan:
    return compile_paths(Policy(rules=list(rules)))


def treatments(*rules: Rule) -> dict[str, str]:
    return {each.id: each.treatment for each in plan(*rules).rules}


def test_what_the_kernel_can_do_alone_and_what_it_asks() -> None:
    assert treatments(
        rule("deny"),
        rule("kill", "kill"),
        rule("hold", "hold"),
        rule("when", when="session.has('x')"),
        rule("inexact", match=Match(path=("/srv/*a*b*",))),
        rule("audit", "audit"),
        rule("allow", "allow"),
    ) == {"deny": "deny", "kill": "kill", "hold": "ask", "when": "ask", "inexact": "ask"}


def test_the_most_severe_has_the_highest_slot() -> None:
    found = plan(
        rule("kill", "kill"),
        rule("hold", "hold"),
        rule("low", severity="low"),
        rule("high", severity="high"),
        rule("asked", "kill", when="true"),
    )
    assert [each.id for each in found.rules] == ["hold", "low", "high", "asked", "kill"]


@pytest.mark.parametrize(
    ("on", "match", "acts"),
    [
        ("file.open", Match(path=("/a",)), ("read", "write")),
        ("file.open", Match(path=("/a",), access=("write",)), ("write",)),
        ("file.delete", Match(path=("/a",)), ("delete",)),
        ("file.rename", Match(path=("/a",)), ("rename",)),
        ("process.exec", Match(exe=("/a",)), ("exec",)),
        ("process.exec", Match(exe=("/a",), argv=TextTest(("x",))), ()),
        ("network.connect", Match(cidr=("10.0.0.0/8",)), ()),
        ("mcp.tool_call", Match(tool=("x",)), ()),
    ],
)
def test_acts(on: Any, match: Match, acts: tuple[str, ...]) -> None:
    found = plan(rule("one", on=on, match=match)).rules
    assert [each.acts for each in found] == ([acts] if acts else [])


def test_slots_of_a_workload() -> None:
    found = plan(
        rule("all"), rule("ci", workloads=("ci-*",), match=Match(path=("/c",), access=("read",)))
    )
    slot = {each.id: 1 << number for number, each in enumerate(found.rules)}
    ours = found.slots("ci-bot")
    assert (ours["read"], ours["write"]) == (slot["all"] | slot["ci"], slot["all"])
    assert found.slots("other")["read"] == slot["all"]
    assert by_act(ours, 20) == [ours["read"], ours["write"]] + 18 * [0]


def test_marks_move_with_the_meaning_of_a_rule() -> None:
    before = plan(rule("a"), rule("b"))
    after = plan(
        rule("new", "kill"), rule("b", severity="critical"), rule("a", match=Match(path=("/x",)))
    )
    slots = {each.id: number for number, each in enumerate(after.rules)}
    then = {each.id: number for number, each in enumerate(before.rules)}
    assert after.moves(before.meanings) == {then["b"]: slots["b"]}


def test_a_rule_without_a_path_is_about_every_file() -> None:
    found = plan(rule("all", match=Match(except_=("/tmp/**",))))
    assert found.automaton.match("/etc/passwd") == {0}
    assert found.automaton.match("/tmp/x") == set()


def test_exceptions_and_negated_globs() -> None:
    found = plan(
        rule("one", match=Match(path=("**/.env.*", "!**/.env.example"), except_=("/t/**",)))
    )
    assert found.automaton.match("/a/.env.local") == {0}
    assert found.automaton.match("/a/.env.example") == set()
    assert found.automaton.match("/t/.env.local") == set()


def test_what_there_is_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_plan, "MAX_RULES", 1 + path_plan.OWN_RULES)
    found = plan(rule("deny"), rule("kill", "kill"))
    assert [each.id for each in found.rules] == ["kill"]
    assert set(found.left_out) == {"deny"}
    assert found.enforced == {"kill"}
