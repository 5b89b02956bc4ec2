"""Results of labelled servers, judged before a client that is not labelled has a byte of them."""

import errno
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.host.support import servers
from tests.host.support.daemon import Document, workload
from tests.host.support.puppet import PYTHON, Puppet
from tests.host.support.stdio_client import StdioClient
from tests.lab.support.slow_daemon import PATIENCE_S, SlowDaemon

pytestmark = [pytest.mark.lab(kernels=["6.1", "6.12"]), pytest.mark.timeout(400)]

Message = dict[str, Any]

HOST = servers.REPOSITORY / "tests" / "host"
MINI = [PYTHON, "-SE", str(HOST / "support" / "mini_server.py")]
REASON = "not for this client"
PAD = "p" * 200
"""Leaves room for a whole refusal."""


def rule(name: str, action: str, text: str, **more: object) -> Document:
    """A rule on results with `text` in them."""
    return {
        "id": name,
        "on": "mcp.response",
        "workloads": ["closed", "open"],
        "match": {"arguments": {"content.*.text": f"*{text}*"}},
        "action": action,
        "reason": REASON,
        **more,
    }


def waits(timeout: str, on_timeout: str) -> Document:
    return {"approve": {"timeout": timeout, "on_timeout": on_timeout}}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowDaemon]:
    lists = {
        "id": "no-list",
        "on": "mcp.response",
        "workloads": ["lists"],
        "match": {"method": "tools/list"},
        "action": "deny",
        "reason": REASON,
    }
    rules = {
        "closed.yaml": workload("closed"),
        "open.yaml": workload("open", on_failure="allow"),
        "lists.yaml": workload("lists"),
        "rules.yaml": {
            "rules": [
                lists,
                rule("no-secret", "deny", "SECRET"),
                rule("kill-it", "kill", "KILL"),
                rule("ask", "hold", "ASK", **waits("10m", "deny")),
                rule("late-allow", "hold", "LATE-ALLOW", **waits("2s", "allow")),
                rule("late-deny", "hold", "LATE-DENY", **waits("2s", "deny")),
            ]
        },
    }
    with SlowDaemon(tmp_path_factory.mktemp("writes"), rules) as started:
        yield started


@pytest.fixture
def client(daemon: SlowDaemon) -> Iterator[StdioClient]:
    """A client outside the session, its server inside."""
    with StdioClient(daemon.run("closed", MINI), timeout=PATIENCE_S) as started:
        started.initialize()
        yield started


def answer_to(number: int, text: str) -> bytes:
    """The line that the mini server answers a call of `echo` with."""
    result = {"content": [{"type": "text", "text": text}]}
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode() + b"\n"


def refused(answer: Message, name: str) -> bool:
    """Whether it is the refusal of a tool's result that tells everything."""
    text = {"type": "text", "text": f"denied-by-agentd: {name}: {REASON}"}
    return answer.get("result") == {"isError": True, "content": [text]}


def ask(client: StdioClient, number: int, text: str) -> None:
    """Call `echo` without waiting for the answer."""
    params = {"name": "echo", "arguments": {"text": text}}
    call = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    client.send_raw(json.dumps(call).encode() + b"\n")


def bytes_from(client: StdioClient, count: int) -> bytes:
    """The next bytes that the server sends, as they are."""
    assert client.process.stdout
    data = b""
    while len(data) < count:
        assert select.select([client.process.stdout], [], [], PATIENCE_S)[0], data
        chunk = os.read(client.process.stdout.fileno(), count - len(data))
        assert chunk, data
        data += chunk
    return data


def is_silent(client: StdioClient) -> bool:
    """Whether nothing has come from the server."""
    assert client.process.stdout
    return not select.select([client.process.stdout], [], [], 1.0)[0]


