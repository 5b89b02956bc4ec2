"""Fixtures for tests that run the real daemon on the real kernel."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.host.support.daemon import ALLOW_ALL, Daemon, workload
from tests.host.support.nats import NatsServer

WORKLOAD = "tested"
StartDaemon = Callable[..., Daemon]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("host")


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """A function that starts a daemon (arguments as `Daemon`'s, without the directory)."""
    with ExitStack() as stack:
        started = 0

        def start(**arguments: object) -> Daemon:
            nonlocal started
            started += 1
            daemon = Daemon(tmp_path / f"agentd{started}", **arguments)  # type: ignore[arg-type]
            return stack.enter_context(daemon)

        yield start


@pytest.fixture
def agentd_daemon(start_daemon: StartDaemon) -> Daemon:
    """A daemon with one enforced workload, named `tested`, and a rule that allows everything."""
    return start_daemon(rules={"workload.yaml": workload(WORKLOAD), "allow.yaml": ALLOW_ALL})


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A running nats-server with JetStream on a free loopback port."""
    with NatsServer(tmp_path / "nats") as server:
        yield server
