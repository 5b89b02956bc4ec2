"""Ways to get a forbidden tool call past agentd, judged by its effect: the file must not be there.

`EVASIONS` is data: the documentation's table of what each tier makes of them is made from it. A
case that says `gap` or `detected` must show the effect: when the gap is closed, it fails here and
the table is put right.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from tests.host.support.daemon import Daemon, workload
from tests.host.support.processes import wait_until
from tests.host.support.stdio_client import StdioClient

Expected = Literal["denied", "held", "killed", "detected", "gap"]

MINI = [
    sys.executable,
    "-SE",
    str(Path(__file__).parents[1] / "host" / "support" / "mini_server.py"),
]
pytestmark = pytest.mark.host


@dataclass(frozen=True, slots=True)
class Evasion:
    """One trick, and what the observe tier makes of it: with the effect prevented, or only seen."""

    name: str
    observe: Expected
    attempt: Callable[["Target"], None]
    note: str = ""


class Target:
    """A server that may not write the file `forbidden`, and the means to talk to it."""

    def __init__(self, client: StdioClient, directory: Path, daemon: Daemon) -> None:
        self.client = client
        self.forbidden = directory / "forbidden"
        self.free = directory / "free"
        self.daemon = daemon

    def call(self, path: Path | None = None, number: Any = "n", **more: Any) -> dict[str, Any]:
        arguments = {"path": str(path or self.forbidden), "content": "x"}
        params = {"name": "write", "arguments": arguments | more}
        return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}

    def raw(self, **more: Any) -> bytes:
        return json.dumps(self.call(**more)).encode()

    def send(self, data: bytes, cut: int = 0) -> None:
        for at in range(0, len(data), cut or len(data)):
            self.client.send_raw(data[at : at + (cut or len(data))])

    @property
    def server(self) -> psutil.Process:
        return psutil.Process(int(self.client.call("pid")["result"]["content"][0]["text"]))


def _initialized(attempt: Callable[[Target], None]) -> Callable[[Target], None]:
    def after_handshake(target: Target) -> None:
        target.client.initialize()
        attempt(target)

    return after_handshake


def _small_writes(target: Target) -> None:
    target.send(target.raw() + b"\n", cut=1)


def _small_writes_with_pauses(target: Target) -> None:
    for byte in target.raw() + b"\n":
        target.client.send_raw(bytes([byte]))
        time.sleep(0.001)


def _many_in_one(target: Target) -> None:
    allowed = [target.raw(path=target.free, number=n) for n in range(40)]
    target.send(b"\n".join([*allowed, target.raw(), *allowed]) + b"\n")


def _carriage_return(target: Target) -> None:
    target.send(target.raw() + b"\r\n")


def _byte_order_mark(target: Target) -> None:
    target.send(b"\xef\xbb\xbf" + target.raw() + b"\n")


def _leading_spaces(target: Target) -> None:
    target.send(b" \t" * 3000 + target.raw() + b"\n")


def _spaces_in_pieces(target: Target) -> None:
    for _ in range(3):
        target.client.send_raw(b"  ")
        time.sleep(0.02)
    target.send(target.raw() + b"\n")


def _batch(target: Target) -> None:
    target.send(b"[" + target.raw(path=target.free, number=1) + b"," + target.raw() + b"]\n")


def _huge_id(target: Target) -> None:
    target.send(target.raw(number="i" * 200_000) + b"\n")


def _string_id(target: Target) -> None:
    target.send(target.raw(number='n"\\\u2028') + b"\n")


def _params_first(target: Target) -> None:
    call = target.call(pad="p" * 5000)
    turned = {key: call[key] for key in ("params", "method", "id", "jsonrpc")}
    target.send(json.dumps(turned).encode() + b"\n")


def _without_version(target: Target) -> None:
    call = target.call()
    del call["jsonrpc"]
    target.send(json.dumps(call).encode() + b"\n")


def _escaped_names(target: Target) -> None:
    def escaped(text: str) -> str:
        return "".join(f"\\u{ord(each):04x}" for each in text)

    data = target.raw().decode()
    for word in ("method", "tools/call", "write", "arguments", "path", "params", "id", "name"):
        data = data.replace(f'"{word}"', f'"{escaped(word)}"')
    target.send(data.encode() + b"\n")


def _two_names(target: Target) -> None:
    data = target.raw().replace(b'"name": "write"', b'"name": "echo", "name": "write"')
    target.send(data + b"\n")


def _over_a_mebibyte(target: Target) -> None:
    target.send(target.raw(pad="p" * (3 << 20)) + b"\n")


def _noise_first(target: Target) -> None:
    target.send(b"starting up\n" * 20)
    time.sleep(0.05)
    target.send(target.raw() + b"\n")


def _noise_then_small_writes(target: Target) -> None:
    target.send(b'{"level": "info"}\nhello\n' * 20)
    time.sleep(0.05)
    target.send(target.raw() + b"\n", cut=1)


def _logs_then_escaped_keys(target: Target) -> None:
    """The channel counts as one of something else, and nothing says "jsonrpc" as it stands."""
    target.send(b'{"level": "info"}\n' * 20)
    time.sleep(0.5)  # it is taken in within a quarter of a second
    raw = target.raw()
    for plain, escaped in ((b"jsonrpc", rb"\u006asonrpc"), (b"method", rb"m\u0065thod")):
        raw = raw.replace(b'"%s"' % plain, b'"%s"' % escaped)
    target.send(raw + b"\n")


def _made_up_answer(target: Target) -> None:
    """The server passes over it; who goes by it takes the server for a client."""
    target.send(b'{"jsonrpc":"2.0","id":99,"result":{"tools":[]}}\n')
    time.sleep(0.5)  # it is taken in within a quarter of a second
    target.send(target.raw(path=target.free) + b"\n")
    target.send(target.raw() + b"\n")


def _made_up_answer_then_padding(target: Target) -> None:
    """The members that make it a request stand beyond the first KiB."""
    target.send(b'{"jsonrpc":"2.0","id":99,"result":{"tools":[]}}\n')
    time.sleep(0.5)
    call = target.call(padding="p" * 2000)
    ordered = {key: call[key] for key in ("jsonrpc", "params", "id", "method")}
    target.send(json.dumps(ordered).encode() + b"\n")


def _noise_around(target: Target) -> None:
    """One write: noise longer than what the kernel scans before and after the call."""
    target.send(b"n" * 3000 + b"\n" + target.raw() + b"\n" + b"n" * 3000 + b"\n")


def _pretty_printed(target: Target) -> None:
    """Over several lines: not MCP, and refused by line-based servers; must do no harm."""
    target.send(json.dumps(target.call(), indent=1).encode() + b"\n")


def _retry_with_other_arguments(target: Target) -> None:
    target.send(target.raw(path=target.free, number="same") + b"\n")
    target.client.read()
    target.send(target.raw(number="same") + b"\n")


def _case_of_keys(target: Target) -> None:
    """Go's parser would take it (CVE-2026-27896); ours tells, and judges what it may mean."""
    target.send(target.raw().replace(b'"method"', b'"Method"') + b"\n")


