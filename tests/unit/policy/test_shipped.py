"""The shipped rules: they load, carry tests of both kinds, pass them, and stay cheap."""

import re
from pathlib import Path

import pytest

from agentd.policy import rule_tests
from agentd.policy.compiler import HOLD, compile_plan
from agentd.policy.evaluator import Evaluator
from agentd.policy.globs import COMMON_DIRS, COMMON_SUFFIXES
from agentd.policy.loader import load
from agentd.policy.rules import Policy

RULES = Path(__file__).parents[3] / "rules"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load([RULES])


def test_every_rule_passes_its_own_tests(policy: Policy) -> None:
    report = rule_tests.run(policy)
    failed = [f"{r.file}:{r.line}: {r.rule}: {r.explanation}" for r in report.results if not r.ok]
    assert failed == []
    assert report.untested == []
    assert report.ok


def test_no_example_makes_a_condition_fail(policy: Policy) -> None:
    evaluator = Evaluator(policy)
    for rule in policy.rules:
        for example in rule.tests.match:
            decision = rule_tests.judge(evaluator, rule, example)
            assert decision is not None
            assert not any(error.startswith(f"{rule.id}:") for error in decision.errors)


def test_every_rule_says_why_and_names_a_framework(policy: Policy) -> None:
    for rule in policy.rules:
        assert rule.reason.endswith("."), rule.id
        assert any(tag.startswith("owasp-asi-2026:ASI") for tag in rule.tags), rule.id
        for tag in rule.tags:
            assert re.fullmatch(
                r"owasp-asi-2026:ASI\d\d|owasp-mcp-2026:MCP\d\d|atlas:AML\.[TM]\d{4}(\.\d{3})?"
                r"|attack:T\d{4}(\.\d{3})?|safe-mcp:SAFE-T\d{4}",
                tag,
            ), (rule.id, tag)


def test_no_shipped_rule_stops_opens_by_a_part_that_everything_has(policy: Policy) -> None:
    for name in compile_plan(policy).names:
        text = name.text.decode()
        if name.flags & HOLD:
            assert not (name.kind == "dir" and text in COMMON_DIRS), text
            assert not (name.kind == "suffix" and text in COMMON_SUFFIXES), text


def test_shipped_rules_stop_execs_by_name_only(policy: Policy) -> None:
    plan = compile_plan(policy)
    assert not plan.exec_all
    assert {b"bash", b"node", b"python3", b"gcore"} <= plan.exec_names
    assert not plan.exec_names & {b"ls", b"cat", b"git", b"grep", b"make", b"cc"}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/ssl/certs/ca-certificates.crt",
        "/usr/lib/python3/dist-packages/certifi/cacert.pem",
        "/etc/ld.so.cache",
        "/etc/passwd",
        "/srv/app/node_modules/a/package.json",
        "/usr/lib/git-core/git",
        "/proc/meminfo",
        "/home/dev/.gitconfig",
    ],
)
@pytest.mark.parametrize("access", ["read", "write"])
def test_ordinary_work_is_left_alone(policy: Policy, path: str, access: str) -> None:
    subject = {"path": path, "access": access, "process": {"exe": "/usr/bin/node", "pid": 5}}
    assert Evaluator(policy).evaluate("file.open", "claude-code", subject) is None


@pytest.mark.parametrize(
    "path", ["/home/dev/.npmrc", "/srv/app/.git/config", "/srv/app/.env", "/srv/app/server.pem"]
)
def test_what_tools_read_all_the_time_is_never_stopped(policy: Policy, path: str) -> None:
    subject = {"path": path, "access": "read", "process": {"exe": "/usr/bin/node", "pid": 5}}
    decision = Evaluator(policy).evaluate("file.open", "claude-code", subject)
    assert decision is not None
    assert decision.verdict == "audit"


def test_the_demo_is_enforced_and_other_agents_are_observed(policy: Policy) -> None:
    postures = {name: workload.posture for name, workload in policy.workloads.items()}
    assert postures.pop("demo") == "enforce"
    assert set(postures.values()) == {"observe"}
    assert policy.workloads["demo"].select == ()


def test_a_failing_example_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "rules:\n"
        "  - id: x\n    on: mcp.tool_call\n    match: {tool: a}\n    action: deny\n"
        "    tests:\n      match:\n        - a\n        - b\n      pass:\n        - a\n"
    )
    report = rule_tests.run(load([tmp_path]))
    assert not report.ok
    outcomes = [(result.line, result.ok) for result in report.results]
    assert outcomes == [(8, True), (9, False), (11, False)]
    assert report.results[1].explanation == "the rule should match; no rule matched"
    assert report.results[2].explanation == "the rule should not match; matched x (deny)"
