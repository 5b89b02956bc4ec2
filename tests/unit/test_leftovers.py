"""The check that fails a run which leaves something behind must itself find things."""

import signal
import subprocess

import psutil

from tests.host.support.leftovers import HostState, host_state, leftovers


def test_finds_and_ends_a_process_that_left_its_parent() -> None:
    before = host_state()
    script = "setsid sleep 4242 >/dev/null 2>&1 & echo $!"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    orphan = psutil.Process(int(done.stdout))
    found = leftovers(before, settle_s=0.2)
    assert [line for line in found if f"pid {orphan.pid} " in line]
    assert leftovers(before, settle_s=2.0) == []


def test_finds_a_stopped_process() -> None:
    before = host_state()
    process = subprocess.Popen(["sleep", "4242"])
    process.send_signal(signal.SIGSTOP)
    found = leftovers(before, settle_s=0.2)
    assert f"process: pid {process.pid} [stopped] sleep 4242" in found
    assert process.wait(5) == -signal.SIGKILL
    assert leftovers(before, settle_s=2.0) == []


def test_compares_what_has_no_owner_by_name() -> None:
    before = HostState(pins=frozenset({"/sys/fs/bpf/other"}))
    after = HostState(
        pins=frozenset({"/sys/fs/bpf/other", "/sys/fs/bpf/agentd"}),
        cgroups=frozenset({"/sys/fs/cgroup/agentd"}),
    )
    assert after.added_since(before) == [
        "BPF pin: /sys/fs/bpf/agentd",
        "cgroup: /sys/fs/cgroup/agentd",
    ]
    assert before.added_since(after) == []
