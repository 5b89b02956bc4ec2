"""What the ring cannot take is counted and told; the journal's numbers have no gap."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.host.support.daemon import Daemon, every_write_told, workload
from tests.host.support.labelled import python

RULES = {"w.yaml": workload("tested"), "rules.yaml": every_write_told("tested")}
FILES = 6000
"""In a deep place: each makes a record of more than 1 KiB, together more than the ring takes."""
DEEP = """
import os, sys
os.chdir(sys.argv[1])
for each in range(10):
    os.mkdir("d" * 120)
    os.chdir("d" * 120)
"""


def test_ring_overrun(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start_daemon(rules=RULES)
    code = (
        DEEP
        + f"""
sys.stdin.readline()
for number in range({FILES}):
    os.close(os.open("f%d" % number, os.O_WRONLY | os.O_CREAT))
print("done", flush=True)
sys.stdin.readline()
"""
    )
    engine = daemon.request("ping")["pid"]
    assert engine in {process.pid for process in daemon.processes()}
    labelled = python(daemon, code, tmp_path)
    labelled.wait_for(lambda event: event["class"] == "process.exec")
    os.kill(engine, signal.SIGSTOP)
    try:
        assert labelled.process.stdin is not None
        assert labelled.process.stdout is not None
        labelled.process.stdin.write(b"\n")
        labelled.process.stdin.flush()
        assert labelled.process.stdout.readline() == b"done\n"
    finally:
        os.kill(engine, signal.SIGCONT)
    assert labelled.finish(b"\n", timeout=60) == 0

    daemon.wait_for(lambda e: e["class"] == "loss" and e.get("workload") == "tested")
    losses = [event for event in daemon.events("loss") if event.get("workload") == "tested"]
    assert {event["loss"]["source"] for event in losses} == {"kernel.ring"}
    lost = sum(event["loss"]["count"] for event in losses)
    told = len(labelled.events("file.open"))
    totals = labelled.events("session.end")[0]["totals"]
    assert totals["file.open"] == FILES
    assert 0 < lost < FILES + 100
    assert told + lost >= FILES
    sequence = [event["seq"] for event in daemon.events()]
    assert sequence == list(range(1, len(sequence) + 1))


def test_loss_of_a_session_that_has_ended(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Its last records are lost together with its exit: it ends, and the loss is told."""
    daemon = start_daemon(rules=RULES)
    code = (
        DEEP
        + f"""
sys.stdin.readline()
for number in range({FILES}):
    os.close(os.open("f%d" % number, os.O_WRONLY | os.O_CREAT))
"""
    )
    engine = daemon.request("ping")["pid"]
    labelled = python(daemon, code, tmp_path)
    labelled.wait_for(lambda event: event["class"] == "process.exec")
    os.kill(engine, signal.SIGSTOP)
    try:
        assert labelled.process.stdin is not None
        labelled.process.stdin.write(b"\n")
        labelled.process.stdin.flush()
        labelled.process.wait(60)
    finally:
        os.kill(engine, signal.SIGCONT)
    labelled.finish()
    daemon.wait_for(lambda e: e["class"] == "loss" and e.get("workload") == "tested")
    assert daemon.request("ps")["workloads"][0]["sessions"] == []
