"""Denials depend neither on telemetry nor on the daemon's life."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentd.kernel.pins import Pins
from tests.host.support.daemon import Document, workload
from tests.host.support.processes import wait_until
from tests.host.support.puppet import Puppet
from tests.lab.plugin import FIGURES
from tests.lab.support.slow_daemon import PATIENCE_S, SlowDaemon

pytestmark = pytest.mark.lab(kernels=["6.12"])

ROUNDS = int(os.environ.get("AGENTD_RESTARTS", "2"))
"""How often the daemon comes and goes, of each way to end it; 100 are for a patient person."""
GOES_ON_S = 60.0
DENIED = ("denied", "moved")
# Opens each file over and over, until the first one is there. Tells in the second one, a line of
# JSON that is written in place, how often it has tried, and what came of it by errno (0: opened).
# Without the pause the daemon has half of the emulator, and takes twice as long to start.
LOOP = """
import json, os, time
ends, told, *files = {words!r}
tries, became = 0, {{}}
with open(told, "w") as telling:
    while not os.path.exists(ends):
        for path in files:
            tries += 1
            try:
                open(path).close()
                error = 0
            except OSError as failure:
                error = failure.errno
            became[error] = became.get(error, 0) + 1
        telling.seek(0)
        telling.write(json.dumps([tries, became]) + "\\n")
        telling.flush()
        time.sleep(0.005)
