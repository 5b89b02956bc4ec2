"""Denials depend neither on telemetry nor on the daemon's life."""

import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from agentd.kernel.pins import Pins
from tests.host.support.daemon import workload
from tests.host.support.puppet import Puppet
from tests.lab.support.slow_daemon import SlowDaemon

pytestmark = pytest.mark.lab

NOTICED_S = 3.0
"""After two seconds without a sign of life the kernel holds nothing more: on_failure decides.
What it stopped before that waits for the next daemon."""


@dataclass
class Place:
    base: Path
    daemon: SlowDaemon
    puppet: Puppet

    def rename(self, name: str, to: str) -> None:
        source, target = str(self.base / name), str(self.base / to)
        assert self.puppet.act(f"import os; os.rename({source!r}, {target!r})").error == 0

    def read(self, name: str) -> tuple[object, int]:
        outcome = self.puppet.act(f"result = open({str(self.base / name)!r}).read()")
        return outcome.result, outcome.error


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    for name in ("denied", "moved-later", "asked", "free"):
        (tmp_path / name).write_text(name)
    paths = [str(tmp_path / name) for name in ("denied", "moved-later")]
    asked = {"path": str(tmp_path / "asked")}
    rules = {
        "workload.yaml": workload("tested"),
        "rules.yaml": {
            "rules": [
                {"id": "no", "on": "file.open", "match": {"path": paths}, "action": "deny"},
                {
                    "id": "ask",
                    "on": "file.open",
                    "match": asked,
                    "when": "event.process.exe == '/nothing'",
                    "action": "deny",
                },
            ]
        },
    }
    with (
        SlowDaemon(tmp_path / "agentd", rules) as daemon,
        Puppet(daemon.run("tested", Puppet.ARGV)) as puppet,
    ):
        yield Place(tmp_path, daemon, puppet)


def kill_all(daemon: SlowDaemon) -> None:
    """`kill -9` of every process of the daemon."""
    processes = daemon.processes()
    for process in processes:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, 30)
    daemon.forget()
    time.sleep(NOTICED_S)


def test_what_stands_when_every_process_is_killed(place: Place) -> None:
    place.rename("moved-later", "moved")
    assert place.read("asked") == ("asked", 0)
    kill_all(place.daemon)
    for name in ("denied", "moved"):
        assert place.read(name) == (None, 1)
    assert place.read("asked") == (None, 1)  # nobody is there to judge: on_failure
    assert place.read("free") == ("free", 0)
    place.daemon.start()
    for name in ("denied", "moved"):
        assert place.read(name) == (None, 1)
    assert place.read("asked") == ("asked", 0)
    assert [len(each["sessions"]) for each in place.daemon.request("ps")["workloads"]] == [1]


def test_unload_removes_everything(place: Place) -> None:
    assert place.read("denied") == (None, 1)
    place.daemon.stop(unload=False)
    assert Pins(place.daemon.runtime_dir).exist()
    assert place.read("denied") == (None, 1)
    subprocess.run(place.daemon.command("unload"), check=True)
    assert not Pins(place.daemon.runtime_dir).directory.exists()
    assert place.read("denied") == ("denied", 0)
