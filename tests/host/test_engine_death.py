"""kill -9 of the engine, of the supervisor: nothing stays stopped, nothing slips through."""

import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.host.support.control import ControlClient
from tests.host.support.daemon import Daemon, workload
from tests.host.support.processes import wait_until
from tests.host.support.stdio_client import StdioClient

MINI = [sys.executable, "-SE", str(Path(__file__).parent / "support" / "mini_server.py")]
KILLS = 200
RELEASED_WITHIN_S = 1.0
ANSWERED_WITHIN_S = 2.0
HANGS_S = 11.0


def _rule(name: str, action: str, **fields: Any) -> dict[str, Any]:
    match = {"tool": "write", "arguments": {"path": f"*/{name}-*"}}
    rule = {"id": name, "on": "mcp.tool_call", "match": match, "action": action, "reason": "r"}
    return rule | fields


RULES = {
    "rules": [
        _rule("deny", "deny"),
        _rule("hold", "hold", approve={"timeout": "200ms", "on_timeout": "allow"}),
    ]
}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    rules = {
        "closed.yaml": workload("closed", on_failure="deny"),
        "open.yaml": workload("open", on_failure="allow"),
        "rules.yaml": RULES,
    }
    started = Daemon(tmp_path / "agentd", rules)
    started.start()
    yield started
    with suppress(AssertionError):
        started.stop()


def judging(daemon: Daemon, within: float = 10.0) -> psutil.Process:
    """The engine, once it answers and is not the one that was killed."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with suppress(OSError, psutil.Error, ValueError):
            with ControlClient(daemon.socket, timeout=0.5) as control:
                pid = control.request("ping")["pid"]
            engine = daemon.engine()
            if engine is not None and engine.pid == pid:
                return engine
        time.sleep(0.01)
    raise AssertionError(f"no engine within {within} s: {daemon.tail()}")


class Caller(threading.Thread):
    """One client that calls its server without a pause, and checks every answer."""

    def __init__(self, client: StdioClient, directory: Path, on_failure: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self.slowest_s = 0.0
        self._directory = directory
        self._on_failure = on_failure
        self._random = random.Random(seed)
        self.end = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.end.is_set() and not self.wrong:
            number += 1
            kind = self._random.choice(["allow", "allow", "deny", "deny", "hold"])
            try:
                self._call(kind, self._directory / f"{kind}-{number}")
            except (OSError, ValueError, KeyError) as error:
                self.wrong.append(f"{kind}: {error!r}")

    def _call(self, kind: str, path: Path) -> None:
        started = time.monotonic()
        answer = self.client.call("write", {"path": str(path), "content": "x", "pad": "p" * 60})
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        refused = "error" in answer or bool(answer["result"].get("isError"))
        text = str(answer)
        outcome = "done"
        if refused:
            outcome = "engine-down" if "denied-by-agentd: engine-down" in text else "refused"
            if "denied-by-agentd: " not in text:
                self.wrong.append(f"{kind}: {text}")
        self.outcomes[kind, outcome] += 1
        if path.exists() == refused:
            self.wrong.append(f"{kind}: told {outcome}, and the file says otherwise")
        if kind == "deny" and not refused and self._on_failure == "deny":
            self.wrong.append("a denied call had its effect")
        if kind != "deny" and outcome == "refused":
            self.wrong.append(f"{kind}: refused by a rule")
        if refused and outcome == "engine-down" and self._on_failure == "allow":
            self.wrong.append("refused although its workload says allow")
        with suppress(FileNotFoundError):
            path.unlink()


class Watcher(threading.Thread):
    """Looks every 20 ms at who is stopped, and for how long without a moment of running."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self.longest_s = 0.0
        self.end = threading.Event()
        self._processes = [psutil.Process(pid) for pid in pids]

    def run(self) -> None:
        since: dict[int, tuple[float, int]] = {}
        while not self.end.wait(0.02):
            now = time.monotonic()
            for process in self._processes:
                with suppress(psutil.Error):
                    ran = process.num_ctx_switches().voluntary
                    if process.status() != psutil.STATUS_STOPPED:
                        since.pop(process.pid, None)
                        continue
                    first, at = since.setdefault(process.pid, (now, ran))
                    if at != ran:
                        since[process.pid] = (now, ran)
                    else:
                        self.longest_s = max(self.longest_s, now - first)


def stopped_below_us() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                found.append(process)
    return found


