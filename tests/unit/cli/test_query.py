import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from agentd.cli.exits import Exit
from agentd.events.journal import Journal

Agentd = Callable[..., Result]
HOUR_NS = 3600 * 10**9


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    """A journal with an old exec, a denied call an hour later, and another workload's open."""
    path = tmp_path / "journal.db"
    writer = Journal(path, 16 << 20, "h1", "0123abcd-0000")
    now = time.time_ns()
    old = now - 2 * HOUR_NS
    command = {"exec": {"argv": ["git", "status"]}}
    writer.append("process.exec", old, "ci-bot", "s-1", command)
    decision = {"verdict": "deny", "rules": ["deny-delete"], "outcome": "denied"}
    call = {"method": "tools/call", "tool": "delete_file"}
    parts = {"mcp": call, "decision": decision}
    writer.append("mcp.request", now - HOUR_NS, "ci-bot", "s-1", parts, "deny", ["deny-delete"])
    opened = {"file": {"op": "open", "path": "/x\u202e"}}
    writer.append("file.open", now - 10**9, "other", "s-2", opened)
    writer.flush()
    yield path
    writer.close()


def _classes(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [json.loads(line)["class"] for line in result.stdout.splitlines()]


ALL = ["process.exec", "mcp.request", "file.open"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ALL),
        (("-n", "2"), ALL[1:]),
        (("-n", "0"), ALL),
        (("--since", "90m"), ALL[1:]),
        (("--until", "30m"), ALL[:2]),
        (("--since", "90m", "--until", "30m"), ["mcp.request"]),
        (("--workload", "ci-*"), ALL[:2]),
        (("--class", "file.*", "--class", "process.*"), ["process.exec", "file.open"]),
        (("--rule", "deny-*"), ["mcp.request"]),
        (("--verdict", "deny", "--verdict", "kill"), ["mcp.request"]),
        (("--verdict", "kill"), []),
        (("--session", "s-2"), ["file.open"]),
    ],
)
def test_conditions(
    agentd: Agentd, journal: Path, arguments: tuple[str, ...], expected: list[str]
) -> None:
    result = agentd("query", "--journal", str(journal), "--json", *arguments)
    assert _classes(result) == expected


def test_lines_for_people_are_clean(agentd: Agentd, journal: Path) -> None:
    lines = agentd("query", "--journal", str(journal)).stdout.splitlines()
    assert len(lines) == 3
    assert "tools/call delete_file  DENIED by deny-delete" in lines[1]
    assert "/x\\u202e" in lines[2]


def test_the_journal_comes_from_the_configuration(
    agentd: Agentd, journal: Path, tmp_path: Path
) -> None:
    config = tmp_path / "agentd.yaml"
    config.write_text(f"state_dir: {journal.parent}\n")
    assert _classes(agentd("--config", str(config), "query", "--json")) == ALL


def test_no_journal_is_an_answer(agentd: Agentd, tmp_path: Path) -> None:
    result = agentd("query", "--journal", str(tmp_path / "none.db"))
    assert result.exit_code == Exit.FAILED
    assert result.stderr.startswith("agentd: there is no journal at ")


def test_a_file_that_is_no_journal(agentd: Agentd, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("not a database, " * 100)
    result = agentd("query", "--journal", str(path))
    assert result.exit_code == Exit.FAILED
    assert "is damaged" in result.stderr
