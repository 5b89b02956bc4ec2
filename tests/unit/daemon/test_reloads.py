"""Reloads beside the loop, with a policy that only takes notes."""

import time
from pathlib import Path
from typing import Any, cast

import pytest

from agentd.daemon.inforce import CompiledPolicy, PolicyInForce
from agentd.daemon.loading import Loading
from agentd.daemon.reloads import Reloads
from agentd.daemon.settings import read_loaded

GOOD = "rules:\n  - {id: a, on: mcp.request, action: deny}\n"
MORE = GOOD + "  - {id: b, on: mcp.request, action: deny}\n"


class NotedPolicy:
    """Stands for `PolicyInForce`: notes what it is asked to do."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def reload(self, compiled: CompiledPolicy) -> dict[str, Any]:
        self.done.append([rule.id for rule in compiled.policy.rules])
        return {"rules": len(compiled.policy.rules)}

    def reject(self, problems: list[str]) -> dict[str, Any]:
        self.done.append(problems)
        return {"problems": problems}


class Host:
    """A rule file, and reloads of it."""

    def __init__(self, directory: Path) -> None:
        self.rules = directory / "rules.d"
        self.rules.mkdir()
        self.file = self.rules / "a.yaml"
        self.file.write_text(GOOD)
        self.config = directory / "agentd.yaml"
        self.config.write_text("")
        self.policy = NotedPolicy()
        self.own: set[int] = set()
        arguments = [f"--config={self.config}", f"--rules={self.rules}"]
        loaded = read_loaded(Loading(arguments).result())
        policy = cast("PolicyInForce", self.policy)
        self.reloads = Reloads(arguments, loaded, policy, self.own)

    def turns(self) -> int:
        """Turns the loop until nothing is under way; how many of them put rules in force."""
        changed = idle = 0
        while idle < 2:
            changed += self.reloads.turn()
            idle = 0 if self.own or self.reloads.compiled else idle + 1
            time.sleep(0.005)
        return changed


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_file_that_changes_is_read_once(host: Host) -> None:
    host.reloads.look()
    assert (host.turns(), host.policy.done) == (0, [])
    host.file.write_text(MORE)
    for _ in range(2):
        host.reloads.look()
        host.turns()
    assert host.policy.done == [["a", "b"]]


def test_rules_with_a_mistake_are_rejected_once_with_file_and_line(host: Host) -> None:
    host.file.write_text("rules: 1\n")
    for _ in range(2):
        host.reloads.look()
        assert host.turns() == 0
    assert host.policy.done == [
        [f"{host.file}:1: 'rules' is not a list; put '- ' before each of the rules"]
    ]


def test_whoever_asks_is_answered_by_a_reload_that_began_later(host: Host) -> None:
    answers: list[tuple[str, dict[str, Any]]] = []
    host.reloads.request(lambda answer: answers.append(("first", answer)))
    assert not host.reloads.turn()
    assert len(host.own) == 1
    host.file.write_text(MORE)
    host.reloads.request(lambda answer: answers.append(("second", answer)))
    assert host.turns() == 2
    assert [name for name, _ in answers] == ["first", "second"]
    assert answers[1][1] == {"rules": 2}


def test_a_reload_that_cannot_start_is_an_answer(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[dict[str, Any]] = []
    monkeypatch.setattr("agentd.daemon.spawn.command", lambda *_: ["/nonexistent/python"])
    host.reloads.request(answers.append)
    assert host.turns() == 0
    assert "did not start" in answers[0]["problems"][0]


def test_the_configuration_is_read_too(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    elsewhere = host.rules.parent / "elsewhere"
    host.config.write_text(f"rules: [{elsewhere}]\njournal: {{flush_ms: 20}}\n")
    for _ in range(2):
        host.reloads.request()
        assert host.turns() == 1
    said = "agentd: the configuration has changed (journal); restart agentd to use it\n"
    assert capfd.readouterr().err == said


def test_closing_ends_what_is_under_way(host: Host) -> None:
    host.reloads.request()
    host.reloads.turn()
    (pid,) = host.own
    host.reloads.close()
    assert not Path(f"/proc/{pid}").exists()


def test_the_rules_of_a_directory_that_is_gone_stay_in_force(host: Host, tmp_path: Path) -> None:
    away = host.rules.rename(tmp_path / "away")
    for _ in range(2):
        host.reloads.look()
        assert host.turns() == 0
    mend = "make it again, without files to have none"
    assert host.policy.done == [[f"{host.rules} is gone, its rules stay in force; {mend}"]]
    away.rename(host.rules)
    host.file.unlink()
    host.reloads.look()
    assert host.turns() == 1
    assert host.policy.done[1:] == [[]]
