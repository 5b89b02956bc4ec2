"""Who writes to a channel wakes the engine, and does not notice that it waits there."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agentd.daemon.anticipation import leaves_room
from tests.host.conftest import StartDaemon
from tests.host.support.daemon import ALLOW_ALL, Daemon, workload
from tests.host.support.processes import wait_until
from tests.host.support.stdio_client import StdioClient

MINI = [sys.executable, "-SE", str(Path(__file__).parent / "support" / "mini_server.py")]
WRITES = 40
PAUSE_S = 0.01


@pytest.fixture(params=[1500, 0], ids=["as shipped", "no linger"])
def daemon(request: pytest.FixtureRequest, start_daemon: StartDaemon) -> Daemon:
    return start_daemon(
        rules={"w.yaml": workload("tested"), "r.yaml": ALLOW_ALL},
        settings={"hold_linger_us": request.param},
    )


@pytest.fixture
def client(daemon: Daemon) -> Iterator[StdioClient]:
    with StdioClient(daemon.run("tested", MINI), timeout=10) as client:
        client.initialize()
        yield client


def server_of(client: StdioClient) -> psutil.Process:
    return psutil.Process(int(client.call("pid")["result"]["content"][0]["text"]))


def test_a_write_wakes_the_engine(
    daemon: Daemon, client: StdioClient, request: pytest.FixtureRequest
) -> None:
    """The server is stopped, so that nothing else tells of what is written."""
    engine, server = daemon.engine(), server_of(client)
    assert engine is not None
    server.suspend()
    try:
        wait_until(lambda: server.status() == psutil.STATUS_STOPPED, 5, "the server stops")
        time.sleep(0.3)  # what came before is taken in
        before = engine.num_ctx_switches().voluntary
        for _ in range(WRITES):
            client.send_raw(b" ")
            time.sleep(PAUSE_S)
        woken = engine.num_ctx_switches().voluntary - before
    finally:
        server.resume()
    assert (woken >= WRITES // 2) == ("as shipped" in request.node.name)
    assert "result" in client.call("pid")


def test_a_server_that_ends_is_missed_at_once(client: StdioClient) -> None:
    """A descriptor that the engine kept would let the client write to nobody."""
    server = server_of(client)
    server.kill()
    wait_until(lambda: not server.is_running() or server.status() == "zombie", 5, "its end")
    with pytest.raises(BrokenPipeError):
        client.send_raw(b" ")


@pytest.mark.parametrize("cpus", [1, None], ids=["one for the server", "all for the server"])
def test_it_polls_only_where_a_cpu_is_left(start_daemon: StartDaemon, cpus: int | None) -> None:
    daemon = start_daemon(
        rules={"w.yaml": workload("tested"), "r.yaml": ALLOW_ALL},
        settings={"hold_linger_us": 10_000},
    )
    engine, allowed = daemon.engine(), os.sched_getaffinity(0)
    assert engine is not None
    wanted = set(sorted(allowed)[:cpus])
    with StdioClient(daemon.run("tested", MINI), timeout=10) as client:
        client.initialize()
        os.sched_setaffinity(server_of(client).pid, wanted)
        before, begun = sum(engine.cpu_times()[:2]), time.monotonic()
        for _ in range(WRITES):
            assert "result" in client.call("echo", {"text": "a"})
            time.sleep(1.5 * PAUSE_S)
        share = (sum(engine.cpu_times()[:2]) - before) / (time.monotonic() - begun)
    assert (share > 0.25) == leaves_room(allowed, wanted), share