def held(daemon: SlowDaemon) -> Message:
    """The result that waits, once it does."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found: list[Message] = daemon.request("holds")["holds"]
        if found:
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"nothing is held: {daemon.tail()}")


def decided(daemon: SlowDaemon, number: int, rule_id: str) -> Message:
    """The event of the result with this id, by this rule."""
    return daemon.wait_for(
        lambda event: (
            event["class"] == "mcp.response"
            and event["mcp"].get("id") == number
            and rule_id in (event.get("decision") or {}).get("rules", ())
        ),
        PATIENCE_S,
        f"the event of result {number}",
    )


def agent(text: str) -> list[str]:
    """A program that starts a server, calls it and prints the answer."""
    source = (
        "from tests.host.support.stdio_client import StdioClient\n"
        f"with StdioClient({MINI!r}, timeout={PATIENCE_S}) as client:\n"
        "    client.initialize()\n"
        f"    print(client.call('echo', {{'text': {text!r}}}))\n"
    )
    return [sys.executable, "-c", source]


def kill_engine(daemon: SlowDaemon) -> None:
    engine = daemon.engine()
    assert engine is not None
    engine.kill()


def wait_for_engine(daemon: SlowDaemon) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(OSError, AssertionError):
            daemon.request("ping")
            return
        time.sleep(0.5)
    raise AssertionError(daemon.tail())


# ---- verdicts ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 1000, 300_000])
def test_an_allowed_result_is_unchanged(client: StdioClient, size: int) -> None:
    ask(client, size, "a" * size)
    expected = answer_to(size, "a" * size)
    assert bytes_from(client, len(expected)) == expected


def test_a_denied_result(daemon: SlowDaemon, client: StdioClient) -> None:
    ask(client, 77, PAD + "SECRET")
    line = bytes_from(client, len(answer_to(77, PAD + "SECRET")))
    answer = json.loads(line)
    assert answer["id"] == 77
    assert refused(answer, "no-secret")
    assert b"SECRET" not in line
    event = decided(daemon, 77, "no-secret")
    assert event["decision"]["outcome"] == "denied"
    assert event["decision"]["before_effect"] is True
    assert event["mcp"]["tool"] == "echo"
    assert event["mcp"]["client"]["pid"] == os.getpid()
    assert event["process"]["pid"] != os.getpid()
    assert "anomalies" not in event["mcp"]
    ask(client, 78, "after it")
    assert json.loads(bytes_from(client, len(answer_to(78, "after it"))))["id"] == 78


def test_a_result_shorter_than_its_refusal(client: StdioClient) -> None:
    ask(client, 5, "SECRET")
    answer = client.read()
    assert answer["id"] == 5
    assert refused(answer, "no-secret")
    ask(client, 6, "and then")
    assert bytes_from(client, len(answer_to(6, "and then"))) == answer_to(6, "and then")


@pytest.mark.parametrize("verdict", ["approve", "deny"])
def test_a_person_decides(daemon: SlowDaemon, client: StdioClient, verdict: str) -> None:
    text = f"{PAD}ASK {verdict}"
    ask(client, 9, text)
    waiting = held(daemon)
    assert waiting["rule"] == "ask"
    assert is_silent(client)
    command = daemon.command(verdict, waiting["id"])
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    line = bytes_from(client, len(answer_to(9, text)))
    if verdict == "approve":
        assert line == answer_to(9, text)
    else:
        assert refused(json.loads(line), "ask")


@pytest.mark.parametrize("on_timeout", ["allow", "deny"])
def test_nobody_answers(daemon: SlowDaemon, client: StdioClient, on_timeout: str) -> None:
    number = 20 + len(on_timeout)
    text = f"{PAD}LATE-{on_timeout.upper()} {on_timeout}"
    ask(client, number, text)
    line = bytes_from(client, len(answer_to(number, text)))
    assert refused(json.loads(line), f"late-{on_timeout}") == (on_timeout == "deny")
    assert (line == answer_to(number, text)) == (on_timeout == "allow")
    assert decided(daemon, number, f"late-{on_timeout}")["decision"]["outcome"] == "timeout"


def test_the_server_is_killed(daemon: SlowDaemon) -> None:
    with StdioClient(daemon.run("closed", MINI), timeout=PATIENCE_S) as client:
        client.initialize()
        with pytest.raises(ConnectionError, match="b''"):
            client.call("echo", {"text": "KILL"})


def test_a_list_of_tools_of_a_real_server(daemon: SlowDaemon) -> None:
    command = daemon.run("lists", servers.everything())
    with StdioClient(command, timeout=PATIENCE_S) as client:
        assert "result" in client.initialize()
        answer = client.request("tools/list")
        assert answer["error"] == {
            "code": -32000,
            "message": f"denied-by-agentd: no-list: {REASON}",
        }
        assert client.call("echo", {"message": "m"})["result"]["content"][0]["text"] == "Echo: m"


def test_both_ends_labelled_is_judged_once(daemon: SlowDaemon) -> None:
    """By the read of the client."""
    done = subprocess.run(
        daemon.run("closed", agent(PAD + "BOTH SECRET")),
        capture_output=True,
        text=True,
        check=True,
        cwd=servers.REPOSITORY,
        timeout=PATIENCE_S,
    )
    assert f"denied-by-agentd: no-secret: {REASON}" in done.stdout
    assert "SECRET" not in done.stdout
    event = decided(daemon, 2, "no-secret")
    assert event["decision"]["outcome"] == "denied"
    assert event["process"]["pid"] == event["mcp"]["client"]["pid"]
    about = [
        each
        for each in daemon.events("mcp.response")
        if each["session"] == event["session"] and each["mcp"]["id"] == 2
    ]
    assert len(about) == 1
    assert "anomalies" not in event["mcp"]


# ---- writes in pieces ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def puppet(daemon: SlowDaemon) -> Iterator[Puppet]:
    with Puppet(daemon.run("closed", Puppet.ARGV)) as started:
        yield started


class Ends:
    """The end of a pipe or socket that is read here; `opened` is how an act opens the other one.

    Of a socket that is "unaccepted" the connection is accepted only when all may be written.
    """

    def __init__(self, kind: str, room: int = 65536) -> None:
        self.data = b""
        self._accepts_after_s = 1.0 if kind == "unaccepted" else 0.0
        self._fds: list[int] = []
        if kind == "pipe":
            self._fds += os.pipe()
            fcntl.fcntl(self._fds[1], fcntl.F_SETPIPE_SZ, room)
            place = f"/proc/{os.getpid()}/fd/{self._fds[1]}"
            self._opening = f"out = os.open({place!r}, os.O_WRONLY)\n"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(f"\0agentd-writes-{os.getpid()}")
            self._listener.listen()
            self._opening = (
                "end = socket.socket(socket.AF_UNIX)\n"
                f"end.connect({self._listener.getsockname()!r})\n"
                f"time.sleep({0.5 if kind == 'socket' else 0})\n"
                "out = end.fileno()\n"
            )
        self._thread = threading.Thread(target=self._read, daemon=True)

    def opened(self, *, blocking: bool = True) -> str:
        self._thread.start()
        opening = "import os, socket, time\n" + self._opening
        return opening + f"os.set_blocking(out, {blocking})\n"

    def _read(self) -> None:
        if not self._fds:
            time.sleep(self._accepts_after_s)
            self._fds.append(self._listener.accept()[0].detach())
            self._listener.close()
        select.select(self._fds[:1], [], [])
        time.sleep(1)  # until it is full
        while chunk := os.read(self._fds[0], 65536):
            self.data += chunk

    def rest(self, count: int) -> bytes:
        """All that came, once it is so much; closes."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.data) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        if len(self._fds) > 1:
            os.close(self._fds.pop())
        self._thread.join(10)
        os.close(self._fds.pop())
        return self.data


