"""What is told of the tests of a VM, whatever becomes of it; the VM is a shell script here."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.lab.support import boots
from tests.lab.support.boots import Boot, Limits
from tests.lab.support.kernels import Kernel, KernelUnavailableError

TEST = "tests/x.py::test[6.1]"
MakeBoot = Callable[..., Boot]


class FakeMachine:
    script = ""

    def __init__(self, _: Kernel, share: Path, *__: object, **___: object) -> None:
        self.share = share

    def start(self, _: str, output: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["sh", "-c", self.script], cwd=self.share, stdout=output)

    def exit_code(self) -> int | None:
        status = self.share / "status"
        return int(status.read_text()) if status.exists() else None

    def last_words(self) -> str:
        return "Kernel panic"


@pytest.fixture
def make_boot(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeBoot]:
    made = []
    monkeypatch.setattr(boots, "fetch", lambda series: Kernel(series, series, Path("/")))
    monkeypatch.setattr(boots, "Machine", FakeMachine)

    def make(script: str, limits: Limits = Limits(60, 60)) -> Boot:  # noqa: B008 (frozen)
        monkeypatch.setattr(FakeMachine, "script", script)
        boot = Boot("6.1", "", (), {}, limits)
        boot.add(TEST, 1)
        boot.start()
        made.append(boot)
        return boot

    yield make
    for boot in made:
        boot.close()


def line(when: str, test: str = TEST) -> str:
    return json.dumps({"nodeid": test, "when": when})


def phases(reports: Iterator[dict[str, Any]]) -> list[str]:
    return [report["when"] for report in reports]


def test_reports_come_in_while_the_machine_runs(make_boot: MakeBoot) -> None:
    whole = line("call")
    boot = make_boot(
        f"echo '{line('setup', 'other')}' >>reports; echo '{line('setup')}' >>reports;"
        f"sleep 0.2; printf '%s' '{whole[:10]}' >>reports; sleep 0.2;"
        f"echo '{whole[10:]}' >>reports; echo '{line('teardown')}' >>reports; exec sleep 60"
    )
    assert phases(boot.reports(TEST)) == ["setup", "call", "teardown"]
    assert boot.running
    boot.kill()
    assert phases(boot.reports("other")) == ["setup"]


def test_a_machine_that_dies_says_what_it_said_last(make_boot: MakeBoot) -> None:
    boot = make_boot(f"echo '{line('setup')}' >>reports; echo collected 1 item")
    assert phases(boot.reports(TEST)) == ["setup"]
    trouble = boot.trouble()
    assert trouble.startswith("Linux 6.1: the machine died\n")
    assert "collected 1 item" in trouble
    assert trouble.endswith("Kernel panic")


def test_a_pytest_that_ends_early_is_told_with_its_exit_code(make_boot: MakeBoot) -> None:
    boot = make_boot("echo 4 >status")
    assert phases(boot.reports(TEST)) == []
    assert boot.trouble().startswith("Linux 6.1: pytest ended with 4 in the machine\n")


@pytest.mark.parametrize(
    ("limits", "why"),
    [(Limits(0.2, 60), "nothing heard for 0 s"), (Limits(60, 0.2), "still on after 0 s")],
)
def test_a_machine_that_hangs_is_ended(make_boot: MakeBoot, limits: Limits, why: str) -> None:
    boot = make_boot("exec sleep 60", limits)
    assert phases(boot.reports(TEST)) == []
    assert not boot.running
    assert why in boot.trouble()


def test_a_kernel_that_cannot_be_had(make_boot: MakeBoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(series: str) -> Kernel:
        raise KernelUnavailableError("no Linux 6.1 in Debian bookworm")

    monkeypatch.setattr(boots, "fetch", refuse)
    boot = make_boot("")
    assert boot.started
    assert phases(boot.reports(TEST)) == []
    assert "no Linux 6.1 in Debian bookworm" in boot.trouble()
