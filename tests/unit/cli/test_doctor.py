import pytest

from agentd.cli import diagnosis, doctor
from agentd.cli.diagnosis import Lsm
from agentd.kernel import host, tiers, trials
from agentd.kernel.tiers import Capabilities, Family

OBSERVE = {"raw_tracepoint", "ring_buffer", "send_signal", "probe_read", "bpf_loop"}


def _capabilities(working: set[str]) -> Capabilities:
    tier = tiers.choose_tier(working.__contains__)
    names = [*OBSERVE, "cgroup_connect", "fentry", "lsm"]
    families = {
        name: Family(
            name, works=name in working, errno=0 if name in working else 1, why="", mend=""
        )
        for name in names
    }
    return Capabilities(tier, tier, families, "/sys/fs/cgroup", "v1.1")


@pytest.mark.parametrize(
    ("working", "tier"),
    [
        (set(), tiers.NONE),
        ({"lsm", "fentry"}, tiers.NONE),
        (OBSERVE - {"bpf_loop"} | {"lsm", "fentry"}, tiers.NONE),
        (OBSERVE, tiers.OBSERVE),
        (OBSERVE | {"lsm"}, tiers.OBSERVE),
        (OBSERVE | {"fmod_ret", "fentry"}, tiers.ENFORCE_FMODRET),
        (OBSERVE | {"lsm", "fmod_ret", "fentry"}, tiers.ENFORCE_LSM),
    ],
)
def test_tier(working: set[str], tier: str) -> None:
    assert tiers.choose_tier(working.__contains__) == tier


def test_rules_act_late_where_cgroups_cannot_block() -> None:
    def static(working: set[str]) -> str:
        kinds = diagnosis.rule_kinds(_capabilities(working))
        return next(one.acts for one in kinds if "without `when`" in one.rules)

    assert static(OBSERVE) == diagnosis.AFTER
    assert static(OBSERVE | {"cgroup_connect"}) == diagnosis.BEFORE
    (only,) = diagnosis.rule_kinds(_capabilities(set()))
    assert (only.rules, only.acts) == ("all", diagnosis.NOT)


def test_mends_are_joined_and_privilege_comes_first() -> None:
    families = {
        name: Family(name, works=False, errno=errno, why="", mend="boot another kernel")
        for name, errno in (("lsm", 22), ("fentry", 22), ("raw_tracepoint", 1))
    }
    found = Capabilities(tiers.NONE, tiers.NONE, families, "", "")
    steps = diagnosis.find_mends(found, Lsm(None, "securityfs is not mounted"), {"CAP_BPF": "x"})
    assert steps[0].startswith("run this as root")
    assert steps[1].startswith("install libbpf")
    assert steps[2] == "lsm, fentry: boot another kernel"
    assert steps[3].endswith("securityfs is not mounted")


@pytest.mark.parametrize(
    ("name", "code", "privileged", "expected"),
    [
        ("lsm", 1, False, "lacks CAP_BPF"),
        ("lsm", 1, True, "in spite of the capabilities"),
        ("raw_tracepoint", 1, True, "errno 1"),
        ("tracepoint", 38, True, "ENOSYS"),
        ("fentry", 2, True, "ENOENT"),
    ],
)
def test_refusals_are_explained(name: str, code: int, privileged: bool, expected: str) -> None:
    assert expected in tiers.explain(name, code, "text", privileged=privileged)[0]


def test_capability_masks() -> None:
    assert host.decode_capabilities(0) == set()
    assert host.decode_capabilities(1 << 39 | 1 << 21) == {"CAP_BPF", "CAP_SYS_ADMIN"}
    assert host.decode_capabilities(1 << 63) == {"CAP_63"}
    assert {name.removeprefix("CAP_") for name in host.NEEDED_CAPABILITIES} <= set(
        host.CAPABILITIES
    )


@pytest.mark.parametrize(
    ("points", "mode"),
    [
        ({"cgroup2": ["/a"]}, "unified"),
        ({"cgroup2": ["/a"], "cgroup": ["/b"]}, "hybrid"),
        ({"cgroup": ["/b"]}, "legacy"),
        ({}, "none"),
    ],
)
def test_cgroup_mode(points: dict[str, list[str]], mode: str) -> None:
    assert host.cgroup_mode(points) == mode


def test_every_family_has_a_purpose() -> None:
    tried = {name for name, _ in (*trials.TRIALS, *trials.SLOW_TRIALS)}
    assert tried == set(doctor._PURPOSES)
