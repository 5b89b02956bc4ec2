"""The MCP conformance suite finds the same with and without agentd in front of the server.

`agentd run` starts the whole server side in a workload in posture enforce with a rule that allows
everything, so every request goes through a hold and none may come out different.
"""

from collections import Counter
from pathlib import Path

import pytest

from tests.host.support import conformance, servers
from tests.host.support.conformance import Checks, HttpServer, run_suite
from tests.host.support.daemon import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def _compare(command: list[str], port: int, daemon: Daemon, directory: Path) -> Checks:
    """Run the suite against `command` twice, the second time labelled; both must agree."""
    with HttpServer(command, port, directory / "plain.log") as url:
        plain = run_suite(url, directory / "plain")
    with HttpServer(daemon.run("tested", command), port, directory / "labelled.log") as url:
        labelled = run_suite(url, directory / "labelled")
    differences = {
        check: (plain.get(check), labelled.get(check))
        for check in plain.keys() | labelled.keys()
        if plain.get(check) != labelled.get(check)
    }
    assert not differences, f"(check): (plain, under agentd): {differences}"
    return plain


def _held_tool_calls(daemon: Daemon) -> Counter[str]:
    """Tool calls that were held and allowed, by tool."""
    return Counter(
        event["mcp"]["tool"]
        for event in daemon.events("mcp.request")
        if event["mcp"]["method"] == "tools/call"
        and event["decision"]["verdict"] == "allow"
        and event["decision"]["hold_us"] > 0
    )


def test_server_that_speaks_http_itself(agentd_daemon: Daemon, tmp_path: Path) -> None:
    command, port = conformance.everything_over_http()
    checks = _compare(command, port, agentd_daemon, tmp_path)
    assert Counter(checks.values())["SUCCESS"] >= 13


def test_everything_server_over_stdio(agentd_daemon: Daemon, tmp_path: Path) -> None:
    command, port = conformance.bridged(servers.everything())
    checks = _compare(command, port, agentd_daemon, tmp_path)
    assert Counter(checks.values())["SUCCESS"] >= 13
    assert _held_tool_calls(agentd_daemon).total() > 0


def test_complete_server_over_stdio(agentd_daemon: Daemon, tmp_path: Path) -> None:
    """Progress, logging, sampling and elicitation pass through the held server as well."""
    command, port = conformance.bridged(conformance.conformance_server())
    checks = _compare(command, port, agentd_daemon, tmp_path)
    failed = {check[0] for check, status in checks.items() if status == "FAILURE"}
    assert failed == {"dns-rebinding-protection"}, "the bridge accepts any Host header"
    assert _held_tool_calls(agentd_daemon).keys() >= {
        "test_simple_text",
        "test_tool_with_progress",
        "test_sampling",
        "test_elicitation",
    }
