"""The kernel's filter never misses an open that a rule matches; its network rules are exact."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.policy.compiler import HOLD, WATCH, WRITE_ONLY, KernelPlan, compile_plan
from agentd.policy.evaluator import Evaluator
from agentd.policy.globs import PathGlob
from agentd.policy.network_plan import NetRule
from tests.unit.policy.policies import policy_of
from tests.unit.policy.strategies import ANY_PATH, glob_and_path

NAME_LEN = 64


def kernel_flags(plan: KernelPlan, path: str) -> int:
    """What `bpf/files.bpf.c` finds for a path: base, suffix, prefixes and directories."""
    names: dict[tuple[str, bytes], int] = {(n.kind, n.text): n.flags for n in plan.names}
    *dirs, last = [part.encode() for part in path.split("/")]
    base = last[: NAME_LEN - 1]
    keys: list[tuple[str, bytes]] = [
        ("base", base),
        *(("dir", part[: NAME_LEN - 1]) for part in dirs if part),
    ]
    keys += [("prefix", base[:length]) for length in range(3, 9) if len(base) >= length]
    dot = base.rfind(b".")
    if dot >= 0:
        keys.append(("suffix", base[dot:][:16]))
    flags = 0
    for key in keys:
        flags |= names.get(key, 0)
    return flags


def opens(action: str, path: Any, **match: Any) -> dict[str, Any]:
    return {"on": "file.open", "action": action, "match": {"path": path, **match}}


@pytest.mark.parametrize(
    ("path", "access", "judged"),
    [
        (["/srv/**"], ["write"], False),
        (["/**"], ["write"], True),
        (["/srv/**", "/**"], ["write"], True),
        (None, ["write"], True),
        (["!/srv/**"], ["read", "write"], True),
        (["**/id_rsa"], None, False),
        (["/**"], ["read"], False),
    ],
)
def test_writes_that_no_name_filters_are_all_told(path: Any, access: Any, judged: bool) -> None:
    rule = opens("audit", path, access=access)
    plan = compile_plan(policy_of({**rule, "workloads": ["w"]}))
    assert plan.judges_writes("w") == judged
    assert not plan.judges_writes("other")


@settings(max_examples=300)
@given(glob_and_path())
def test_every_path_that_a_rule_matches_passes_the_filter(pair: tuple[str, str]) -> None:
    glob, path = pair
    if PathGlob(glob).key is None:
        return  # the loader refuses it
    policy = policy_of(opens("deny", glob))
    assert Evaluator(policy).evaluate("file.open", "w", {"path": path, "access": "read"})
    assert kernel_flags(compile_plan(policy), path) & HOLD


@settings(max_examples=100)
@given(st.lists(glob_and_path(), min_size=1, max_size=5), ANY_PATH)
def test_several_rules_keep_each_others_names(pairs: list[tuple[str, str]], other: str) -> None:
    usable = [pair for pair in pairs if PathGlob(pair[0]).key is not None]
    rules = [
        opens("deny" if number % 2 else "audit", glob, access=("write", "read")[number % 3 == 0])
        for number, (glob, _) in enumerate(usable)
    ]
    policy = policy_of(*rules)
    plan, evaluator = compile_plan(policy), Evaluator(policy)
    for path in [*(path for _, path in usable), other]:
        for access in ("read", "write"):
            decision = evaluator.evaluate("file.open", "w", {"path": path, "access": access})
            flags = kernel_flags(plan, path)
            if decision is not None:
                assert flags & (HOLD if decision.verdict == "deny" else WATCH | HOLD)


def keys_of(*rules: dict[str, Any]) -> set[tuple[str, bytes, int]]:
    plan = compile_plan(policy_of(*rules))
    return {(name.kind, name.text, name.flags) for name in plan.names}


def test_the_most_selective_part_is_chosen() -> None:
    globs = {
        "~/.aws/credentials": ("base", b"credentials"),
        "**/*.pem": ("suffix", b".pem"),
        "~/.ssh/id_*": ("dir", b".ssh"),
        "~/.aws/sso/cache/*.json": ("dir", b".aws"),
        "**/serviceAccount*.json": ("prefix", b"serviceA"),
        "**/.env.*": ("prefix", b".env."),
        "/etc/cron*": ("prefix", b"cron"),
        "**/*.averyverylongextension": ("prefix", b""),
        "**/" + "x" * 64: ("prefix", b"x" * 8),
    }
    for glob, (kind, text) in globs.items():
        key = PathGlob(glob).key
        if text:
            assert key == (kind, text)
        else:
            assert key is None


def test_flags() -> None:
    assert keys_of(opens("audit", "**/a")) == {("base", b"a", WATCH)}
    assert keys_of(opens("hold", "**/{a,b}")) == {("base", b"a", HOLD), ("base", b"b", HOLD)}
    write = opens("kill", "**/a", access="write")
    assert keys_of(write) == {("base", b"a", HOLD | WRITE_ONLY)}
    assert keys_of(write, opens("audit", "**/a")) == {("base", b"a", HOLD | WATCH)}
    assert keys_of(opens("audit", "**/a"), write) == {("base", b"a", HOLD | WATCH)}
    assert keys_of({"on": "file.delete", "action": "deny", "match": {"path": "/a"}}) == set()


def execs(**match: Any) -> dict[str, Any]:
    return {"on": "process.exec", "action": "deny", "match": match}


def test_exec_names() -> None:
    plan = compile_plan(policy_of(execs(exe=["**/{a,b}", "!/x"]), execs(exe="/c", argv="x")))
    assert (plan.exec_names, plan.exec_all) == ({b"a", b"b", b"c"}, False)
    for match in ({"exe": "**/a*"}, {"argv": "x"}, {"exe": "!/a"}, {}):
        assert compile_plan(policy_of(execs(**match))).exec_all
    audited = {**execs(argv="x"), "action": "audit"}
    assert not compile_plan(policy_of(audited)).exec_all


def connects(action: str = "deny", **match: Any) -> dict[str, Any]:
    return {"on": "network.connect", "action": action, "match": match}


def test_network_rules_are_spelt_out() -> None:
    plan = compile_plan(
        policy_of(
            connects(
                cidr=["10.0.0.0/8", "fd00::/8"],
                port=[80, "8000-8999"],
                protocol="tcp",
                **{"except": "10.1.0.0/16"},
            )
        )
    )
    mapped = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 0])
    assert plan.net[0].is_except
    assert (plan.net[0].prefixlen, plan.net[0].port_lo, plan.net[0].port_hi) == (112, 0, 65535)
    assert plan.net[1] == NetRule("r0", ("*",), 4, mapped, 104, 80, 80, 6, is_except=False)
    assert [(rule.family, rule.port_lo) for rule in plan.net[1:]] == [
        (4, 80), (4, 8000), (6, 80), (6, 8000),
    ]  # fmt: skip
    assert compile_plan(policy_of(connects(port=25))).net == [
        NetRule("r0", ("*",), 0, bytes(16), 0, 25, 25, 0, is_except=False)
    ]


def kernel_denies(plan: KernelPlan, address: str, port: int, protocol: int) -> bool:
    """What `bpf/network.bpf.c` decides."""
    parsed = ipaddress.ip_address(address)
    packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    skipped: set[str] = set()
    for rule in plan.net:
        bits = 128 - rule.prefixlen
        inside = int.from_bytes(packed) >> bits == int.from_bytes(rule.address) >> bits
        if (
            not inside
            or not rule.port_lo <= port <= rule.port_hi
            or rule.protocol not in {0, protocol}
            or rule.rule_id in skipped
            or (rule.family == 6 and packed.startswith(bytes(10) + b"\xff\xff"))
        ):
            continue
        if not rule.is_except:
            return True
        skipped.add(rule.rule_id)
    return False


NETWORKS = st.sampled_from(
    ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "fd00::/8", "fd00::1/128", "0.0.0.0/0", "::/0"]
)
ADDRESSES = st.sampled_from(
    ["10.0.0.1", "10.1.2.3", "11.0.0.1", "fd00::1", "fd00::2", "2001:db8::1", "::ffff:10.1.2.3"]
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "cidr": st.lists(NETWORKS, min_size=1),
                "except": st.lists(NETWORKS, min_size=1),
                "port": st.sampled_from([80, "80-90", [1, 90]]),
                "protocol": st.sampled_from(["tcp", "udp", ["tcp", "udp"]]),
            },
        ),
        max_size=3,
    ),
    ADDRESSES,
    st.sampled_from([1, 80, 85, 91]),
    st.sampled_from(["tcp", "udp"]),
)
def test_the_kernel_decides_connects_as_the_evaluator_does(
    matches: list[dict[str, Any]], address: str, port: int, protocol: str
) -> None:
    policy = policy_of(*(connects(**match) for match in matches))
    subject = {"family": "ipv4", "address": address, "port": port, "protocol": protocol}
    denied = Evaluator(policy).evaluate("network.connect", "w", subject) is not None
    number = {"tcp": 6, "udp": 17}[protocol]
    assert kernel_denies(compile_plan(policy), address, port, number) is denied


def test_what_this_tier_cannot_decide_before_the_effect_is_said() -> None:
    plan = compile_plan(
        policy_of(
            {"on": "file.delete", "action": "deny"},
            connects("hold"),
            {**connects(), "when": "task == null"},
            connects(path="*/docker.sock"),
            {"on": "network.socket", "action": "deny", "match": {"family": "raw"}},
            {"on": "network.bind", "action": "kill"},
            opens("deny", "!/work/**", access="write"),
            connects("audit"),
            opens("deny", "**/a", access="read"),
        )
    )
    assert plan.net == []
    assert [note.rule_id for note in plan.notes] == ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r6"]
    assert all(note.text for note in plan.notes)


def test_which_workloads_may_be_killed_late() -> None:
    plan = compile_plan(
        policy_of(
            {"on": "file.delete", "action": "kill", "workloads": ["a"]},
            {"on": "file.delete", "action": "audit", "workloads": ["b"]},
            {"on": "file.rename", "action": "deny", "workloads": ["c", "d"]},
            {**opens("deny", "**/a", access="read"), "workloads": ["d", "e"]},
            {"on": "mcp.response", "action": "kill", "workloads": ["f"]},
            {**connects(), "workloads": ["g"]},
        )
    )
    assert [name for name in "abcdefg" if plan.kills_late(name)] == ["a", "c", "f"]


def test_results_are_held_where_that_can_be_done() -> None:
    policy = policy_of(
        {"on": "mcp.response", "action": "deny", "workloads": ["a*"]},
        {"on": "mcp.response", "action": "audit", "workloads": ["b"]},
        {"on": "mcp.response", "action": "kill", "workloads": ["c"]},
    )
    plan = compile_plan(policy, results=True)
    assert [plan.result_holds(name) for name in ("a1", "b", "c")] == [True, False, True]
    assert plan.notes == []
    plan = compile_plan(policy)
    assert not plan.result_holds("a1")
    assert [(note.rule_id, note.text.rpartition("; ")[2]) for note in plan.notes] == [
        ("r0", "it is only recorded"),
        ("r2", "the client is killed"),
    ]


def test_which_workloads_hold() -> None:
    plan = compile_plan(
        policy_of(
            {"on": "mcp.request", "action": "audit", "workloads": ["a*"]},
            {**opens("deny", "**/x"), "workloads": ["b"]},
            {**opens("audit", "**/x"), "workloads": ["a"]},
            {**execs(exe="/x"), "workloads": ["!a"]},
        )
    )
    assert (plan.mcp_holds("a1"), plan.mcp_holds("b")) == (True, False)
    assert (plan.open_holds("b"), plan.open_holds("a")) == (True, False)
    assert (plan.exec_holds("b"), plan.exec_holds("a")) == (True, False)
