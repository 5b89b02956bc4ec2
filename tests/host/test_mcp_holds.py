"""Held MCP calls: every verdict, judged by what the client is told and what is on disk."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.host.support import servers
from tests.host.support.daemon import Daemon, Document, workload
from tests.host.support.processes import wait_until
from tests.host.support.stdio_client import StdioClient

Message = dict[str, Any]

MINI = [sys.executable, "-SE", str(Path(__file__).parent / "support" / "mini_server.py")]
REASON = "not in this house"


def rule(name: str, action: str, path: str, **fields: Any) -> Message:
    """A rule on calls of `write` whose path ends in `path`."""
    match = {"tool": "write", "arguments": {"path": f"*/{path}"}}
    return {
        "id": name,
        "on": "mcp.tool_call",
        "match": match,
        "action": action,
        "reason": REASON,
        **fields,
    }


def hold(name: str, path: str, timeout: str = "60s", on_timeout: str = "deny") -> Message:
    return rule(name, "hold", path, approve={"timeout": timeout, "on_timeout": on_timeout})


RULES: Document = {
    "rules": [
        rule("no-denied", "deny", "denied*"),
        rule("kill-it", "kill", "killed", kill="process"),
        rule("kill-all", "kill", "killed-all", kill="session"),
        hold("ask", "held*"),
        hold("ask-then-allow", "late-allow", "300ms", "allow"),
        hold("ask-then-deny", "late-deny", "300ms", "deny"),
        hold("ask-then-kill", "late-kill", "300ms", "kill"),
        {
            "id": "remember",
            "on": "file.open",
            "match": {"path": "**/private", "access": ["write"]},
            "action": "audit",
            "mark": ["wrote:private"],
        },
        rule("no-more", "deny", "afterwards", when='session.has("wrote:private")'),
        {"id": "each", "on": "file.delete", "match": {"path": "**/flood/*"}, "action": "audit"},
    ]
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    rules = {
        "w.yaml": workload("tested"),
        "o.yaml": workload("open", on_failure="allow"),
        "u.yaml": workload("unruled"),
        "r.yaml": {"rules": [each | {"workloads": ["tested", "open"]} for each in RULES["rules"]]},
    }
    with Daemon(tmp_path_factory.mktemp("holds"), rules) as started:
        yield started


@pytest.fixture
def client(daemon: Daemon) -> Iterator[StdioClient]:
    """A client outside the session, its server inside."""
    with StdioClient(daemon.run("tested", MINI), timeout=10) as started:
        started.initialize()
        yield started


def write(client: StdioClient, path: Path) -> Message:
    return client.call("write", {"path": str(path), "content": "x"})


def line(number: Any, path: Path, **extra: Any) -> bytes:
    params = {"name": "write", "arguments": {"path": str(path), "content": "x"} | extra}
    message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


def refused(answer: Message, name: str) -> bool:
    text = json.dumps(answer)
    failed = "error" in answer or answer["result"].get("isError")
    return bool(failed) and f"denied-by-agentd: {name}: {REASON}" in text


def server_pid(client: StdioClient) -> int:
    return int(client.call("pid")["result"]["content"][0]["text"])


def held(daemon: Daemon, count: int = 1) -> list[Message]:
    """The calls that wait, once there are that many."""
    found: list[Message] = []

    def there() -> bool:
        found[:] = daemon.request("holds")["holds"]
        return len(found) == count

    wait_until(there, 10, f"{count} held calls")
    return found


def decided(daemon: Daemon, path: Path) -> Message:
    """The event of the call that was to write `path`."""
    return daemon.wait_for(
        lambda event: (
            event["class"] == "mcp.request"
            and (event["mcp"].get("arguments") or {}).get("path") == str(path)
        ),
        what=f"the event of {path.name}",
    )


def outcome(daemon: Daemon, path: Path) -> tuple[str, str]:
    decision = decided(daemon, path)["decision"]
    return decision["verdict"], decision["outcome"]


def stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


# ---- verdicts ------------------------------------------------------------------------------


def test_allow_and_deny(daemon: Daemon, client: StdioClient, tmp_path: Path) -> None:
    assert "result" in write(client, tmp_path / "allowed")
    assert (tmp_path / "allowed").exists()
    answer = write(client, tmp_path / "denied")
    assert refused(answer, "no-denied")
    assert not (tmp_path / "denied").exists()
    event = decided(daemon, tmp_path / "denied")
    assert event["decision"]["outcome"] == "denied"
    assert event["decision"]["before_effect"] is True
    assert event["decision"]["hold_us"] > 0
    assert event["process"]["pid"] == server_pid(client)
    assert event["mcp"]["client"]["pid"] == os.getpid()


def test_what_the_session_did_a_moment_ago_counts(client: StdioClient, tmp_path: Path) -> None:
    """The open is not held, and is only told; the call is judged with it all the same."""
    answer = write(client, tmp_path / "afterwards")
    assert not answer["result"].get("isError")
    write(client, tmp_path / "private")
    assert refused(write(client, tmp_path / "afterwards"), "no-more")


def test_a_flood_hides_nothing(client: StdioClient, tmp_path: Path) -> None:
    """More is told than is taken in at once: what the session did last counts all the same."""
    directory = tmp_path / "flood"
    directory.mkdir()
    client.call("flood", {"path": str(directory), "count": 8000})
    write(client, tmp_path / "private")
    assert refused(write(client, tmp_path / "afterwards"), "no-more")


def test_approved_and_denied_by_a_person(
    daemon: Daemon, client: StdioClient, tmp_path: Path
) -> None:
    pid = server_pid(client)
    for verdict in ("approve", "deny"):
        path = tmp_path / f"held-{verdict}"
        client.send_raw(line(verdict, path))
        (waiting,) = held(daemon)
        assert waiting["rule"] == "ask"
        assert stopped(pid)
        assert not path.exists()
        daemon.request(verdict, id=waiting["id"], note="by test")
        answer = client.read()
        assert answer["id"] == verdict
        assert path.exists() == (verdict == "approve")
        assert refused(answer, "ask") == (verdict == "deny")
        decision = decided(daemon, path)["decision"]
        assert decision["outcome"] == ("allowed" if verdict == "approve" else "denied")
        assert "by test" in decision["approver"]
        assert decision["hold_id"] == waiting["id"]


def test_a_held_call_that_json_cannot_carry_is_listed(
    daemon: Daemon, client: StdioClient, tmp_path: Path
) -> None:
    """And ends no engine: with that, what is held would be let go unasked."""
    engine = daemon.engine()
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    path = tmp_path / "held-odd"
    client.send_raw(line("odd", path, half="\ud800", huge=1 << 70, deep=deep))
    (waiting,) = held(daemon)
    assert waiting["subject"]["mcp"]["arguments"]["half"] == "?"
    daemon.request("deny", id=waiting["id"])
    assert refused(client.read(), "ask")
    assert not path.exists()
    assert daemon.engine() == engine


@pytest.mark.parametrize("on_timeout", ["allow", "deny", "kill"])
def test_timeout(daemon: Daemon, client: StdioClient, tmp_path: Path, on_timeout: str) -> None:
    path = tmp_path / f"late-{on_timeout}"
    if on_timeout == "kill":
        with pytest.raises(ConnectionError):
            write(client, path)
        assert outcome(daemon, path) == ("hold", "killed")
    else:
        answer = write(client, path)
        assert refused(answer, f"ask-then-{on_timeout}") == (on_timeout == "deny")
        assert outcome(daemon, path) == ("hold", "timeout")
    assert path.exists() == (on_timeout == "allow")
    held(daemon, 0)


def test_kill_process_and_session(daemon: Daemon, tmp_path: Path) -> None:
    for name, other_dies in (("killed", False), ("killed-all", True)):
        script = f'sleep 60 >/dev/null & echo $! >{tmp_path}/other; exec "$@"'
        command = ["sh", "-c", script, "sh", *MINI]
        with StdioClient(daemon.run("tested", command), timeout=10) as client:
            client.initialize()
            other = psutil.Process(int((tmp_path / "other").read_text()))
            with pytest.raises(ConnectionError):
                write(client, tmp_path / name)
            assert not (tmp_path / name).exists()
            assert outcome(daemon, tmp_path / name) == ("kill", "killed")
            if other_dies:
                psutil.wait_procs([other], 5)
                assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
            else:
                assert other.is_running()
                other.kill()


@pytest.mark.parametrize("held_first", [True, False])
def test_a_kill_does_not_wait_for_a_person(
    daemon: Daemon, tmp_path: Path, held_first: bool
) -> None:
    """What else was in the same read, and would be held, must not give the session a minute."""
    paths = [tmp_path / "killed-all", tmp_path / "held"]
    with StdioClient(daemon.run("tested", MINI), timeout=10) as client:
        client.initialize()
        ordered = reversed(paths) if held_first else paths
        client.send_raw(b"".join(line(path.name, path) for path in ordered))
        with pytest.raises(ConnectionError):
            client.read()
    assert outcome(daemon, paths[0]) == ("kill", "killed")
    assert outcome(daemon, paths[1]) == ("hold", "killed")
    assert not any(path.exists() for path in paths)
    held(daemon, 0)


def test_a_retry_is_a_new_decision(daemon: Daemon, client: StdioClient, tmp_path: Path) -> None:
    client.send_raw(line("same", tmp_path / "held-1"))
    daemon.request("approve", id=held(daemon)[0]["id"])
    assert client.read()["id"] == "same"
    client.send_raw(line("same", tmp_path / "held-2"))
    (again,) = held(daemon)
    assert not (tmp_path / "held-2").exists()
    daemon.request("deny", id=again["id"])
    assert refused(client.read(), "ask")


# ---- what is in a read ---------------------------------------------------------------------


def test_one_denied_and_one_held_among_many(
    daemon: Daemon, client: StdioClient, tmp_path: Path
) -> None:
    names = ["a", "denied", "b", "held", "c"]
    client.send_raw(b"".join(line(name, tmp_path / name) for name in names))
    daemon.request("approve", id=held(daemon)[0]["id"])
    answers = {answer["id"]: answer for answer in (client.read() for _ in names)}
    assert set(answers) == set(names)
    assert [name for name in names if not (tmp_path / name).exists()] == ["denied"]
    assert refused(answers["denied"], "no-denied")


def send_in_pieces(client: StdioClient, data: bytes, cut: int) -> None:
    for at in range(0, len(data), cut):
        client.send_raw(data[at : at + cut])
        time.sleep(0.0005)


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_denied_over_many_reads(client: StdioClient, tmp_path: Path, cut: int) -> None:
    send_in_pieces(client, line("cut", tmp_path / "denied", padding="p" * 300), cut)
    assert client.read()["id"] == "cut"
    assert not (tmp_path / "denied").exists()
    assert "result" in write(client, tmp_path / "after")


def test_the_python_sdk_reads_a_copy_of_standard_input(daemon: Daemon, tmp_path: Path) -> None:
    """And writes to one of standard output: a client that must be told is told there."""
    with StdioClient(daemon.run("tested", servers.time_server()), timeout=10) as client:
        client.initialize()
        send_in_pieces(client, line("cut", tmp_path / "denied", padding="p" * 100), 1)
        answer = client.read()
        while answer.get("id") != "cut":  # the SDK also says that it could not parse a line
            answer = client.read()
        assert refused(answer, "no-denied")


def test_five_mebibytes_denied_at_the_tail(client: StdioClient, tmp_path: Path) -> None:
    client.send_raw(line("huge", tmp_path / "denied", padding="p" * (5 << 20)))
    answer = client.read()
    assert answer["id"] == "huge"
    assert refused(answer, "no-denied")
    assert not (tmp_path / "denied").exists()
    assert "result" in write(client, tmp_path / "after")


def test_batch_with_one_denied(client: StdioClient, tmp_path: Path) -> None:
    names = ["a", "denied", "b"]
    batch = b",".join(line(name, tmp_path / name).strip() for name in names)
    client.send_raw(b"[" + batch + b"]\n")
    answers: Any = client.read()
    assert {answer["id"] for answer in answers} == set(names)
    assert [name for name in names if not (tmp_path / name).exists()] == ["denied"]


# ---- what happens meanwhile ----------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_cancelled(daemon: Daemon, client: StdioClient, tmp_path: Path, together: bool) -> None:
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c"}}
    data = json.dumps(cancel).encode() + b"\n"
    path = tmp_path / "held"
    if together:
        client.send_raw(line("c", path) + data)
    else:
        client.send_raw(line("c", path))
        held(daemon)
        client.send_raw(data)
    assert client.read()["id"] == "c"
    assert not path.exists()
    assert outcome(daemon, path) == ("hold", "cancelled")
    held(daemon, 0)
    assert "result" in write(client, tmp_path / "after")


def test_server_killed_while_held(daemon: Daemon, client: StdioClient, tmp_path: Path) -> None:
    pid = server_pid(client)
    client.send_raw(line(1, tmp_path / "held"))
    held(daemon)
    os.kill(pid, signal.SIGKILL)
    held(daemon, 0)
    assert outcome(daemon, tmp_path / "held") == ("hold", "gone")


def test_client_dies_while_held(daemon: Daemon, tmp_path: Path) -> None:
    """Nobody waits for the answer any more: the call is refused, not left to an approver."""
    path = tmp_path / "held"
    data = base64.b64encode(line(1, path)).decode()
    script = (
        "import base64,subprocess,sys,time;"
        f"p=subprocess.Popen({MINI!r},stdin=subprocess.PIPE);"
        f"p.stdin.write(base64.b64decode('{data}'));p.stdin.flush();time.sleep(60)"
    )
    agent = subprocess.Popen(daemon.run("tested", [sys.executable, "-c", script]))
    (waiting,) = held(daemon)
    client = waiting["subject"]["mcp"]["client"]["pid"]
    # The product says which pid it is: only one that this test started may be killed.
    assert client in {below.pid for below in psutil.Process(agent.pid).children(recursive=True)}
    os.kill(client, signal.SIGKILL)
    agent.wait(10)
    held(daemon, 0)
    assert not path.exists()
    assert outcome(daemon, path) == ("hold", "cancelled")
    assert waiting["process"]["pid"] != client


def test_server_with_threads(daemon: Daemon, tmp_path: Path) -> None:
    with StdioClient(daemon.run("tested", [*MINI, "--threads", "4"]), timeout=10) as client:
        client.initialize()
        pid = server_pid(client)
        client.send_raw(line(1, tmp_path / "held"))
        (waiting,) = held(daemon)
        before = psutil.Process(pid).num_ctx_switches()
        time.sleep(0.2)
        assert psutil.Process(pid).num_ctx_switches() == before
        assert all(
            psutil.Process(thread.id).status() == psutil.STATUS_STOPPED
            for thread in psutil.Process(pid).threads()
        )
        daemon.request("approve", id=waiting["id"])
        assert "result" in client.read()
        assert (tmp_path / "held").exists()


def test_two_sessions_held_at_once(daemon: Daemon, tmp_path: Path) -> None:
    with (
        StdioClient(daemon.run("tested", MINI), timeout=10) as one,
        StdioClient(daemon.run("tested", MINI), timeout=10) as two,
    ):
        one.initialize()
        two.initialize()
        one.send_raw(line(1, tmp_path / "held-1"))
        first = held(daemon)[0]
        two.send_raw(line(2, tmp_path / "held-2"))
        second = next(each for each in held(daemon, 2) if each["id"] != first["id"])
        assert first["session"] != second["session"]
        daemon.request("approve", id=second["id"])
        assert two.read()["id"] == 2
        daemon.request("deny", id=first["id"])
        assert refused(one.read(), "ask")
    assert (tmp_path / "held-2").exists()
    assert not (tmp_path / "held-1").exists()


def test_three_hundred_held_calls(daemon: Daemon, tmp_path: Path) -> None:
    """Thirty calls in one read at each of ten servers, answered by a person in any order."""
    clients = [StdioClient(daemon.run("tested", MINI), timeout=20) for _ in range(10)]
    try:
        for number, client in enumerate(clients):
            client.initialize()
            client.send_raw(b"".join(line(n, tmp_path / f"held-{number}-{n}") for n in range(30)))
        waiting = held(daemon, 300)
        expected = {}
        for each in reversed(waiting):
            path = Path(each["subject"]["mcp"]["arguments"]["path"])
            expected[path] = int(path.name.rpartition("-")[2]) % 3 > 0
            daemon.request("approve" if expected[path] else "deny", id=each["id"])
        for client in clients:
            assert sorted(client.read()["id"] for _ in range(30)) == list(range(30))
    finally:
        for client in clients:
            client.close()
    assert {path: path.exists() for path in expected} == expected
    held(daemon, 0)


# ---- what is not held ----------------------------------------------------------------------


def test_only_requests_are_held(daemon: Daemon, client: StdioClient, tmp_path: Path) -> None:
    client.notify("notifications/progress", {"progressToken": 1, "progress": 1})
    write(client, tmp_path / "denied-2")
    pid = server_pid(client)
    decided(daemon, tmp_path / "denied-2")
    events = [each for each in daemon.events() if each.get("process", {}).get("pid") == pid]
    notifications = [each for each in events if each["class"] == "mcp.notification"]
    assert len(notifications) == 2
    assert not any("decision" in each for each in notifications)


def test_without_mcp_rules_nothing_is_held(daemon: Daemon) -> None:
    """A server that is held stops: its parent would see it. A thousand calls, no stop."""
    with StdioClient(daemon.run("unruled", MINI), timeout=10) as client:
        client.initialize()
        process = psutil.Process(server_pid(client))
        seen: list[str] = []
        end = threading.Event()

        def look() -> None:
            while not end.is_set():
                seen.append(process.status())

        watcher = threading.Thread(target=look)
        watcher.start()
        for _ in range(1000):
            client.timed_call("echo", {"text": "x"})
        end.set()
        watcher.join()
    assert psutil.STATUS_STOPPED not in seen


# ---- odd servers ---------------------------------------------------------------------------


def test_server_under_strace(daemon: Daemon, tmp_path: Path) -> None:
    """A tracer is told of the stop first; one from the command line passes it on."""
    with StdioClient(daemon.run("tested", MINI), timeout=10) as client:
        client.initialize()
        pid = server_pid(client)
        tracer = subprocess.Popen(
            ["strace", "-f", "-q", "-o", "/dev/null", "-p", str(pid)], stderr=subprocess.DEVNULL
        )
        try:
            wait_until(
                lambda: f"TracerPid:\t{tracer.pid}" in Path(f"/proc/{pid}/status").read_text(),
                5,
                "strace to attach",
            )
            assert "result" in write(client, tmp_path / "allowed")
            assert refused(write(client, tmp_path / "denied"), "no-denied")
            client.send_raw(line(1, tmp_path / "held"))
            (waiting,) = held(daemon)
            time.sleep(0.3)
            assert not (tmp_path / "held").exists()
            daemon.request("approve", id=waiting["id"])
            assert "result" in client.read()
        finally:
            tracer.terminate()
            tracer.wait(10)
    assert not (tmp_path / "denied").exists()


def test_first_process_of_a_namespace(daemon: Daemon, tmp_path: Path) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", *MINI]
    with StdioClient(daemon.run("tested", command), timeout=10) as client:
        client.initialize()
        assert server_pid(client) == 1
        assert refused(write(client, tmp_path / "denied"), "no-denied")
        client.send_raw(line(1, tmp_path / "held"))
        daemon.request("approve", id=held(daemon)[0]["id"])
        assert "result" in client.read()
    assert (tmp_path / "held").exists()
    assert not (tmp_path / "denied").exists()


@pytest.mark.parametrize("name", ["server-filesystem", "server-everything", "mcp-server-time"])
def test_real_servers_go_on_as_if_nothing_was(daemon: Daemon, tmp_path: Path, name: str) -> None:
    command, tool, arguments = {
        "server-filesystem": (
            servers.filesystem(tmp_path),
            "list_directory",
            {"path": str(tmp_path)},
        ),
        "server-everything": (servers.everything(), "echo", {"message": "hello"}),
        "mcp-server-time": (servers.time_server(), "get_current_time", {"timezone": "UTC"}),
    }[name]
    with StdioClient(daemon.run("tested", command), timeout=20) as client:
        client.initialize()
        for _ in range(20):
            answer = client.call(tool, arguments)
            assert not answer["result"].get("isError"), answer
        assert refused(client.call("write", {"path": "/x/denied", "pad": "x" * 40}), "no-denied")


@pytest.mark.parametrize(
    "value", [b"1,\r" * 7_000_000, b"[[[]]]," * 2_500_000], ids=["returns", "arrays"]
)
def test_a_call_that_takes_too_long_to_read_is_refused_and_nobody_waits_for_it(
    daemon: Daemon, client: StdioClient, tmp_path: Path, value: bytes
) -> None:
    """Of another session no forbidden call gets through meanwhile, though failures open it."""
    hostile = line(tmp_path.name, tmp_path / "never", a=0).replace(
        b'"a": 0', b'"a":[' + value + b"1]"
    )
    answers: list[Message] = []

    def attack() -> None:
        client.send_raw(hostile)
        answers.append(client.read())

    client.timeout = 60
    attacker = threading.Thread(target=attack)
    with StdioClient(daemon.run("open", MINI), timeout=30) as other:
        other.initialize()
        attacker.start()
        while attacker.is_alive():
            assert refused(write(other, tmp_path / "denied"), "no-denied")
        attacker.join()
    assert answers[0]["id"] == tmp_path.name
    assert "denied-by-agentd: unreadable-message" in answers[0]["error"]["message"]
    assert not (tmp_path / "denied").exists()
    assert not (tmp_path / "never").exists()
    event = daemon.wait_for(
        lambda event: event["class"] == "mcp.noise" and event["mcp"].get("id") == tmp_path.name,
        what="the event of the hostile call",
    )
    assert event["mcp"]["anomalies"][0] == "over-limit"
    assert event["decision"]["outcome"] == "denied"


def test_nothing_is_hidden_beside_what_is_too_deep(
    daemon: Daemon, client: StdioClient, tmp_path: Path
) -> None:
    """Node reads it; here not even its path is known."""
    deep = line(tmp_path.name, tmp_path / "denied", a=0).replace(
        b'"a": 0', b'"a": ' + b"[" * 1_100 + b"]" * 1_100
    )
    client.send_raw(deep)
    assert "denied-by-agentd: unreadable-message" in json.dumps(client.read())
    event = daemon.wait_for(
        lambda event: event["class"] == "mcp.request" and event["mcp"].get("id") == tmp_path.name
    )
    assert event["decision"]["rules"] == ["unreadable-message"]
    assert event["mcp"]["anomalies"] == ["too-deep"]


@pytest.mark.parametrize(
    "garbled",
    [
        "{jsonrpc:'2.0',id:2,method:'tools/call',params:PARAMS}",
        '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":PARAMS,}',
        '/**/{"jsonrpc":"2.0",/**/"id":2,"method":"tools/call","params":PARAMS}',
        '{"jsonrpc":"2.0","id":2}{"jsonrpc":"2.0","id":2,"method":"tools/call","params":PARAMS}',
    ],
    ids=["bare keys", "comma", "comments", "two"],
)
def test_what_only_a_lenient_server_reads_is_refused(
    daemon: Daemon, tmp_path: Path, garbled: str
) -> None:
    received = tmp_path / "received"
    received.touch()
    with StdioClient(daemon.run("tested", ["sh", "-c", f"exec cat > {received}"])) as client:
        sent = 0
        for each in (
            b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
            garbled.replace("PARAMS", '{"name":"evil"}').encode(),
            b"not JSON",
        ):
            client.send_raw(each + b"\n")
            sent += len(each) + 1
            wait_until(lambda size=sent: received.stat().st_size == size, 10, "the line")
    there = received.read_bytes()
    assert b"notifications/initialized" in there
    assert there.endswith(b"\nnot JSON\n")
    assert b"evil" not in there


def test_a_line_whose_end_is_over_the_limit_is_broken(daemon: Daemon, tmp_path: Path) -> None:
    received = tmp_path / "received"
    received.touch()
    begin = line(1, tmp_path / "denied", pad="")[:-5]
    call = begin + b"x" * ((64 << 20) + 1000 - len(begin)) + b'"}}}\n'
    with StdioClient(daemon.run("tested", ["sh", "-c", f"exec cat > {received}"])) as client:
        client.notify("notifications/initialized")
        wait_until(lambda: received.stat().st_size > 0, 10, "the first line")
        before = received.stat().st_size
        client.send_raw(call)
        wait_until(lambda: received.stat().st_size == before + len(call), 60, "the call")
    assert received.read_bytes().endswith(b"!!!!\n")
    received.unlink()


def test_results_are_not_held_on_this_tier(tmp_path: Path) -> None:
    """A server's write cannot be held; a rule that needs it says so when it is loaded."""
    results = {
        "id": "no-result",
        "on": "mcp.response",
        "match": {"arguments": {"content.*.text": "secret"}},
        "action": "deny",
    }
    rules = {"w.yaml": workload("tested"), "r.yaml": {"rules": [results]}}
    with Daemon(tmp_path, rules, settings={"tier": "observe"}) as started:
        (note,) = started.events("policy.loaded")[0]["policy"]["notes"]
        assert note["rule"] == "no-result"
        assert note["text"].endswith("if that is labelled; it is only recorded")
        assert "agentd: rule no-result: " in started.log.read_text()
        with StdioClient(started.run("tested", MINI), timeout=10) as client:
            client.initialize()
            answer = client.call("echo", {"text": "secret"})
            assert answer["result"] == {"content": [{"type": "text", "text": "secret"}]}