def servers(daemon: Daemon, stack: ExitStack, names: list[str]) -> list[StdioClient]:
    clients = []
    for name in names:
        client = StdioClient(daemon.run(name, MINI), timeout=ANSWERED_WITHIN_S)
        clients.append(stack.enter_context(client))
        client.timeout = 10.0
        client.initialize()
        client.timeout = ANSWERED_WITHIN_S
    return clients


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_engine_killed_two_hundred_times(daemon: Daemon, tmp_path: Path) -> None:
    names = ["closed", "closed", "closed", "open", "open"]
    chance = random.Random(7)
    kills = 0
    with ExitStack() as stack:
        clients = servers(daemon, stack, names)
        callers = []
        for number, (name, client) in enumerate(zip(names, clients, strict=True)):
            directory = tmp_path / f"files{number}"
            directory.mkdir()
            on_failure = "allow" if name == "open" else "deny"
            callers.append(Caller(client, directory, on_failure, number))
        watcher = Watcher(
            [int(client.call("pid")["result"]["content"][0]["text"]) for client in clients]
        )
        threads: list[Caller | Watcher] = [*callers, watcher]
        for thread in threads:
            thread.start()
        while kills < KILLS and not any(caller.wrong for caller in callers):
            engine = judging(daemon)
            time.sleep(chance.uniform(0, 0.15))
            engine.kill()
            kills += 1
            engine.wait(10)
        judging(daemon)
        time.sleep(0.5)
        for thread in threads:
            thread.end.set()
        for thread in threads:
            thread.join(10)
        outcomes = sum((caller.outcomes for caller in callers), Counter[tuple[str, str]]())
        slowest = max(caller.slowest_s for caller in callers)
        print(f"{kills} kills, {outcomes}, slowest {slowest:.2f} s, stop {watcher.longest_s:.2f} s")
        assert [caller.wrong for caller in callers] == [[]] * len(callers)
        assert kills == KILLS
        assert slowest < ANSWERED_WITHIN_S
        assert watcher.longest_s < RELEASED_WITHIN_S
        assert not stopped_below_us()
        assert daemon.request("holds")["holds"] == []
        for what in (("allow", "done"), ("deny", "refused"), ("deny", "engine-down")):
            assert outcomes[what] > KILLS // 10, what
        assert outcomes["deny", "done"] > 0  # of the workload that says on_failure: allow


@pytest.mark.parametrize("kind", ["allow", "deny"])
@pytest.mark.parametrize("at", [1, 30, 120, -2, -1])
def test_engine_killed_inside_a_message(daemon: Daemon, tmp_path: Path, kind: str, at: int) -> None:
    """Whoever judges the rest has not seen the beginning: nothing of it may be executed."""
    with ExitStack() as stack:
        (client,) = servers(daemon, stack, ["closed"])
        path = tmp_path / f"{kind}-1"
        data = (
            b'{"jsonrpc":"2.0","id":"s","method":"tools/call","params":{"name":"write",'
            b'"arguments":{"path":"%s","content":"x","pad":"%s"}}}\n' % (bytes(path), b"p" * 60)
        )
        client.send_raw(data[:at])
        time.sleep(0.1)
        engine = judging(daemon)
        engine.kill()
        engine.wait(2)
        judging(daemon)
        client.send_raw(data[at:])
        client.timeout = 10.0
        assert "pong" in str(client.call("echo", {"text": "pong"}))
        seen_whole_before = at == -1 and kind == "allow"
        assert path.exists() == seen_whole_before


def test_a_damaged_journal_costs_no_session(daemon: Daemon, tmp_path: Path) -> None:
    """The new engine begins another journal, and goes on judging those that were judged."""
    with ExitStack() as stack:
        (client,) = servers(daemon, stack, ["closed"])
        path = tmp_path / "deny-1"
        call = {"path": str(path), "content": "x", "pad": "p" * 60}
        assert "denied-by-agentd: deny" in str(client.call("write", call))
        before = [found["sessions"] for found in daemon.request("ps")["workloads"]]
        for name in ("journal.db", "journal.db-wal"):
            part = daemon.state_dir / name
            with part.open("r+b") as file:
                file.write(b"\xff" * part.stat().st_size)
        judging(daemon).kill()
        judging(daemon)
        assert list(daemon.state_dir.glob("journal.db.broken-*"))
        assert "denied-by-agentd: deny" in str(client.call("write", call))
        assert not path.exists()
        after = [found["sessions"] for found in daemon.request("ps")["workloads"]]
        assert [[one["id"] for one in each] for each in after] == [
            [one["id"] for one in each] for each in before
        ]
        daemon.wait_for(
            lambda event: event["class"] == "loss" and event["loss"]["source"] == "journal.broken"
        )


@pytest.mark.parametrize("name", ["closed", "open"])
def test_an_engine_that_hangs_while_a_call_is_held(
    daemon: Daemon, tmp_path: Path, name: str
) -> None:
    """It is killed, what it held is released as configured, and another one judges."""
    with ExitStack() as stack:
        (client,) = servers(daemon, stack, [name])
        client.timeout = HANGS_S + ANSWERED_WITHIN_S
        engine = judging(daemon)
        engine.suspend()
        stack.callback(_resume, engine)
        path = tmp_path / "deny-1"
        answer = client.call("write", {"path": str(path), "content": "x", "pad": "p" * 60})
        assert path.exists() == (name == "open")
        assert ("denied-by-agentd: engine-down" in str(answer)) == (name == "closed")
        assert judging(daemon).pid != engine.pid
        assert "denied-by-agentd: deny" in str(
            client.call("write", {"path": str(path), "content": "x", "pad": "p" * 60})
        )
    assert "has not answered for 10 s" in daemon.tail()