IN_PIECES = """
counts = []
while data:
    try:
        count = os.write(out, data[:SIZE])
    except BlockingIOError:
        count = 0
        time.sleep(0.2)
    counts.append(count)
    data = data[count:]
result = counts
"""


def in_pieces(data: bytes, size: int) -> str:
    return f"data = {data!r}\n" + IN_PIECES.replace("SIZE", str(size))


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_does_not_fit_is_written_again_and_judged_once(
    daemon: SlowDaemon, puppet: Puppet, kind: str
) -> None:
    """The channel takes a part, then nothing for a while, of a message without a wait."""
    ends = Ends(kind, 4096)
    lines = answer_to(301, "a" * 600_000), answer_to(302, "b" * 300_000 + "SECRET")
    source = ends.opened(blocking=False) + in_pieces(b"".join(lines), 1 << 20)
    outcome = puppet.act(source)
    assert 0 in outcome.result
    assert len(outcome.result) > 2
    data = ends.rest(sum(map(len, lines)))
    first, second = data.splitlines(keepends=True)
    assert first == lines[0]
    assert refused(json.loads(second), "no-secret")
    event = decided(daemon, 302, "no-secret")
    about = [
        each["mcp"]["id"]
        for each in daemon.events("mcp.response")
        if each["process"]["pid"] == event["process"]["pid"]
    ]
    assert about == [301, 302]


@pytest.mark.parametrize("size", [100, 110, 400])
def test_a_message_in_several_writes(puppet: Puppet, size: int) -> None:
    ends = Ends("pipe")
    allowed, denied = answer_to(310, "x"), answer_to(311, PAD * 3 + "SECRET")
    outcome = puppet.act(ends.opened() + in_pieces(allowed + denied + answer_to(312, "y"), size))
    assert outcome.result
    data = ends.rest(len(allowed + denied))
    first, *remains, refusal, last = data.splitlines(keepends=True)
    assert (first, last) == (allowed, answer_to(312, "y"))
    answer = json.loads(refusal)
    assert answer["id"] == 311
    assert answer["result"]["isError"]
    assert "denied-by-agentd: no-secret" in answer["result"]["content"][0]["text"]
    assert b"SECRET" not in data
    assert len(remains) <= 1
    for line in remains:
        with pytest.raises(ValueError, match="line 1"):
            json.loads(line)


