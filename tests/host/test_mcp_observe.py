"""MCP over stdio as the kernel sees it: every message one event, whatever its bytes look like.

What they read with (strace, November 2026): Node (server-filesystem, server-everything, and a
client made of child_process) read(2) of 64 KiB, its child's streams are one Unix socket pair each;
Python (PyPI mcp 2.3: mcp-server-git, mcp-server-time) read(2) of 8 KiB in a worker thread, from a
copy of standard input, and its client read(2) of 256 KiB from a pipe; Go (npm mcp-time-linux-x64)
read(2) of 4 KiB; Rust (npm @leanspec/mcp-linux-x64) read(2) of 8 KiB in a worker thread. None uses
io_uring for standard streams, though Node sets rings up.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.host.support import servers
from tests.host.support.daemon import Daemon, Document, workload

Message = dict[str, Any]

SUPPORT = Path(__file__).parent / "support"
MINI = [sys.executable, "-SE", str(SUPPORT / "mini_server.py")]
VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
HOLD_ALL: Document = {
    "rules": [
        {
            "id": "never-matched",
            "on": "mcp.tool_call",
            "match": {"tool": "no-such-tool"},
            "action": "deny",
        }
    ]
}


@pytest.fixture(scope="module", params=["observe", "enforce"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Observed only, and with every request held and let go: the record must be the same."""
    rules = {"w.yaml": workload("tested", request.param), "r.yaml": HOLD_ALL}
    with Daemon(tmp_path_factory.mktemp("observe"), rules) as started:
        yield started


def call(number: Any, tool: str = "echo", **arguments: Any) -> Message:
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


def line(message: Any, **options: Any) -> str:
    return json.dumps(message, ensure_ascii=False, **options) + "\n"


def step(*messages: Any, answers: int | None = None, cut: int = 0) -> Message:
    """Messages that go out in one write (or in writes of `cut` bytes)."""
    expected = sum("id" in each for each in messages) if answers is None else answers
    return {"send": "".join(map(line, messages)), "cut": cut, "answers": expected}


