"""Running the MCP conformance suite against a server, and what it found.

The suite writes one directory per scenario with a `checks.json`; the name of the directory ends
in a timestamp. A check is identified by its scenario, its id and its place among checks with
the same id; its status is SUCCESS, FAILURE, WARNING or SKIPPED.
"""

import json
import os
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.host.support import servers
from tests.host.support.nats import free_port
from tests.host.support.processes import end_tree, wait_until

Checks = dict[tuple[str, str, int], str]

_RESULT_DIRECTORY = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


def run_suite(url: str, output: Path, timeout: float = 120.0) -> Checks:
    """Run every active server scenario against `url`; raises AssertionError if it ran none.

    The tool exits 1 when any check failed, so its exit status says nothing here.
    """
    done = subprocess.run(
        [*servers.conformance(), "server", "--url", url, "--output-dir", str(output)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    checks = _read_results(output)
    assert checks, f"the suite wrote no checks:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return checks


def _read_results(output: Path) -> Checks:
    checks: Checks = {}
    for file in sorted(output.glob("*/checks.json")):
        match = _RESULT_DIRECTORY.fullmatch(file.parent.name)
        assert match is not None, f"unknown result directory {file.parent.name}"
        seen: Counter[str] = Counter()
        for check in json.loads(file.read_text()):
            if check["status"] == "INFO":  # a log of what was sent, not a verdict
                continue
            checks[match["scenario"], check["id"], seen[check["id"]]] = check["status"]
            seen[check["id"]] += 1
    return checks


class HttpServer:
    """An MCP server on loopback HTTP, ended with everything below it.

    `port` is where `command` will listen; it is also passed as $PORT.
    """

    READY_TIMEOUT_S = 20.0

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}/mcp"
        self._command = list(command)
        self._port = port
        self._log = log

    def __enter__(self) -> str:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, "PORT": str(self._port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        def listens() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self._port)) == 0

        wait_until(listens, self.READY_TIMEOUT_S, f"server on port {self._port}")
        return self.url

    def __exit__(self, *_: object) -> None:
        end_tree(self._process)


def everything_over_http() -> tuple[list[str], int]:
    """server-everything speaking streamable HTTP itself."""
    return servers.everything("streamableHttp"), free_port()


def bridged(stdio_server: Sequence[str]) -> tuple[list[str], int]:
    """A stdio server behind supergateway: one server process per MCP session.

    Sessions end after 1.5 s without a request; the suite never ends its own.
    """
    port = free_port()
    command = [
        *servers.supergateway(),
        *("--stdio", " ".join(stdio_server)),
        *("--outputTransport", "streamableHttp", "--stateful", "--sessionTimeout", "1500"),
        *("--port", str(port), "--logLevel", "none"),
    ]
    return command, port


def conformance_server() -> list[str]:
    """The stdio server of this directory that implements what the suite asks for."""
    return [str(servers.NODE), str(Path(__file__).with_name("conformance_server.mjs"))]
