"""What an enforce tier decides about sockets: entries, their order, and the paths of listeners."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.policy.compiler import compile_plan
from agentd.policy.evaluator import Evaluator
from agentd.policy.globs import NameGlobs, path_index
from agentd.policy.network_plan import compile_network
from agentd.policy.path_plan import compile_paths
from agentd.policy.socket_paths import names_abstract, path_globs
from tests.unit.policy.policies import policy_of

COMPONENTS = st.sampled_from(["a", "b", "ab", "run", "*", "a*", "*b", "a*b"])
GLOBS = st.builds(
    lambda start, parts: start + "/".join(parts),
    st.sampled_from(["/", "*/", "*"]),
    st.lists(COMPONENTS, min_size=1, max_size=3),
)
PATHS = [
    "/" + "/".join(names)
    for count in range(1, 5)
    for names in itertools.product(("a", "b", "ab", "axb", "run"), repeat=count)
]


def rule(on: str, action: str = "deny", when: str | None = None, **match: Any) -> dict[str, Any]:
    return {"on": on, "action": action, "match": match} | ({"when": when} if when else {})


def entries(*rules: dict[str, Any]) -> list[tuple[str, str, str]]:
    policy = policy_of(*rules)
    by_path = {each.id for each in compile_paths(policy, connects=True).rules}
    plan = compile_network(policy, by_path)
    return [(entry.rule_id, entry.use, entry.treatment) for entry in plan.rules]


@settings(max_examples=200)
@given(GLOBS)
def test_path_globs_mean_what_the_name_glob_means(glob: str) -> None:
    spelled = path_globs([glob])
    if spelled is None:
        return
    index, names = path_index(spelled), NameGlobs([glob])
    assert index is not None
    for path in PATHS:
        assert bool(index.owners(path)) == names.match(path), (glob, spelled, path)


def test_path_globs() -> None:
    assert path_globs(["*/docker.sock", "!/x"]) == ["**/docker.sock", "!/x"]
    assert path_globs(["/run/{a,b}"]) == ["/run/a", "/run/b"]
    assert path_globs(["/tmp/tmux-*"]) == ["/tmp/tmux-*", "/tmp/tmux-*/**"]
    assert path_globs(["@abstract", "relative"]) == []
    assert path_globs(["/run/a?"]) is None
    assert path_globs(["/run/a*b*"]) is None


def test_which_globs_name_abstract_sockets() -> None:
    assert names_abstract(["@x"])
    assert names_abstract(["*"])
    assert names_abstract(["!/run/*"])
    assert not names_abstract(["*/docker.sock", "/run/x"])


def test_the_most_severe_comes_first() -> None:
    found = entries(
        rule("network.connect", "hold", port=1),
        rule("network.connect", "deny", port=1),
        rule("network.connect", "kill", port=1),
        rule("network.connect", "deny", when="task == null", port=1),
    )
    assert found == [
        ("r2", "connect", "kill"),
        ("r1", "connect", "deny"),
        ("r0", "connect", "ask"),
        ("r3", "connect", "ask"),
    ]


def test_what_each_rule_is_about() -> None:
    every = [("r0", "connect", "deny"), ("r0", "unix", "deny"), ("r0", "abstract", "deny")]
    assert entries(rule("network.connect")) == every
    assert entries(rule("network.connect", protocol="tcp")) == every[:1]
    assert entries(rule("network.connect", protocol="unix")) == every[1:]
    assert entries(rule("network.bind", port=25)) == [("r0", "bind", "deny")]
    assert entries(rule("network.bind", path="/run/x")) == [("r0", "unix-bind", "ask")]
    assert entries(rule("network.connect", path="*/docker.sock")) == []
    assert entries(rule("network.connect", path="@x")) == [("r0", "abstract", "ask")]
    assert entries(rule("network.connect", path="/run/a?")) == [("r0", "unix", "ask")]
    assert entries(rule("network.connect", "audit", port=1)) == []


def test_kinds_of_sockets() -> None:
    policy = policy_of(rule("network.socket", family=["raw", "vsock"]))
    plan = compile_network(policy, ())
    assert [(entry.use, entry.protocol) for entry in plan.rules] == [
        ("socket", 256),
        ("socket", 40),
    ]
    evaluator = Evaluator(policy)
    assert evaluator.evaluate("network.socket", "w", {"family": "vsock"})
    assert not evaluator.evaluate("network.socket", "w", {"family": "netlink"})
    assert not evaluator.evaluate("network.connect", "w", {"family": "vsock"})


def test_listeners_are_path_rules() -> None:
    policy = policy_of(
        rule("network.connect", path="*/docker.sock"),
        rule("network.connect", "hold", path="/run/x"),
        rule("network.connect", path="/run/y", cidr="10.0.0.0/8"),
        rule("network.connect", path="/run/z", protocol="tcp"),
    )
    assert compile_paths(policy).rules == []
    plan = compile_paths(policy, connects=True)
    assert [(each.id, each.treatment, each.acts) for each in plan.rules] == [
        ("r1", "ask", ("connect",)),
        ("r0", "deny", ("connect",)),
    ]
    assert plan.automaton.match("/var/run/docker.sock") == {1}
    assert plan.slots("w")["connect"] == 0b11


def test_what_is_enforced_needs_nothing_on_the_observe_tier() -> None:
    policy = policy_of(
        rule("network.connect", "hold"), rule("network.bind"), rule("network.socket", family="raw")
    )
    enforced = compile_network(policy, ()).enforced
    assert enforced == {"r0", "r1", "r2"}
    plan = compile_plan(policy, enforced)
    assert (plan.net, plan.notes) == ([], [])


@pytest.mark.parametrize("name", ["@docker.sock", "@a/docker.sock"])
def test_a_glob_with_a_path_means_no_abstract_name(name: str) -> None:
    evaluator = Evaluator(policy_of(rule("network.connect", path="*/docker.sock")))
    assert not evaluator.evaluate("network.connect", "w", {"family": "unix", "path": name})
