import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from agentd.cli.exits import Exit

Agentd = Callable[..., Result]
GOOD = """\
rules:
  - id: deny-delete
    on: mcp.tool_call
    match: {tool: delete_*}
    action: deny
    tests:
      match: [delete_file]
      pass: [read_file]
"""
LATE = """\
rules:
  - id: no-listeners
    on: network.bind
    action: kill
"""
BAD = """\
rules:
  - id: typo
    on: mcp.tool_cal
    action: deny
"""
FAILING = GOOD.replace("[read_file]", "[delete_all]").replace("deny-delete", "too-wide")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "good.yaml").write_text(GOOD)
    return folder


def test_check_says_ok(agentd: Agentd, folder: Path) -> None:
    result = agentd("rules", "check", str(folder))
    assert (result.exit_code, result.stdout) == (0, "1 rules and 0 workloads: ok\n")


def test_check_names_what_comes_too_late_here(agentd: Agentd, folder: Path) -> None:
    (folder / "late.yaml").write_text(LATE)
    result = agentd("rules", "check", str(folder))
    assert result.exit_code == 0
    assert f"{folder}/late.yaml:2: note: no-listeners: " in result.stdout
    document = json.loads(agentd("rules", "check", "--json", str(folder)).stdout)
    assert document["ok"] is True
    assert [note["rule"] for note in document["notes"]] == ["no-listeners"]


def test_check_of_own_files_knows_the_shipped_rules_they_switch_off(
    agentd: Agentd, folder: Path
) -> None:
    (folder / "off.yaml").write_text("disable: [exec-shared-memory, deny-delete]\n")
    result = agentd("rules", "check", str(folder))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "0 rules and 0 workloads: ok",
        f"{folder}/off.yaml:1: note: deny-delete is switched off",
    ]
    document = json.loads(agentd("rules", "check", "--json", str(folder)).stdout)
    assert document["disabled"] == ["deny-delete"]
    (folder / "off.yaml").write_text("disable: [exec-shared-memry]\n")
    result = agentd("rules", "check", str(folder))
    assert result.exit_code == Exit.CONFIG
    assert f"{folder}/off.yaml:1: disable: no rule read before this file" in result.stderr


def test_check_names_file_line_and_mend(agentd: Agentd, folder: Path) -> None:
    (folder / "bad.yaml").write_text(BAD)
    result = agentd("rules", "check", str(folder))
    assert result.exit_code == Exit.CONFIG
    assert result.stderr.startswith(f"{folder}/bad.yaml:3: ")
    assert "'mcp.tool_call'" in result.stderr
    document = json.loads(agentd("rules", "check", "--json", str(folder)).stdout)
    assert document["ok"] is False
    (problem,) = document["problems"]
    assert (problem["file"], problem["line"]) == (f"{folder}/bad.yaml", 3)
    assert problem["mend"]


def test_test_runs_examples(agentd: Agentd, folder: Path) -> None:
    result = agentd("rules", "test", str(folder))
    assert (result.exit_code, result.stdout) == (0, "2 examples passed, 0 failed\n")


def test_test_fails_with_place_and_reason(agentd: Agentd, folder: Path) -> None:
    (folder / "failing.yaml").write_text(FAILING)
    (folder / "late.yaml").write_text(LATE)
    result = agentd("rules", "test", str(folder))
    assert result.exit_code == Exit.FAILED
    assert f"{folder}/failing.yaml:8: too-wide: pass example delete_all" in result.stderr
    assert "no-listeners has no example" in result.stderr
    assert "3 examples passed, 1 failed" in result.stdout
    document = json.loads(agentd("rules", "test", "--json", str(folder)).stdout)
    assert (document["ok"], document["examples"]) == (False, 4)
    assert document["failures"][0]["rule"] == "too-wide"
    assert document["untested"] == ["no-listeners"]


def test_list(agentd: Agentd, folder: Path) -> None:
    assert "deny-delete  mcp.tool_call  deny" in agentd("rules", "list", str(folder)).stdout
    document = json.loads(agentd("rules", "list", "--json", str(folder / "good.yaml")).stdout)
    (rule,) = document["rules"]
    assert (rule["id"], rule["action"], rule["line"]) == ("deny-delete", "deny", 2)


def test_a_missing_path_is_wrong_usage(agentd: Agentd) -> None:
    assert agentd("rules", "check", "/nonexistent").exit_code == Exit.USAGE


def test_rules_are_read_from_a_pipe(agentd: Agentd, tmp_path: Path) -> None:
    """As `agentd rules check <(...)` gives them; without a look at them they would be no rules."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(BAD,), daemon=True)
    writer.start()
    result = agentd("rules", "check", str(pipe))
    assert result.exit_code == Exit.CONFIG
    assert f"{pipe}:3: " in result.stderr