def _call_without_id(target: Target) -> None:
    call = target.call()
    del call["id"]
    target.send(json.dumps(call).encode() + b"\n")


def _woken_by_others(target: Target) -> None:
    """SIGCONT to the held server, from outside or from a helper of the session."""
    server = target.server
    held = target.forbidden.with_name("waits")
    target.send(target.raw(path=held) + b"\n")
    wait_until(lambda: server.status() == psutil.STATUS_STOPPED, 5, "the stop")
    server.resume()


EVASIONS = [
    Evasion("one byte a write, as the first message", "denied", _small_writes),
    Evasion("one byte a write", "denied", _initialized(_small_writes_with_pauses)),
    Evasion("many messages in one write", "denied", _initialized(_many_in_one)),
    Evasion("CRLF", "denied", _initialized(_carriage_return)),
    Evasion("byte order mark, as the first message", "denied", _byte_order_mark),
    Evasion("6 KB of leading white space, as the first message", "denied", _leading_spaces),
    Evasion("leading white space in its own writes", "denied", _spaces_in_pieces),
    Evasion("batch", "denied", _initialized(_batch)),
    Evasion("batch, as the first message", "denied", _batch),
    Evasion("200 KB string id", "denied", _initialized(_huge_id)),
    Evasion("id with quotes and line separators", "denied", _initialized(_string_id)),
    Evasion("params before method, as the first message", "denied", _params_first),
    Evasion("no jsonrpc member, as the first message", "denied", _without_version),
    Evasion("escaped keys and names", "denied", _initialized(_escaped_names)),
    Evasion("escaped keys and names, as the first message", "denied", _escaped_names),
    Evasion("the tool's name twice", "denied", _initialized(_two_names)),
    Evasion("over 1 MiB", "denied", _initialized(_over_a_mebibyte)),
    Evasion("over 1 MiB, as the first message", "denied", _over_a_mebibyte),
    Evasion("lines of noise first", "denied", _noise_first),
    Evasion("noise and JSON logs first, then one byte a write", "denied", _noise_then_small_writes),
    Evasion("JSON logs first, then escaped keys", "denied", _logs_then_escaped_keys),
    Evasion("a made-up answer first", "denied", _made_up_answer),
    Evasion("a made-up answer, then a call behind padding", "denied", _made_up_answer_then_padding),
    Evasion(
        "noise before and after, in one write, as the first message",
        "detected",
        _noise_around,
        "Of a channel that has not shown to be MCP the first and last 1 KiB of each read are looked"
        " at. The answer shows what it is; every later call is held.",
    ),
    Evasion("over several lines", "denied", _initialized(_pretty_printed)),
    Evasion("retry with changed arguments", "denied", _initialized(_retry_with_other_arguments)),
    Evasion("keys in another case", "denied", _initialized(_case_of_keys)),
    Evasion(
        "a call without an id",
        "denied",
        _initialized(_call_without_id),
        "A notification to every server that follows JSON-RPC: it is not executed.",
    ),
    Evasion(
        "SIGCONT to the held server",
        "killed",
        _initialized(_woken_by_others),
        "Nothing on this tier can refuse the signal. It is noticed within 250 ms, and the server is"
        " killed if the workload says on_failure: deny; what it did until then is done.",
    ),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    def rule(name: str, action: str, path: str, **fields: Any) -> dict[str, Any]:
        match = {"tool": "write", "arguments": {"path": path}}
        return {"id": name, "on": "mcp.tool_call", "match": match, "action": action, **fields}

    rules = [
        rule("deny", "deny", "*/forbidden"),
        rule("hold", "hold", "*/waits", approve={"timeout": "30s", "on_timeout": "deny"}),
    ]
    files = {"w.yaml": workload("tested"), "r.yaml": {"rules": rules}}
    with Daemon(tmp_path_factory.mktemp("adversarial"), files) as started:
        yield started


@pytest.mark.parametrize("case", EVASIONS, ids=lambda case: case.name)
def test_evasion(daemon: Daemon, tmp_path: Path, case: Evasion) -> None:
    with StdioClient(daemon.run("tested", MINI), timeout=5) as client:
        target = Target(client, tmp_path, daemon)
        case.attempt(target)
        time.sleep(0.3)
        if case.observe == "killed":
            with pytest.raises((ConnectionError, BrokenPipeError)):
                _work_through(client)
            assert daemon.wait_for(_about(tmp_path, "killed"))
            return
        # The server has worked through all of it when it answers this; then another attempt fails.
        _work_through(client)
        assert target.forbidden.exists() == (case.observe in {"detected", "gap"})
        if case.observe == "detected":
            target.forbidden.unlink()
            target.send(target.raw(number="again") + b"\n")
            _work_through(client)
            assert not target.forbidden.exists()
        elif case.observe == "denied" and case.name not in UNEXECUTED:
            assert daemon.wait_for(_about(tmp_path, "denied"))


UNEXECUTED = {"over several lines", "keys in another case", "a call without an id"}
"""What the server of this test refuses by itself."""


def _work_through(client: StdioClient) -> None:
    """Waits for the answer to a ping behind everything else; a batch is answered by a list."""
    client.send_raw(b'{"jsonrpc":"2.0","id":"done","method":"ping"}\n')
    answer: Any = None
    while not (isinstance(answer, dict) and answer.get("id") == "done"):
        answer = client.read()


def _about(directory: Path, outcome: str) -> Callable[[dict[str, Any]], bool]:
    def matches(event: dict[str, Any]) -> bool:
        arguments = event.get("mcp", {}).get("arguments") or {}
        path = str(arguments.get("path", "")) if isinstance(arguments, dict) else ""
        return (
            str(Path(path).parent) == str(directory)
            and event["class"].startswith("mcp.")
            and event.get("decision", {}).get("outcome") == outcome
        )

    return matches
