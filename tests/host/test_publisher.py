"""The publisher against a real nats-server: every event once, in order, without privileges."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agentd.events import store
from agentd.stream.state import StateDir
from tests.host.support.nats import NatsServer
from tests.host.support.processes import reap_orphans, wait_until
from tests.host.support.streaming import (
    HOST,
    REPOSITORY,
    Pipeline,
    Producer,
    assert_exactly_once,
    change_stream,
    delete_stream,
    stored,
)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_events_arrive_with_subject_and_id_from_a_process_without_privileges(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        pipeline.add(1000)
        process = pipeline.start()
        wait_until(pipeline.delivered, 15, "delivery")
        found = status(process.pid)
        assert "0" not in found["Uid"].split()
        assert "0" not in found["Gid"].split()
        assert found["Groups"] == ""
        assert found["NoNewPrivs"] == "1"
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(found[kind], 16) == 0, kind
        assert Path(f"/proc/{process.pid}/fd").stat().st_uid == 0, "not dumpable"
        assert int(found["VmRSS"].split()[0]) < 32 * 1024
        assert pipeline.stop() == 0
        events = stored(nats_server.url)
        assert_exactly_once(events, 1000)
        assert {subject for subject, _ in events} == {
            f"agentd.v1.{HOST}.{workload}.{cls}"
            for workload in ("ci-bot", "_")
            for cls in ("file.open", "mcp.request")
        }
        assert StateDir(pipeline.state_dir).load().floor == 1000


def test_a_new_event_arrives_at_once(nats_server: NatsServer, tmp_path: Path) -> None:
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        pipeline.add(1)
        pipeline.start()
        wait_until(pipeline.delivered, 15, "delivery")
        waits = []
        for _ in range(10):
            time.sleep(0.05)
            begun = time.monotonic()
            pipeline.add(1)
            count = pipeline.seq
            wait_until(lambda n=count: len(stored(nats_server.url)) == n, 5, "arrival")
            waits.append(time.monotonic() - begun)
        assert sorted(waits)[5] < 0.15  # most of it is the check, a new connection


def test_three_outages_leave_no_gap_and_no_duplicate(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    change_stream(nats_server.url, duplicate_window=100_000_000)
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        pipeline.start()
        with Producer(pipeline, 4000):
            for way in ("kill", "stop", "kill"):
                time.sleep(0.6)
                getattr(nats_server, way)()
                time.sleep(0.7)
                nats_server.start()
                time.sleep(0.8)
        wait_until(pipeline.delivered, 30, "delivery")
        assert pipeline.stop() == 0
        assert_exactly_once(stored(nats_server.url), pipeline.seq)
        said = pipeline.said()
        assert said.count("not streaming") <= 9, said
        assert "cannot reach" in said


@pytest.mark.parametrize("window_ns", [100_000_000, 120_000_000_000])
def test_killed_ten_times_it_neither_repeats_nor_forgets(
    nats_server: NatsServer, tmp_path: Path, window_ns: int
) -> None:
    change_stream(nats_server.url, duplicate_window=window_ns)
    chance = random.Random(7)
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        with Producer(pipeline, 3000):
            for _ in range(10):
                pipeline.start()
                time.sleep(chance.uniform(0.3, 1.1))
                pipeline.kill()
        pipeline.start()
        wait_until(pipeline.delivered, 30, "delivery")
        pipeline.stop()
        assert_exactly_once(stored(nats_server.url), pipeline.seq)


def test_a_lost_state_file_is_no_loss(nats_server: NatsServer, tmp_path: Path) -> None:
    change_stream(nats_server.url, duplicate_window=100_000_000)
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        for _ in range(3):
            pipeline.add(700)
            pipeline.start()
            wait_until(pipeline.delivered, 15, "delivery")
            pipeline.stop()
            (pipeline.state_dir / "state.json").unlink()
        assert_exactly_once(stored(nats_server.url), 2100)


def test_a_deleted_stream_is_made_again_and_goes_on(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        pipeline.start()
        pipeline.add(500)
        wait_until(pipeline.delivered, 15, "delivery")
        delete_stream(nats_server.url)
        pipeline.add(500)
        wait_until(pipeline.delivered, 15, "delivery")
        pipeline.stop()
        numbers = [event["seq"] for _, event in stored(nats_server.url)]
        assert numbers == list(range(501, 1001))
        assert "no stream takes the events" in pipeline.said()


def test_two_hosts_share_a_stream(nats_server: NatsServer, tmp_path: Path) -> None:
    change_stream(nats_server.url, duplicate_window=100_000_000)
    with (
        Pipeline(tmp_path / "a", [nats_server.url]) as one,
        Pipeline(tmp_path / "b", [nats_server.url], host="web-2") as two,
    ):
        one.add(2000)
        two.add(2000)
        for _ in range(3):
            one.start()
            two.start()
            time.sleep(0.5)
            one.kill()
            two.kill()
        one.start()
        two.start()
        wait_until(lambda: one.delivered() and two.delivered(), 20, "delivery")
        one.stop()
        two.stop()
        found = stored(nats_server.url)
        for host in (HOST, "web-2"):
            mine = [event for event in found if event[0].split(".")[2] == host]
            assert_exactly_once(mine, 2000)


def test_an_outage_beyond_the_budget_is_told_as_loss(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    with Pipeline(tmp_path / "p", [nats_server.url], budget=2 << 20) as pipeline:
        pipeline.add(100)
        pipeline.start()
        wait_until(pipeline.delivered, 15, "delivery")
        nats_server.stop()
        for _ in range(40):
            pipeline.add(200)
        nats_server.start()
        wait_until(pipeline.delivered, 30, "delivery")
        pipeline.stop()
        found = [event for _, event in stored(nats_server.url)]
        present = {event["seq"] for event in found}
        assert len(present) == len(found)
        missing = set(range(1, pipeline.seq + 1)) - present
        assert missing
        told: set[int] = set()
        for event in found:
            for part in event.get("loss", {}).get("ranges", ()):
                told.update(range(part["first"], part["last"] + 1))
        assert missing <= told


def test_an_event_too_large_for_the_server_does_not_stop_the_others(
    tmp_path: Path,
) -> None:
    with (
        NatsServer(tmp_path / "nats", "max_payload: 4096") as server,
        Pipeline(tmp_path / "p", [server.url]) as pipeline,
    ):
        pipeline.start()
        pipeline.add(1)
        pipeline.add(1, pad=10_000)
        pipeline.add(1)
        wait_until(pipeline.delivered, 15, "delivery")
        pipeline.stop()
        events = [event for _, event in stored(server.url)]
        assert [event["seq"] for event in events] == [1, 2, 3]
        assert events[1]["truncated"]["bytes"] > 10_000


def test_an_event_too_large_for_the_stream_does_not_stop_the_others(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    change_stream(nats_server.url, max_msg_size=2000)
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        pipeline.add(1)
        pipeline.add(1, pad=10_000)
        pipeline.add(1)
        pipeline.start()
        wait_until(pipeline.delivered, 15, "delivery")
        pipeline.stop()
        events = [event for _, event in stored(nats_server.url)]
        assert [event["seq"] for event in events] == [1, 2, 3]
        assert events[1]["truncated"]["bytes"] > 10_000


def test_a_decision_too_large_for_the_server_does_not_stop_the_others(tmp_path: Path) -> None:
    with (
        NatsServer(tmp_path / "nats", "max_payload: 1024") as server,
        Pipeline(tmp_path / "p", [server.url]) as pipeline,
    ):
        decision = {"verdict": "deny", "rules": ["r"], "reason": "x" * 2000}
        pipeline.journal.append(
            "mcp.request", time.time_ns(), "ci-bot", "s", {"decision": decision}, "deny", ["r"]
        )
        pipeline.add(1)
        pipeline.start()
        wait_until(pipeline.delivered, 15, "delivery")
        pipeline.stop()
        first, second = (event for _, event in stored(server.url))
        assert first["decision"] == {"verdict": "deny"}
        assert second["seq"] == 2


def test_a_state_that_cannot_be_saved_is_told_and_streaming_goes_on(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    change_stream(nats_server.url)
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        (pipeline.state_dir / "state.json.new").mkdir(parents=True)
        pipeline.start()
        for count in range(1, 6):
            pipeline.add(100)
            wait_until(lambda n=count: len(stored(nats_server.url)) == 100 * n, 15, "arrival")
            time.sleep(0.3)
        assert pipeline.said().count("the state cannot be saved: Is a directory") == 1
        assert "not streaming" not in pipeline.said()
        pipeline.kill()
        (pipeline.state_dir / "state.json.new").rmdir()
        pipeline.start()
        wait_until(pipeline.delivered, 15, "delivery")
        pipeline.stop()
        assert_exactly_once(stored(nats_server.url), pipeline.seq)


def test_it_ends_when_told(nats_server: NatsServer, tmp_path: Path) -> None:
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        pipeline.start()
        pipeline.add(1)
        wait_until(pipeline.delivered, 15, "delivery")
        begun = time.monotonic()
        assert pipeline.stop() == 0
        assert time.monotonic() - begun < 1.0


def test_it_dies_with_its_parent(nats_server: NatsServer, tmp_path: Path) -> None:
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        pipeline.add(1)
        config = tmp_path / "config.json"
        config.write_text(json.dumps(pipeline.config.to_json()))
        code = (
            "import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-m', 'agentd.stream', '--config-json',"
            " sys.argv[1]])\n"
            "print(child.pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", code, str(config)], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(pipeline.delivered, 15, "delivery")
        parent.kill()
        parent.wait()
        parent.stdout.close()
        wait_until(lambda: not psutil.pid_exists(child) or ended(child), 5, "end")


def ended(pid: int) -> bool:
    reap_orphans()
    return not psutil.pid_exists(pid) or status(pid)["State"].startswith("Z")


def test_a_replaced_journal_makes_it_ask_for_a_new_start(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    with Pipeline(tmp_path / "p", [nats_server.url]) as pipeline:
        process = pipeline.start()
        pipeline.add(1)
        wait_until(pipeline.delivered, 15, "delivery")
        store.set_aside(pipeline.journal.path)
        pipeline.wake()
        assert process.wait(10) == 75
        assert "the journal was replaced" in pipeline.said()
