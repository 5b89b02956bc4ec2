"""The publisher under its supervisor: at once again after a crash, patient where it cannot work."""

import time
from contextlib import suppress

import psutil

from tests.host.conftest import StartDaemon
from tests.host.support.daemon import Daemon
from tests.host.support.nats import NatsServer
from tests.host.support.processes import wait_until
from tests.host.support.streaming import change_stream, stored

WATCHED_S = 8.0
ENDED = "agentd: publisher ended with status"


def publisher(daemon: Daemon) -> psutil.Process | None:
    for child in psutil.Process(daemon.pid).children():
        with suppress(psutil.Error):
            if "agentd.stream" in child.cmdline():
                return child
    return None


def test_one_that_cannot_work_is_not_started_without_end(start_daemon: StartDaemon) -> None:
    settings = {"nats": {"servers": ["nats://127.0.0.1:1"], "credentials": "/nonexistent/creds"}}
    daemon = start_daemon(settings=settings)
    wait_until(lambda: ENDED in daemon.tail(), 5, "an end")
    time.sleep(WATCHED_S)
    lines = daemon.tail(1000).splitlines()
    assert len([line for line in lines if line.startswith(ENDED)]) == 1
    said = [line for line in lines if line.startswith("agentd-publisher: ")]
    assert 2 <= len(said) <= 6, said


def test_one_that_is_killed_comes_back_at_once(
    start_daemon: StartDaemon, nats_server: NatsServer
) -> None:
    change_stream(nats_server.url)
    daemon = start_daemon(settings={"nats": {"servers": [nats_server.url]}})
    wait_until(lambda: len(stored(nats_server.url)) > 0, 10, "the first events")
    before = publisher(daemon)
    assert before is not None
    before.kill()
    begun = time.monotonic()
    wait_until(lambda: publisher(daemon) not in {None, before}, 5, "another publisher")
    assert time.monotonic() - begun < 0.5
    assert f"{ENDED} -9" in daemon.tail()
