"""However long a held task waits before it is stopped, its verdict is carried out, once.

0 stops it at once, 1000 us lets nearly every verdict come before the stop, 50 us makes the two
race: some tasks see the verdict, some are stopped while it is given.
"""

import ctypes
import mmap
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentd.kernel.bpfcall import MAP_ARRAY, MAP_RINGBUF
from agentd.kernel.wire import Enforcing
from tests.host.conftest import StartDaemon
from tests.host.support.bpf_maps import map_fd
from tests.host.support.daemon import Daemon, Document, workload
from tests.host.support.processes import wait_until
from tests.host.support.stdio_client import StdioClient

MINI = [sys.executable, "-SE", str(Path(__file__).parent / "support" / "mini_server.py")]
CALL = (
    b'{"jsonrpc":"2.0","id":"a","method":"tools/call",'
    b'"params":{"name":"echo","arguments":{"text":"a"}}}\n'
)
SERVERS = 4
CALLS = 150
HOLD_RING_BYTES = 256 * 1024  # bpf/include/maps.h
RULES: Document = {
    "rules": [
        {"id": "allow-all", "on": "mcp.tool_call", "action": "allow"},
        {
            "id": "no-denied",
            "on": "mcp.tool_call",
            "match": {"tool": "write", "arguments": {"path": "*/denied*"}},
            "action": "deny",
        },
    ]
}


def write(client: StdioClient, path: Path) -> dict[str, Any]:
    return client.call("write", {"path": str(path), "content": "x"})


@pytest.mark.parametrize("wait_us", [0, 50, 1000])
def test_every_verdict_is_carried_out(
    start_daemon: StartDaemon, tmp_path: Path, wait_us: int
) -> None:
    daemon = start_daemon(
        rules={"w.yaml": workload("tested"), "r.yaml": RULES}, settings={"hold_wait_us": wait_us}
    )
    problems: list[str] = []

    def work(number: int) -> None:
        try:
            with StdioClient(daemon.run("tested", MINI), timeout=10) as client:
                client.initialize()
                for call in range(CALLS):
                    kind = "denied" if call % 3 == 0 else "fine"
                    path = tmp_path / f"{kind}-{number}-{call}"
                    answer = write(client, path)
                    failed = "error" in answer or answer["result"].get("isError", False)
                    if failed != (kind == "denied") or path.exists() != (kind == "fine"):
                        problems.append(f"{path.name}: {answer}")
        except Exception as error:  # noqa: BLE001 (told by the assertion below)
            problems.append(f"server {number}: {error!r}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(SERVERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not problems
    mine = psutil.Process().children(recursive=True)
    assert not [child for child in mine if child.status() == psutil.STATUS_STOPPED]
    judged: list[dict[str, Any]] = []

    def journalled() -> bool:
        judged[:] = [
            event["decision"]
            for event in daemon.events("mcp.request")
            if event["mcp"].get("tool") == "write"
        ]
        return len(judged) >= SERVERS * CALLS

    wait_until(journalled, 10, "every call in the journal")
    assert len(judged) == SERVERS * CALLS
    assert all(decision["before_effect"] for decision in judged)


@pytest.mark.parametrize(("length", "looked"), [(10, False), (2000, True)])
def test_a_short_message_comes_with_its_hold(
    start_daemon: StartDaemon, tmp_path: Path, length: int, looked: bool
) -> None:
    """Only for a longer one the engine looks into its reader's memory."""
    daemon = start_daemon(rules={"w.yaml": workload("tested"), "r.yaml": RULES})
    engine = daemon.engine()
    assert engine is not None
    looks = tmp_path / "looks"
    with StdioClient(daemon.run("tested", MINI), timeout=10) as client:
        client.initialize()
        tracer = subprocess.Popen(
            ["strace", "-q", "-e", "process_vm_readv", "-o", str(looks), "-p", str(engine.pid)],
            stderr=subprocess.DEVNULL,
        )
        try:
            status = Path(f"/proc/{engine.pid}/status")
            wait_until(
                lambda: f"TracerPid:\t{tracer.pid}" in status.read_text(), 5, "strace to attach"
            )
            for _ in range(5):
                assert "result" in client.call("echo", {"text": "a" * length})
        finally:
            tracer.terminate()
            tracer.wait(10)
    assert ("process_vm_readv" in looks.read_text()) == looked


def enforcing_words(daemon: Daemon) -> memoryview:
    """The kernel's `struct enforcing`, mapped; item n is at offset 8 n."""
    fd = map_fd(daemon, MAP_ARRAY, 4, ctypes.sizeof(Enforcing), 1)
    memory = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    os.close(fd)
    return memoryview(memory).cast("Q")


def test_a_heartbeat_from_another_cpu_ends_no_hold(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """The clock may have been read before the beat: then the beat lies in the future."""
    daemon = start_daemon(rules={"w.yaml": workload("tested"), "r.yaml": RULES})
    words = enforcing_words(daemon)
    over = threading.Event()

    def beat_ahead() -> None:
        while not over.is_set():
            ahead = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 1_000_000_000
            words[Enforcing.alive_ns.offset // 8] = ahead
            over.wait(0.0001)

    beats = threading.Thread(target=beat_ahead)
    beats.start()
    try:
        with StdioClient(daemon.run("tested", MINI), timeout=10) as client:
            client.initialize()
            for call in range(CALLS):
                assert "result" in write(client, tmp_path / f"fine-{call}")
    finally:
        over.set()
        beats.join()


def test_only_an_engine_that_sleeps_is_woken(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """It is stopped here, so that it finds no hold by itself; what it has said is written over."""
    daemon = start_daemon(rules={"w.yaml": workload("tested"), "r.yaml": RULES})
    words = enforcing_words(daemon)
    ring = map_fd(daemon, MAP_RINGBUF, 0, 0, HOLD_RING_BYTES)
    engine = daemon.engine()
    assert engine is not None
    with select.epoll() as poll, StdioClient(daemon.run("tested", MINI), timeout=10) as client:
        poll.register(ring, select.EPOLLIN | select.EPOLLET)
        client.initialize()
        server = psutil.Process(int(client.call("pid")["result"]["content"][0]["text"]))
        for asleep in (False, True):
            engine.suspend()
            try:
                wait_until(lambda: engine.status() == psutil.STATUS_STOPPED, 5, "the engine stops")
                words[Enforcing.awake.offset // 8] = not asleep
                poll.poll(0)  # what woke it before
                client.send_raw(CALL)
                wait_until(lambda: server.status() == psutil.STATUS_STOPPED, 5, "the call is held")
                assert bool(poll.poll(0.1)) == asleep
            finally:
                engine.resume()
            assert "result" in client.read()
    os.close(ring)