def _resume(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()


def _killed(daemon: Daemon) -> list[dict[str, Any]]:
    losses = [event["loss"] for event in daemon.events("loss")]
    return [loss for loss in losses if loss["source"] == "engine.killed"]


def test_what_a_killed_engine_had_in_memory_is_told_as_a_loss(daemon: Daemon) -> None:
    """Once for each that is killed, whether the supervisor lives or not; never for a clean end."""
    daemon.stop(unload=False)
    daemon.start()
    assert not _killed(daemon)
    for count in (1, 2):
        judging(daemon).kill()
        wait_until(lambda n=count: len(_killed(daemon)) == n, 5, "a loss")
    assert {loss["count"] for loss in _killed(daemon)} == {0}
    processes = daemon.processes()
    for process in (*processes[1:], processes[0]):
        process.suspend()
    for process in processes:
        process.kill()
    daemon.forget()
    daemon.start()
    wait_until(lambda: len(_killed(daemon)) == 3, 5, "a loss")
    daemon.stop()
    daemon.start()
    daemon.stop()
    assert len(_killed(daemon)) == 3


def test_an_engine_that_could_not_write_its_last_events_leaves_a_loss(daemon: Daemon) -> None:
    before = judging(daemon).pid
    with closing(sqlite3.connect(daemon.journal)) as other:
        other.execute("BEGIN IMMEDIATE")
        daemon.stop(unload=False)
    ends = daemon.events("daemon.stop", daemon={"pid": before})
    daemon.start()
    wait_until(lambda: len(_killed(daemon)) == 1, 5, "a loss")
    assert not ends


def test_a_killed_engine_gives_no_hold_id_that_was_given_out(
    daemon: Daemon, tmp_path: Path
) -> None:
    long = _rule("wait", "hold", approve={"timeout": "60s", "on_timeout": "deny"})
    daemon.write_rules("long.yaml", {"rules": [long]})
    wait_until(lambda: daemon.request("reload")["rules"] == 3, 5, "three rules")
    ids: list[str] = []
    with ExitStack() as stack:
        (client,) = servers(daemon, stack, ["closed"])
        for number in range(3):
            client.send_raw(
                b'{"jsonrpc":"2.0","id":"w","method":"tools/call","params":{"name":"write",'
                b'"arguments":{"path":"%s/wait-%d","content":"x","pad":"%s"}}}\n'
                % (bytes(tmp_path), number, b"p" * 60)
            )
            wait_until(lambda: len(daemon.request("holds")["holds"]) == 1, 5, "a held call")
            ids.append(daemon.request("holds")["holds"][0]["id"])
            judging(daemon).kill()
            assert "denied-by-agentd: engine-down" in str(client.read())
            judging(daemon)
    assert len(set(ids)) == len(ids), ids
    daemon.stop()
    numbers = [event["decision"]["hold_id"] for event in daemon.events("hold.open")]
    assert len(set(numbers)) == len(numbers), numbers


@pytest.mark.parametrize("name", ["closed", "open"])
def test_supervisor_killed_while_a_call_is_held(daemon: Daemon, tmp_path: Path, name: str) -> None:
    """The engine notices, and releases with the configured verdict before it ends."""
    long = _rule("wait", "hold", approve={"timeout": "60s", "on_timeout": "deny"})
    daemon.write_rules("long.yaml", {"rules": [long]})
    wait_until(lambda: daemon.request("reload")["rules"] == 3, 5, "three rules")
    with ExitStack() as stack:
        (client,) = servers(daemon, stack, [name])
        path = tmp_path / "wait-1"
        client.send_raw(
            b'{"jsonrpc":"2.0","id":"w","method":"tools/call","params":{"name":"write",'
            b'"arguments":{"path":"%s","content":"x","pad":"%s"}}}\n' % (bytes(path), b"p" * 60)
        )
        wait_until(lambda: len(daemon.request("holds")["holds"]) == 1, 5, "a held call")
        processes = daemon.processes()
        os.kill(daemon.pid, signal.SIGKILL)
        answer = client.read()
        assert answer["id"] == "w"
        assert path.exists() == (name == "open")
        assert ("denied-by-agentd: engine-down" in str(answer)) == (name == "closed")
        _, alive = psutil.wait_procs(processes[1:], 5)
        assert not alive
        assert not stopped_below_us()
    daemon._process.wait()  # type: ignore[union-attr]
    daemon.start()
