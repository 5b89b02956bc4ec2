"""When the engine looks at what it is told: soon where that matters, and without spinning."""

import signal
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.host.conftest import StartDaemon
from tests.host.support.daemon import ALLOW_ALL, Document, workload
from tests.host.support.processes import stop
from tests.host.support.stdio_client import StdioClient

MINI = [sys.executable, "-SE", str(Path(__file__).parent / "support" / "mini_server.py")]
VICTIMS = 15
LATE_MEAN_S = 0.08  # 0.125 if nobody looked but the housekeeping, every 0.25 s
CALLS = 40
PAUSE_S = 0.03
BUSY_SHARE = 0.3  # two thirds if it spun for the 20 ms after each call

KILLS_DELETERS: Document = {
    "rules": [
        {"id": "no-delete", "on": "file.delete", "match": {"path": "**/doomed"}, "action": "kill"}
    ]
}

# Two unlike names a turn, so that each is told of.
CHATTER = """
import itertools, pathlib, sys, time
print("begins", flush=True)
for number in itertools.count():
    path = pathlib.Path(sys.argv[1], f"chatter-{number}")
    path.touch()
    path.unlink()
    time.sleep(float((sys.argv[2:] or ["0.005"])[0]))
"""
BUILD_PAUSE_S = 0.04
LOOK_S = 3.0
WAKE_UPS_A_S = 15  # 25 if each record that follows a pause woke it, 4 by the housekeeping alone
VICTIM = """
import os, pathlib, struct, sys, time
clock = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
pathlib.Path(sys.argv[1]).unlink()
done = time.monotonic()
while True:
    os.pwrite(clock, struct.pack("d", time.monotonic() - done), 0)
    time.sleep(0.001)
"""


def test_what_may_call_for_a_kill_is_looked_at_soon(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """Where other records flow, none of them wakes the engine."""
    daemon = start_daemon(rules={"w.yaml": workload("tested"), "r.yaml": KILLS_DELETERS})
    command = [sys.executable, "-SE", "-c", CHATTER, str(tmp_path)]
    chatter = subprocess.Popen(daemon.run("tested", command), stdout=subprocess.PIPE)
    assert chatter.stdout is not None
    lived: list[float] = []
    try:
        assert chatter.stdout.readline()
        for number in range(VICTIMS):
            place, clock = tmp_path / str(number) / "doomed", tmp_path / f"clock-{number}"
            place.parent.mkdir()
            place.touch()
            victim = [sys.executable, "-SE", "-c", VICTIM, str(place), str(clock)]
            ended = subprocess.run(daemon.run("tested", victim), check=False, timeout=10)
            assert ended.returncode == -signal.SIGKILL
            lived.append(struct.unpack("d", clock.read_bytes())[0])
    finally:
        chatter.stdout.close()
        stop(chatter)
    assert statistics.mean(lived) < LATE_MEAN_S, lived


def test_the_engine_sleeps_while_records_wait_after_a_call(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon(
        rules={"w.yaml": workload("tested"), "r.yaml": ALLOW_ALL}, settings={"hold_linger_us": 0}
    )
    engine = daemon.engine()
    assert engine is not None

    def used_s() -> float:
        times = psutil.Process(engine.pid).cpu_times()
        return float(times.user + times.system)

    with StdioClient(daemon.run("tested", MINI), timeout=10) as client:
        client.initialize()
        before, begun = used_s(), time.monotonic()
        for number in range(CALLS):
            # The file that is made is the record.
            arguments = {"path": str(tmp_path / f"file-{number}"), "content": "a"}
            assert "result" in client.call("write", arguments)
            time.sleep(PAUSE_S)
        share = (used_s() - before) / (time.monotonic() - begun)
    assert share < BUSY_SHARE


def test_records_with_short_pauses_between_do_not_wake_the_engine_each(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """As those of a build: a second compiler is started while the first one works."""
    daemon = start_daemon(rules={"w.yaml": workload("tested"), "r.yaml": ALLOW_ALL})
    engine = daemon.engine()
    assert engine is not None
    command = [sys.executable, "-SE", "-c", CHATTER, str(tmp_path), str(BUILD_PAUSE_S)]
    chatter = subprocess.Popen(daemon.run("tested", command), stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)  # it runs
        before = engine.num_ctx_switches().voluntary
        time.sleep(LOOK_S)
        woken = engine.num_ctx_switches().voluntary - before
    finally:
        stop(chatter)
    assert woken / LOOK_S < WAKE_UPS_A_S


@pytest.mark.parametrize("kills", [False, True])
def test_what_can_wait_is_taken_in_behind_the_work(
    start_daemon: StartDaemon, tmp_path: Path, kills: bool
) -> None:
    rules = KILLS_DELETERS if kills else ALLOW_ALL
    daemon = start_daemon(rules={"w.yaml": workload("tested"), "r.yaml": rules})
    engine = daemon.engine()
    assert engine is not None
    ordinary = psutil.Process(daemon.pid).nice()
    command = [sys.executable, "-SE", "-c", CHATTER, str(tmp_path)]
    chatter = subprocess.Popen(daemon.run("tested", command), stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)  # it runs
        until, seen = time.monotonic() + 2, set()
        while time.monotonic() < until:
            seen.add(engine.nice())
    finally:
        stop(chatter)
    assert min(seen) < ordinary
    assert (max(seen) > ordinary) == (not kills)
