"""Calls that are held at their entry: none lost, none doubled, no errno that is not its own."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.host.support.daemon import Document, workload
from tests.host.support.puppet import Puppet
from tests.lab.plugin import FIGURES
from tests.lab.support.slow_daemon import PATIENCE_S, SlowDaemon

pytestmark = pytest.mark.lab

PROCESSES, THREADS = 4, 4
CALLS = int(os.environ.get("AGENTD_HOLD_CALLS", "64"))
"""Of each thread: 1,024 held calls in all; 640 makes them ten thousand, for a patient person."""
HAMMER = Path(__file__).parent / "support" / "hammer.c"


@dataclass
class Place:
    base: Path
    daemon: SlowDaemon
    puppet: Puppet

    def file(self, name: str) -> str:
        return str(self.base / name)


def rule(place: Path, name: str, action: str, **more: object) -> Document:
    return {
        "id": name,
        "on": "file.open",
        "match": {"path": str(place / name), "access": ["read"]},
        "action": action,
        **more,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("place")
    for name in ("asked-yes", "asked-no", "approved", "late", "killed"):
        (base / name).write_text(name)
    rules = {
        "workload.yaml": workload("tested"),
        "rules.yaml": {
            "rules": [
                rule(base, "asked-yes", "deny", when="event.process.exe == '/nothing'"),
                rule(base, "asked-no", "deny", when="event.process.exe != '/nothing'"),
                rule(base, "killed", "kill", when="event.process.exe != '/nothing'"),
                rule(base, "approved", "hold", approve={"timeout": "10m", "on_timeout": "deny"}),
                rule(base, "late", "hold", approve={"timeout": "2s", "on_timeout": "deny"}),
            ]
        },
    }
    with (
        SlowDaemon(base / "agentd", rules) as daemon,
        Puppet(daemon.run("tested", Puppet.ARGV)) as puppet,
    ):
        yield Place(base, daemon, puppet)


def waiting(place: Place) -> str:
    """The id of the call that waits, once it does."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        holds = place.daemon.request("holds")["holds"]
        if holds:
            return str(holds[0]["id"])
        time.sleep(0.2)
    raise AssertionError("no call is held")


def read(place: Place, name: str) -> str:
    return f"result = open({place.file(name)!r}).read()"


def stopped(place: Place) -> list[int]:
    """Processes of the session that are stopped."""
    below = psutil.Process(place.puppet.pid).children(recursive=True)
    return [process.pid for process in below if process.status() == psutil.STATUS_STOPPED]


def test_a_condition_is_judged_before_the_open(place: Place) -> None:
    assert place.puppet.act(read(place, "asked-yes")).result == "asked-yes"
    outcome = place.puppet.act(read(place, "asked-no"))
    assert (outcome.result, outcome.error, outcome.signal) == (None, 1, 0)
    assert place.puppet.act(read(place, "killed")).signal == signal.SIGKILL


@pytest.mark.parametrize("answer", ["approve", "deny"])
def test_a_person_decides(place: Place, answer: str) -> None:
    place.puppet.start(read(place, "approved"))
    place.daemon.request(answer, id=waiting(place))
    outcome = place.puppet.finish()
    if answer == "approve":
        assert outcome.result == "approved"
    else:
        assert (outcome.result, outcome.error) == (None, 1)


def test_nobody_answers(place: Place) -> None:
    outcome = place.puppet.act(read(place, "late"))
    assert (outcome.result, outcome.error, outcome.signal) == (None, 1, 0)


@pytest.mark.parametrize("number", [signal.SIGCONT, signal.SIGTERM, signal.SIGKILL])
def test_signals_while_a_call_is_held(place: Place, number: signal.Signals) -> None:
    """SIGCONT opens nothing; SIGTERM comes with the answer; SIGKILL ends the process at once."""
    place.puppet.start(read(place, "approved"))
    held = waiting(place)
    process = place.daemon.request("holds")["holds"][0]["process"]["pid"]
    for _ in range(3 if number == signal.SIGCONT else 1):
        psutil.Process(process).send_signal(number)
        time.sleep(0.5)
    if number != signal.SIGKILL:
        assert waiting(place) == held
        place.daemon.request("deny", id=held)
    outcome = place.puppet.finish()
    assert outcome.result is None
    if number == signal.SIGCONT:
        assert (outcome.error, outcome.signal) == (1, 0)
    else:
        assert outcome.signal == number


def hammer(
    place: Place, processes: int, threads: int, calls: int, *names: str
) -> tuple[list[int], ...]:
    """Of each file: how often it was opened, refused, anything else, and the errno of that."""
    program = place.file("hammer")
    if not Path(program).exists():
        subprocess.run(["clang", "-O1", "-pthread", "-o", program, HAMMER], check=True)
    numbers = [str(number) for number in (processes, threads, calls)]
    command = [program, *numbers, *map(place.file, names)]
    done = subprocess.run(
        place.daemon.run("tested", command), capture_output=True, check=True, timeout=1200
    )
    return tuple(list(map(int, line.split())) for line in done.stdout.splitlines())


@pytest.mark.timeout(120 + 2 * CALLS)
def test_holds_under_load(place: Place, record_property: Callable[[str, object], None]) -> None:
    """Several threads of several processes, half of the calls allowed and half refused."""
    began = time.monotonic()
    allowed, refused = hammer(place, PROCESSES, THREADS, CALLS, "asked-yes", "asked-no")
    took = time.monotonic() - began
    record_property(FIGURES, f"{PROCESSES * THREADS * CALLS} held calls in {took:.0f} s")
    each = PROCESSES * THREADS * CALLS // 2
    assert allowed == [each, 0, 0, 0]
    assert refused == [0, each, 0, 0]
    assert stopped(place) == []
    assert place.daemon.request("holds")["holds"] == []


@pytest.mark.timeout(120)
def test_the_same_call_at_once_again(place: Place) -> None:
    """It may come before the engine has forgotten the hold that it has just ended."""
    assert hammer(place, 1, 1, 2 * CALLS, "asked-yes") == ([2 * CALLS, 0, 0, 0],)
    assert stopped(place) == []