def initialize(version: str = "2025-06-18") -> list[Message]:
    client = {"name": "agent", "version": "1"}
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": client}
    return [
        step({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}),
        step({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    ]


class Talk:
    """A script that an agent has spoken, its transcript, and the events of its session."""

    def __init__(
        self,
        daemon: Daemon,
        directory: Path,
        steps: Sequence[Message],
        *,
        server: Sequence[str] = MINI,
        transport: str = "pipe",
        agent: Sequence[str] = (sys.executable, "-SE", str(SUPPORT / "agent.py")),
    ) -> None:
        script, out = directory / "script.json", directory / "transcript.json"
        script.write_text(
            json.dumps({"server": list(server), "transport": transport, "steps": list(steps)})
        )
        subprocess.run(
            daemon.run("tested", [*agent, str(script), str(out)]), check=True, timeout=20
        )
        transcript = json.loads(out.read_text())
        self.client, self.server = transcript["client"], transcript["server"]
        self.received = [json.loads(each) for each in transcript["received"]]
        self.sent: list[Message] = []
        for each in steps:
            for text in each["send"].split("\n"):
                try:
                    value = json.loads(text.strip().lstrip("\ufeff"))
                except ValueError:
                    continue
                self.sent += value if isinstance(value, list) else [value]
        self.events = self._events(daemon)

    def _events(self, daemon: Daemon) -> list[Message]:
        """The session's MCP events, once as many are there as were said, and a little later."""
        said = len(self.sent) + len(self._flat())
        ours = {self.server, self.client}
        deadline = time.monotonic() + 20
        while True:
            found = [
                event
                for event in daemon.events()
                if event["class"].startswith("mcp.")
                and not {event["process"]["pid"], event["process"]["ppid"]}.isdisjoint(ours)
            ]
            if len(found) >= said or time.monotonic() > deadline:
                time.sleep(0.15)
                return found
            time.sleep(0.05)

    def _flat(self) -> list[Message]:
        return [each for got in self.received for each in (got if isinstance(got, list) else [got])]

    def check(self, pids: bool = True) -> None:
        """Every message that was said is one event, with what it said, and none is more."""
        to_server = [event["mcp"] for event in self.events if _direction(event) == "client"]
        to_client = [event["mcp"] for event in self.events if _direction(event) == "server"]
        methods = {
            json.dumps(_cut(each["id"])): each["method"] for each in self.sent if "id" in each
        }
        assert [_essence(each) for each in sorted_like(to_server, self.sent)] == [
            _expected(each) for each in self.sent
        ]
        answers = self._flat()
        assert len(to_client) == len(answers)
        for answer in answers:
            matching = [each for each in to_client if each.get("id") == answer["id"]]
            assert len(matching) == 1, answer["id"]
            (event,) = matching
            failed = "error" in answer or answer["result"].get("isError", False)
            assert event["is_error"] == failed
            assert event["method"] == methods[json.dumps(answer["id"])]
            assert 0 < event["latency_us"] < 5e6
        if pids:
            for event in self.events:
                reader = event["process"]["pid"]
                towards = self.server if _direction(event) == "client" else self.client
                assert reader == towards
                assert event["mcp"]["client"]["pid"] == self.client
                assert event["mcp"]["server"]["pid"] == self.server


def _direction(event: Message) -> str:
    return str(event["mcp"].get("direction", "")).split("-")[0]


def sorted_like(events: list[Message], sent: list[Message]) -> list[Message]:
    """Notifications come through another ring than held requests: order is that within each."""
    requests = [event for event in events if event["kind"] == "request"]
    others = [event for event in events if event["kind"] != "request"]
    ordered = []
    for message in sent:
        queue = requests if "id" in message else others
        if queue:
            ordered.append(queue.pop(0))
    return ordered + requests + others


def _essence(mcp: Message) -> Message:
    return {key: mcp.get(key) for key in ("kind", "method", "id", "tool", "arguments")}


def _expected(message: Message) -> Message:
    params = message.get("params") or {}
    tool = params.get("name") if message["method"] == "tools/call" else None
    arguments = params.get("arguments")
    return {
        "kind": "request" if "id" in message else "notification",
        "method": message["method"],
        "id": _cut(message.get("id")),
        "tool": tool,
        "arguments": arguments and {key: _cut(value) for key, value in arguments.items()},
    }


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > 2048:
        return f"{value[:2048]}...(+{len(value) - 2048} bytes)"
    return value


ORDINARY = [
    *initialize(),
    step(call(1, text="one")),
    step(call("two", text='ünïcödé \u2028 \\ " \n end')),
    step(call(3, "pid")),
    step(call(4, "no-such")),
    step({"jsonrpc": "2.0", "id": 5, "method": "no/such"}),
    step({"jsonrpc": "2.0", "id": 6, "method": "tools/list"}),
]


@pytest.mark.parametrize(
    ("transport", "read"),
    [
        ("pipe", "read"),
        ("pipe", "readv"),
        ("pipe", "readv-bytes"),
        ("pipe", "preadv2"),
        ("socketpair", "read"),
        ("socketpair", "recvfrom"),
        ("socketpairs", "recvmsg"),
        ("socketpairs", "readv"),
    ],
)
def test_transports_and_system_calls(
    daemon: Daemon, tmp_path: Path, transport: str, read: str
) -> None:
    talk = Talk(daemon, tmp_path, ORDINARY, server=[*MINI, "--read", read], transport=transport)
    talk.check()


def test_node_client(daemon: Daemon, tmp_path: Path) -> None:
    agent = [str(servers.NODE), str(SUPPORT / "agent.mjs")]
    Talk(daemon, tmp_path, ORDINARY, agent=agent).check()


@pytest.mark.parametrize("version", VERSIONS)
def test_versions(daemon: Daemon, tmp_path: Path, version: str) -> None:
    if version == "2026-07-28":
        meta = {"_meta": {"io.modelcontextprotocol/protocolVersion": version}}
        first = {"jsonrpc": "2.0", "id": 9, "method": "server/discover", "params": meta}
        second = call(10, text="x")
        second["params"] |= meta
        steps = [step(first), step(second)]
    else:
        steps = [*initialize(version), step(call(10, text="x"))]
    talk = Talk(daemon, tmp_path, steps)
    talk.check()
    assert talk.events[-1]["mcp"]["protocol_version"] == version


UNUSUAL: dict[str, list[Message]] = {
    "first message is a call": [step(call(1, text="x"))],
    "one byte a write": [step(*(call(n, text="x") for n in range(3)), cut=1)],
    "seven bytes a write from the first": [step(call("a", text="y" * 50), cut=7)],
    "many in one write": [*initialize(), step(*(call(n, text="x") for n in range(1, 120)))],
    "3 MiB to the server": [*initialize(), step(call(1, text="x" * (3 << 20)))],
    "3 MiB as the first message": [step(call(1, text="x" * (3 << 20)))],
    "3 MiB to the client": [*initialize(), step(call(1, size=3 << 20))],
    "batch": [
        *initialize("2025-03-26"),
        {"send": line([call(1, text="x"), call(2, "pid"), call(3, "no-such")]), "answers": 1},
    ],
    "carriage returns": [
        *initialize(),
        {"send": line(call(1, text="x")).replace("\n", "\r\n"), "answers": 1},
    ],
    "byte order mark": [{"send": "\ufeff" + line(call(1, text="x")), "answers": 1}],
    "leading spaces": [{"send": " \t " * 40 + line(call(1, text="x")), "answers": 1}],
    "noise first": [
        {"send": "Starting...\nready {not json}\n", "answers": 0},
        {"send": "more noise\n" * 300, "answers": 0},
        step(call(1, text="x")),
        step(call(2, text="y"), cut=1),
    ],
    "noise and a call in one write": [
        {"send": "n" * 3000 + "\n" + line(call(1, text="x")), "answers": 1},
        step(call(2, text="y")),
    ],
    "params before method": [
        *initialize(),
        step(
            {
                "params": {"arguments": {"text": "z" * 3000}, "name": "echo"},
                "method": "tools/call",
                "id": 1,
                "jsonrpc": "2.0",
            }
        ),
    ],
    "params before method, first": [
        step(
            {
                "params": {"arguments": {"text": "z" * 3000}, "name": "echo"},
                "method": "tools/call",
                "id": 1,
                "jsonrpc": "2.0",
            }
        ),
        step(call(2, text="y")),
    ],
    "huge and odd ids": [
        *initialize(),
        step(call(2**53 - 1, text="x")),
        step(call(-7, text="x")),
        step(call("i" * 5000, text="x")),
        step(call("", text="x")),
    ],
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_bytes(daemon: Daemon, tmp_path: Path, name: str) -> None:
    talk = Talk(daemon, tmp_path, UNUSUAL[name])
    if name == "huge and odd ids":
        for answer in talk.received:
            answer["id"] = _cut(answer["id"])
    talk.check()


def test_nothing_but_noise_is_no_mcp(daemon: Daemon, tmp_path: Path) -> None:
    """Logs and JSON that is not JSON-RPC make no events, and pass as they are."""
    text = "".join(f'{{"level":"info","n":{n}}}\nplain {n}\n' for n in range(500))
    talk = Talk(daemon, tmp_path, [{"send": text, "answers": 0}, step(call(1, "pid"))])
    assert [each["mcp"].get("method") for each in talk.events] == ["tools/call", "tools/call"]


def real_server(name: str, root: Path) -> list[str]:
    if name == "server-filesystem":
        return servers.filesystem(root)
    return servers.everything() if name == "server-everything" else servers.time_server()


REAL = ("server-filesystem", "server-everything", "mcp-server-time")


@pytest.mark.parametrize("name", REAL)
def test_real_servers(daemon: Daemon, tmp_path: Path, name: str) -> None:
    call_of = {
        "server-filesystem": call(1, "list_directory", path=str(tmp_path)),
        "server-everything": call(1, "echo", message="hello"),
        "mcp-server-time": call(1, "get_current_time", timezone="UTC"),
    }
    steps = [*initialize(), step(call_of[name]), step(call_of[name] | {"id": 2})]
    talk = Talk(daemon, tmp_path, steps, server=real_server(name, tmp_path))
    answered = [each for each in talk.received if "method" not in each]
    assert all("result" in each and not each["result"].get("isError") for each in answered)
    requests = [each["mcp"] for each in talk.events if each["class"] == "mcp.request"]
    ours = [each for each in requests if each["direction"] == "client-to-server"]
    assert [_essence(each) for each in ours] == [
        _expected(each) for each in talk.sent if "id" in each
    ]
    responses = [each["mcp"] for each in talk.events if each["class"] == "mcp.response"]
    assert [each["id"] for each in responses] == [each["id"] for each in answered]
    assert all(each["server"]["pid"] == talk.server for each in requests + responses)


def test_the_clients_of_the_sdk(daemon: Daemon, tmp_path: Path) -> None:
    """PyPI's `mcp` client with mcp-server-git, both in the session."""
    subprocess.run(["git", "init", "-q", str(tmp_path / "r")], check=True)
    script = tmp_path / "client.py"
    script.write_text(SDK_CLIENT)
    command = [sys.executable, str(script), *servers.git(tmp_path / "r")]
    done = subprocess.run(
        daemon.run("tested", command), check=True, timeout=60, capture_output=True, text=True
    )
    pid = int(done.stdout.split()[0])
    assert done.stdout.split()[1:] == ["ok"] * 5
    time.sleep(0.3)
    events = [
        each["mcp"]
        for each in daemon.events()
        if each["class"].startswith("mcp.") and each["mcp"].get("client", {}).get("pid") == pid
    ]
    calls = [each for each in events if each["kind"] == "request" and each.get("tool")]
    answers = [each for each in events if each["kind"] == "response" and each.get("tool")]
    assert [each["tool"] for each in calls] == ["git_status"] * 5
    assert [each["id"] for each in answers] == [each["id"] for each in calls]
    assert all(each["server"]["name"] == "mcp-server-git" for each in events)


SDK_CLIENT = """
import asyncio, os, sys
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

async def main():
    print(os.getpid())
    parameters = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:])
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        for _ in range(5):
            result = await session.call_tool("git_status", {"repo_path": sys.argv[3]})
            failed = getattr(result, "is_error", getattr(result, "isError", False))
            print(result if failed else "ok")

asyncio.run(main())
"""
