"""What agentd finds on the kernels of the lab, and that they accept its programs."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.kernel import host, syscalls, tiers
from agentd.kernel.enforcer import AUTO
from agentd.kernel.pins import Pins
from agentd.kernel.sensor import Sensor
from tests.host.support.servers import AGENTD
from tests.lab.plugin import FIGURES
from tests.lab.support.hooks import hooked_functions

pytestmark = pytest.mark.lab

OLD = pytest.mark.lab(kernels=["5.10"])
PREEMPTED = pytest.mark.lab(kernels=["6.12"], append="preempt=full")
NO_LSM = pytest.mark.lab(append="lsm=lockdown,yama")


@pytest.fixture(scope="session")
def report() -> dict[str, Any]:
    """What `agentd doctor` says, with its exit code as `exit`."""
    result = subprocess.run([AGENTD, "doctor", "--json"], capture_output=True, check=False)
    document: dict[str, Any] = json.loads(result.stdout)
    return {**document, "exit": result.returncode}


def _families(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {family["name"]: family for family in report["families"]}


def test_the_kernel_is_of_its_series(kernel: str) -> None:
    assert os.uname().release.startswith(f"{kernel}.")


def test_everything_works_on_a_distribution_kernel(report: dict[str, Any]) -> None:
    assert (report["exit"], report["kernel_tier"]) == (0, tiers.ENFORCE_LSM)
    assert [family for family in report["families"] if not family["works"]] == []
    assert "bpf" in report["lsm"]["active"]
    assert report["btf"] is True
    assert report["lockdown"] == "none"
    assert report["cgroup_mode"] == "unified"
    assert set(report["config"]["options"].values()) == {"y"}
    assert all(report["mounts"].values()), report["mounts"]
    assert report["privilege"]["missing"] == {}


def test_the_verifier_accepts_every_object() -> None:
    """The programs of the observe tier, and all families of the best tier."""
    sensor = Sensor()
    try:
        sensor.load()
        sensor.enforce(AUTO)
        assert set(sensor.enforcer.families.values()) == {tiers.ENFORCE_LSM}
        assert sensor.enforcer.refusals == {}
        assert sensor.syscalls.refusal == ""
    finally:
        sensor.close()


def test_hooked_calls_are_let_go_after_the_last_session(
    kernel: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those that nobody has hooked keep their speed, and one that waits is not hooked for good."""
    assert host.preemption() == ("lazy" if kernel == "7.2" else "voluntary")
    monkeypatch.setattr(syscalls, "LINGER_S", 0.0)
    before = hooked_functions()
    sensor = Sensor()
    try:
        sensor.load()
        sensor.enforce(AUTO)
        sensor.attach(Pins(tmp_path))
        sensor.watch_syscalls(wanted=True)
        during = hooked_functions() - before
        assert {"__x64_sys_read", "__x64_sys_openat", "__x64_sys_write"} <= during
        assert not {"__x64_sys_getppid", "__x64_sys_close"} & during
        sensor.watch_syscalls(wanted=False)
        for _ in during:
            sensor.tick()
        after = hooked_functions() - before
        assert {name for name in after if name.startswith("__x64_sys_")} == set()
        assert "security_inode_free" in after
    finally:
        sensor.close()
    assert hooked_functions() == before


@PREEMPTED
def test_a_kernel_that_is_preempted_anywhere_gets_the_raw_tracepoint() -> None:
    """It would leave out an fexit program that it has entered on the same CPU before."""
    assert host.preemption() == host.FULL
    sensor = Sensor()
    try:
        sensor.load()
        assert "preempted anywhere" in sensor.syscalls.refusal
    finally:
        sensor.close()


@NO_LSM
def test_security_functions_can_be_overridden_where_lsm_is_off(report: dict[str, Any]) -> None:
    assert (report["exit"], report["kernel_tier"]) == (0, tiers.ENFORCE_FMODRET)
    assert "bpf" not in report["lsm"]["active"]
    lsm = _families(report)["lsm"]
    assert lsm["why"] == "loads and attaches, and the kernel never calls it"
    assert "lsm=" in lsm["mend"]


@NO_LSM
def test_the_verifier_accepts_every_object_as_an_override(
    record_property: Callable[[str, object], None],
) -> None:
    """All but those of the hooks that have no function of their name."""
    sensor = Sensor()
    try:
        sensor.load()
        sensor.enforce(AUTO)
        assert set(sensor.enforcer.families.values()) == {tiers.ENFORCE_FMODRET}
        assert sensor.enforcer.refusals.keys() == {tiers.ENFORCE_LSM}
        record_property(FIGURES, f"hooks that cannot be overridden: {sensor.enforcer.missing}")
        assert sensor.enforcer.missing == {}
        assert sensor.syscalls.refusal == ""
    finally:
        sensor.close()


@OLD
def test_a_kernel_that_is_too_old_is_told_so(
    report: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    found = [f"{name}: {family['why']}" for name, family in _families(report).items()]
    record_property(FIGURES, "\n".join([f"tier {report['tier']}", *found, *report["mends"]]))
    assert (report["exit"], report["tier"], report["kernel_tier"]) == (1, tiers.NONE, tiers.NONE)
    assert "bpf_loop: boot Linux 5.17 or later" in report["mends"]
    assert not _families(report)["bpf_loop"]["works"]
    (rules,) = report["rules"]
    assert (rules["rules"], rules["acts"]) == ("all", "not enforced")


@OLD
def test_the_daemon_ends_where_its_programs_do_not_load(tmp_path: Path) -> None:
    """With the reason, and without an engine that is left behind."""
    configuration = tmp_path / "agentd.yaml"
    configuration.write_text(f"runtime_dir: {tmp_path}/run\nstate_dir: {tmp_path}/state\n")
    command = [str(AGENTD), "--config", str(configuration), "daemon"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "BPF object attribution: load" in ended.stderr
    assert ended.stderr.endswith("`agentd doctor` says what this kernel allows\n")