def test_several_messages_in_one_write(puppet: Puppet) -> None:
    ends = Ends("pipe")
    lines = [answer_to(321, "one"), answer_to(322, PAD + "SECRET"), answer_to(323, "three")]
    puppet.act(ends.opened() + f"os.write(out, {b''.join(lines)!r})")
    first, second, third = ends.rest(sum(map(len, lines))).splitlines(keepends=True)
    assert (first, third) == (lines[0], lines[2])
    assert json.loads(second)["id"] == 322
    assert refused(json.loads(second), "no-secret")


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("pipe", "os.writev(out, [b'', data[:7], b'', data[7:300], data[300:]])"),
        ("pipe", "os.pwritev(out, [data[:7], data[7:]], -1, 0)"),
        ("socket", "os.write(out, data)"),
        ("socket", "end.send(data)"),
        ("socket", "end.sendmsg([b'', data[:7], data[7:]])"),
        ("unaccepted", "end.send(data)"),
    ],
)
def test_every_call_that_writes(puppet: Puppet, kind: str, call: str) -> None:
    ends = Ends(kind)
    allowed, denied = answer_to(331, PAD), answer_to(332, PAD + "SECRET")
    source = "".join(f"data = {data!r}\n{call}\n" for data in (allowed, denied))
    assert puppet.act(ends.opened() + source).error == 0
    first, second = ends.rest(len(allowed + denied)).splitlines(keepends=True)
    assert first == allowed
    assert refused(json.loads(second), "no-secret")


@pytest.mark.parametrize("on_failure", ["closed", "open"])
def test_what_cannot_be_read_falls_to_the_workload(
    daemon: SlowDaemon, tmp_path: Path, on_failure: str
) -> None:
    """A file that the kernel sends by itself, on a channel that is known to be MCP."""
    ends = Ends("socket")
    (tmp_path / "answer").write_bytes(answer_to(342, PAD + "SECRET"))
    source = f"""
os.write(out, {answer_to(341, "known")!r})
os.sendfile(out, os.open({str(tmp_path / "answer")!r}, os.O_RDONLY), 0, 10000)
"""
    with Puppet(daemon.run(on_failure, Puppet.ARGV)) as puppet:
        outcome = puppet.act(ends.opened() + source)
    expected = answer_to(341, "known")
    if on_failure == "open":
        expected += answer_to(342, PAD + "SECRET")
    assert outcome.error == (0 if on_failure == "open" else errno.EPERM)
    assert ends.rest(len(expected)) == expected


# ---- the engine dies -----------------------------------------------------------------------


@pytest.mark.parametrize("on_failure", ["closed", "open"])
def test_the_engine_is_killed_while_a_result_is_held(daemon: SlowDaemon, on_failure: str) -> None:
    with StdioClient(daemon.run(on_failure, MINI), timeout=PATIENCE_S) as client:
        client.initialize()
        ask(client, 55, PAD + "ASK")
        held(daemon)
        kill_engine(daemon)
        line = bytes_from(client, len(answer_to(55, PAD + "ASK")))
        answer = json.loads(line)
        assert answer["id"] == 55
        assert (line == answer_to(55, PAD + "ASK")) == (on_failure == "open")
        assert ("denied-by-agentd: engine-down" in str(answer)) == (on_failure == "closed")
        wait_for_engine(daemon)
        ask(client, 56, PAD + "SECRET")
        line = bytes_from(client, len(answer_to(56, PAD + "SECRET")))
        assert refused(json.loads(line), "no-secret")


@pytest.mark.parametrize("on_failure", ["closed", "open"])
def test_the_engine_is_killed_while_a_client_is_held(daemon: SlowDaemon, on_failure: str) -> None:
    """Where both ends are labelled the result is with the client already, which has not seen it."""
    with subprocess.Popen(
        daemon.run(on_failure, agent(PAD + "ASK")),
        stdout=subprocess.PIPE,
        text=True,
        cwd=servers.REPOSITORY,
    ) as process:
        held(daemon)
        kill_engine(daemon)
        told, _ = process.communicate(timeout=PATIENCE_S)
    assert (PAD + "ASK" in told) == (on_failure == "open")
    assert ("denied-by-agentd: engine-down" in told) == (on_failure == "closed")
    wait_for_engine(daemon)
