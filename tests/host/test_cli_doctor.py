"""`agentd doctor` on the running kernel, with and without privilege."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.kernel import tiers

ROOT = Path(__file__).parents[2]
NOBODY = 65534


# Of all privileges only that of reading the checkout, which may lie below /root.
UNPRIVILEGED = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"),
)


def _doctor(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentd", "--socket", "/nonexistent/s", "doctor"]
    return subprocess.run(
        [*prefix, *command, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    result = _doctor("--json")
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_what_agentd_needs_works_here(report: dict[str, Any]) -> None:
    families = {one["name"]: one for one in report["families"]}
    for name in ("ring_buffer", "raw_tracepoint", "send_signal", "probe_read", "bpf_loop"):
        assert families[name]["works"], families[name]
    assert families["raw_tracepoint"]["why"] == "loaded, attached and fired"
    assert report["tier"] == tiers.OBSERVE
    assert report["btf"] is True
    assert report["libbpf"].startswith("v1.")
    assert report["privilege"]["missing"] == {}
    assert report["daemon"] is None


def test_lsm_is_refused_with_a_reason_or_works(report: dict[str, Any]) -> None:
    """On a locked-down kernel LSM programs are refused; elsewhere the kernel tier says so."""
    lsm = next(one for one in report["families"] if one["name"] == "lsm")
    if lsm["works"]:
        assert report["kernel_tier"] == tiers.ENFORCE_LSM
    else:
        assert report["kernel_tier"] != tiers.ENFORCE_LSM
        assert lsm["why"]
        assert lsm["mend"]
        assert any("lsm" in step for step in report["mends"])


def test_rules_are_sorted_by_when_they_act(report: dict[str, Any]) -> None:
    acts = {one["rules"]: one["acts"] for one in report["rules"]}
    assert acts["mcp.tool_call, mcp.request"] == "before the effect"
    assert acts["file.delete, file.rename"] == "after the effect"


def test_the_report_for_people_says_the_tier() -> None:
    result = _doctor()
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("tier          observe")
    assert "raw_tracepoint  ok" in result.stdout


def _kernel_objects_held() -> int:
    """How many BPF and perf descriptors this process has open."""
    held = 0
    for descriptor in range(3, 1024):
        try:
            target = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        except OSError:
            continue
        held += "bpf" in target or "perf_event" in target
    return held


def test_nothing_stays_loaded_or_made() -> None:
    before = _kernel_objects_held()
    found = tiers.probe(thorough=True)
    assert not list(Path(found.cgroup2).glob("agentd-trial-*"))
    assert _kernel_objects_held() == before


def test_without_privilege_it_says_what_it_cannot_see() -> None:
    result = _doctor("--json", prefix=UNPRIVILEGED)
    assert result.returncode == 1, result.stderr
    report = json.loads(result.stdout)
    assert report["tier"] == tiers.NONE
    assert "CAP_BPF" in report["privilege"]["missing"]
    assert report["mends"][0].startswith("run this as root")
