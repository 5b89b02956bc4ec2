"""Events per second from the ring to the journal, on one core, without losing any.

A labelled generator on one core makes distinct events (a connect to an address and port never
used before, which nothing aggregates) at a given rate; the daemon is confined to the other core.
The rate rises until events are missing from the journal or reported as lost; the highest rate
without loss is what is printed. A run only counts if the journal has caught up within half a
second of the end, so that a ring that merely buffered a burst does not pass for throughput.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench import report
from tests.host.support.daemon import ALLOW_ALL, Daemon, workload
from tests.host.support.processes import become_subreaper

SOURCE = Path(__file__).with_name("connect_flood.c")
TARGET_PER_S = 60_000.0
_QUIET_S = 3.0
_CAUGHT_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the generator; rates are events per second."""

    rate: float
    made: int
    journalled: int
    lost: int
    seconds: float
    drain_s: float

    @property
    def complete(self) -> bool:
        return self.lost == 0 and self.journalled == self.made and self.drain_s <= _CAUGHT_UP_S


def flood(generator: Path, directory: Path, rate: float, seconds: float) -> Run:
    """Start a daemon, confine it to core 0, run the generator on core 1, count the journal."""
    rules = {"workload.yaml": workload("flood", "observe"), "allow.yaml": ALLOW_ALL}
    with Daemon(directory, rules) as daemon:
        for process in daemon.processes():
            process.cpu_affinity([0])
        command = ["taskset", "-c", "1", str(generator), str(rate), str(seconds)]
        done = subprocess.run(
            daemon.run("flood", command), capture_output=True, text=True, check=True
        )
        made, took = done.stdout.split()
        ended = time.time()
        _wait_until_quiet(daemon.journal)
        journalled, lost, last = _count(daemon.journal)
    return Run(rate, int(made), journalled, lost, float(took), max(0.0, last - ended))


def _wait_until_quiet(journal: Path) -> None:
    """Wait until the journal's files have not changed for three seconds."""
    parts = [journal, journal.with_name(journal.name + "-wal")]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        newest = max(part.stat().st_mtime for part in parts if part.exists())
        if time.time() - newest > _QUIET_S:
            return
        time.sleep(0.1)


def _count(journal: Path) -> tuple[int, int, float]:
    """Connect events (with their repeats), lost events, and when the last was journalled."""
    parts = [journal, journal.with_name(journal.name + "-wal")]
    last = max(part.stat().st_mtime for part in parts if part.exists())
    connection = sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True, timeout=10)
    try:
        events = 0
        for (body,) in connection.execute("SELECT body FROM events WHERE class='network.connect'"):
            events += json.loads(body).get("count", 1)
        bodies = connection.execute("SELECT body FROM events WHERE class='loss'").fetchall()
    finally:
        connection.close()
    return events, sum(json.loads(body)["loss"]["count"] for (body,) in bodies), last


def search(generator: Path, root: Path, first: float, seconds: float) -> list[Run]:
    """Raise the rate by a quarter until a run is incomplete, then halve the gap three times."""
    runs: list[Run] = []

    def attempt(rate: float) -> bool:
        run = flood(generator, root / f"{len(runs)}", rate, seconds)
        runs.append(run)
        print(f"  {rate:9,.0f}/s: made {run.made:,}, journalled {run.journalled:,}, "
              f"lost {run.lost:,}, caught up in {run.drain_s:.2f} s", flush=True)  # fmt: skip
        return run.complete

    good, rate = 0.0, first
    while attempt(rate):
        good, rate = rate, rate * 1.25
    bad = rate
    for _ in range(3):
        middle = (good + bad) / 2
        if attempt(middle):
            good = middle
        else:
            bad = middle
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=float, default=30_000, help="events per second to start at")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run")
    options = parser.parse_args()
    become_subreaper()
    report.disturb_less()
    if (os.cpu_count() or 1) < 2 or len(psutil.Process().cpu_affinity()) < 2:
        raise SystemExit("ingest: needs two cores, one for the daemon and one for the generator")
    with tempfile.TemporaryDirectory() as directory:
        generator = Path(directory, "connect_flood")
        subprocess.run(["clang", "-O2", "-o", str(generator), str(SOURCE)], check=True)
        print("Ring to journal, one core:")
        runs = search(generator, Path(directory), options.first, options.seconds)
    best = max((run.made / run.seconds for run in runs if run.complete), default=0.0)
    print(report.verdict("events/s at zero loss", best, TARGET_PER_S, "events/s", at_least=True))
    report.save("ingest", {"runs": [asdict(run) for run in runs], "best_per_s": best})


if __name__ == "__main__":
    main()