result = became
"""
READ_A_PIPE = """
import os
r, w = os.pipe()
os.write(w, b'{"half":')
result = os.read(r, 99).decode()
"""


def deny(name: str, path: Path) -> Document:
    return {"id": name, "on": "file.open", "match": {"path": str(path)}, "action": "deny"}


@dataclass
class Place:
    base: Path
    daemon: SlowDaemon
    puppet: Puppet

    def read(self, name: str) -> tuple[object, int]:
        outcome = self.puppet.act(f"result = open({str(self.base / name)!r}).read()")
        return outcome.result, outcome.error

    def sessions(self) -> list[str]:
        """The sessions that the daemon knows."""
        listed = self.daemon.request("ps")["workloads"]
        return [session["id"] for each in listed for session in each["sessions"]]

    @contextlib.contextmanager
    def denied_all_along(self, figures: Callable[[str, object], None]) -> Iterator["Loop"]:
        """A labelled process tries what is denied meanwhile, and never gets it."""
        session = self.sessions()
        ends, told = self.base / "end", self.base / "told"
        told.write_text("")
        words = [str(path) for path in (ends, told, *(self.base / name for name in DENIED))]
        self.puppet.start(LOOP.format(words=words))
        loop = Loop(told)
        try:
            loop.goes_on()
            yield loop
            loop.goes_on()
        finally:
            ends.touch()
            outcome = self.puppet.finish()
            ends.unlink()
            figures(FIGURES, f"tries by errno, 0 for success: {outcome.result}")
        assert (outcome.signal, outcome.error) == (0, 0)
        assert list(outcome.result) == ["1"], outcome.result  # EPERM, and nothing else
        assert self.sessions() == session
        assert self.read("free") == ("free", 0)


@dataclass
class Loop:
    told: Path

    def tries(self) -> int:
        """How often it has tried so far; AssertionError once it has got something."""
        while True:
            try:
                tries, became = json.loads(self.told.read_text())
            except ValueError:  # in the middle of a line
                continue
            assert "0" not in became, became
            return int(tries)

    def goes_on(self) -> None:
        """Wait until it has tried some more."""
        wait_until(lambda: bool(self.told.read_text()), GOES_ON_S, "the loop has begun")
        before = self.tries()
        wait_until(lambda: self.tries() > before + 10, GOES_ON_S, "the loop goes on")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("place")
    for name in ("denied", "moved-later", "asked", "free", "later"):
        (base / name).write_text(name)
    ask: dict[str, Any] = {
        **deny("ask", base / "asked"),
        "when": "event.process.exe == '/nothing'",
    }
    rules = {
        "workload.yaml": workload("tested"),
        "rules.yaml": {
            "rules": [
                deny("no", base / "denied"),
                deny("no-move", base / "moved-later"),
                ask,
                {"id": "no-call", "on": "mcp.tool_call", "action": "deny"},
            ]
        },
    }
    with (
        # Every refusal is on record, and what the machine writes lies in its memory.
        SlowDaemon(base / "agentd", rules, settings={"journal": {"budget": "64MiB"}}) as daemon,
        Puppet(daemon.run("tested", Puppet.ARGV)) as puppet,
    ):
        source, target = str(base / "moved-later"), str(base / "moved")
        assert puppet.act(f"import os; os.rename({source!r}, {target!r})").error == 0
        yield Place(base, daemon, puppet)


def end(daemon: SlowDaemon, number: signal.Signals) -> None:
    """SIGTERM to the supervisor, or SIGKILL to every process of the daemon."""
    processes = daemon.processes()
    for process in processes if number == signal.SIGKILL else processes[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    _, alive = psutil.wait_procs(processes, PATIENCE_S)
    assert not alive
    daemon.forget()


def test_what_stands_when_every_process_is_killed(place: Place) -> None:
    assert place.read("asked") == ("asked", 0)
    end(place.daemon, signal.SIGKILL)
    for name in DENIED:
        assert place.read(name) == (None, 1)
    assert place.read("asked") == (None, 1)  # nobody is there to judge: on_failure
    assert place.read("free") == ("free", 0)
    assert place.puppet.act(READ_A_PIPE).result == '{"half":'  # no call, whatever it looks like
    place.daemon.start()
    for name in DENIED:
        assert place.read(name) == (None, 1)
    assert place.read("asked") == ("asked", 0)
    assert len(place.sessions()) == 1


@pytest.mark.timeout(60 + 60 * ROUNDS)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_no_denial_opens_while_daemons_come_and_go(
    place: Place, record_property: Callable[[str, object], None], how: signal.Signals
) -> None:
    with place.denied_all_along(record_property) as loop:
        for _ in range(ROUNDS):
            before = loop.tries()
            end(place.daemon, how)
            place.daemon.start()
            assert loop.tries() > before


@pytest.mark.timeout(400)
def test_no_denial_opens_when_a_start_is_cut_short(
    place: Place, record_property: Callable[[str, object], None]
) -> None:
    """By SIGTERM or SIGKILL, at moments all over the time that a start takes."""
    ready_s = place.daemon.ready_s
    with place.denied_all_along(record_property) as loop:
        end(place.daemon, signal.SIGTERM)
        for part in range(1, 5):
            place.daemon.begin()
            time.sleep(ready_s * part / 5)
            end(place.daemon, signal.SIGTERM if part % 2 else signal.SIGKILL)
            loop.goes_on()
        place.daemon.start()


def test_marks_outlive_other_rules_and_a_kill(place: Place) -> None:
    """What a file has been called is known by rules that have other places by now."""
    more = [deny(f"more-{number}", place.base / f"more-{number}") for number in range(3)]
    killing = {**deny("killing", place.base / "killing"), "action": "kill"}
    place.daemon.write_rules("0.yaml", {"rules": [*more, killing]})
    assert place.daemon.request("reload")["problems"] == []
    end(place.daemon, signal.SIGKILL)
    place.daemon.start()
    for name in DENIED:
        assert place.read(name) == (None, 1)


def test_a_denial_is_not_late(place: Place) -> None:
    """What was free under rules that are no more is judged anew each time that they change."""
    assert place.read("later") == ("later", 0)
    for count in range(1, 3):
        more = [deny(f"more-{number}", place.base / f"more-{number}") for number in range(count)]
        place.daemon.write_rules("0.yaml", {"rules": more})
        assert place.daemon.request("reload")["problems"] == []
    place.daemon.write_rules("0.yaml", {"rules": [deny("late", place.base / "later")]})
    assert place.daemon.request("reload")["problems"] == []
    assert place.read("later") == (None, 1)


def test_unload_removes_everything(place: Place) -> None:
    assert place.read("denied") == (None, 1)
    place.daemon.stop(unload=False)
    assert Pins(place.daemon.runtime_dir).exist()
    assert place.read("denied") == (None, 1)
    subprocess.run(place.daemon.command("unload"), check=True)
    assert not Pins(place.daemon.runtime_dir).directory.exists()
    assert place.read("denied") == ("denied", 0)
    place.daemon.start()  # clears up what a daemon must that ends after its sessions
