"""The process that reads the rules: what arrives, and every way in which it can fail."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.daemon import loading, spawn
from agentd.daemon.loading import LoadError, Loading
from agentd.daemon.settings import Loaded, read_loaded
from agentd.errors import ConfigErrors
from agentd.policy.files import fingerprint
from agentd.policy.loader import load
from agentd.policy.rules import Approve

RULES = """
workloads:
  - {name: ci, posture: enforce, select: [{exe: /usr/bin/ci}]}
rules:
  - {id: ask, on: mcp.request, action: hold, match: {method: "tools/*"}}
"""
Configure = Callable[[str, str], list[str]]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Writes a configuration and a rule file; returns the arguments that name them."""
    directory = tmp_path / "rules.d"
    directory.mkdir()

    def write(configuration: str, rules: str) -> list[str]:
        (tmp_path / "agentd.yaml").write_text(configuration)
        (directory / "a.yaml").write_text(rules)
        return [f"--config={tmp_path / 'agentd.yaml'}", f"--rules={directory}"]

    return write


def loaded_with(arguments: list[str]) -> Loaded:
    return read_loaded(Loading(arguments).result())


def test_configuration_and_policy_arrive(configure: Configure, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    arguments = configure(
        "state_dir: /srv/agentd\nhost: web.1\njournal: {budget: 64MiB, flush_ms: 20}\n"
        f"nats: {{servers: [nats://127.0.0.1:4222], token: {secret}}}\ncontrol: {{group: ops}}\n"
        "defaults: {hold_timeout: 7s}\n",
        RULES,
    )
    found = loaded_with(arguments)
    assert found.config["nats"]["servers"] == ["nats://127.0.0.1:4222"]
    assert (found.settings.host_name, found.settings.control_group) == ("web-1", "ops")
    assert found.settings.state_dir == Path("/srv/agentd")
    assert found.settings.journal_path == Path("/srv/agentd/journal.db")
    assert (found.settings.journal_budget, found.settings.flush_ms) == (64 << 20, 20)
    assert found.settings.streams
    assert found.warnings == [f"{secret}: everybody on this host can use it; chmod 600 {secret}"]
    assert found.directories == [tmp_path / "rules.d"]
    assert found.fingerprint == fingerprint(found.directories)
    assert found.policy.workloads == load(found.directories).workloads
    assert found.policy.rules[0].approve == Approve(7.0, "deny")


def test_without_rules_directories_the_configuration_names_them(
    configure: Configure, tmp_path: Path
) -> None:
    configuration, _ = configure(f"rules: [{tmp_path}/rules.d]\n", RULES)
    found = loaded_with([configuration])
    assert found.directories[1:] == [tmp_path / "rules.d"]
    assert len(found.policy.rules) > 50  # the shipped ones come first
    assert found.policy.rules[-1].id == "ask"


@pytest.mark.parametrize(
    ("configuration", "rules", "expected"),
    [
        ("jurnal: {}\n", RULES, "agentd.yaml:1: unknown field 'jurnal'; did you mean 'journal'?"),
        ("", "rulez: []\n", "rules.d/a.yaml:1: unknown field 'rulez'; did you mean 'rules'?"),
        ("", RULES + "  - id: b\n", "rules.d/a.yaml:6: the field 'on' is missing; add 'on: ...'"),
    ],
)
def test_what_people_wrote_wrong_arrives_with_line_and_mend(
    configure: Configure, tmp_path: Path, configuration: str, rules: str, expected: str
) -> None:
    with pytest.raises(ConfigErrors) as caught:
        loaded_with(configure(configuration, rules))
    assert str(caught.value.errors[0]) == f"{tmp_path}/{expected}"


def test_names_that_are_not_utf8_are_no_problem(configure: Configure, tmp_path: Path) -> None:
    arguments = configure("", RULES)
    (tmp_path / "rules.d" / "\udcff.yaml").write_text("disable: [nothing]\n")
    with pytest.raises(ConfigErrors, match="no rule read before this file"):
        loaded_with(arguments)


def runs(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    def command(_module: str, *_arguments: str) -> list[str]:
        return [sys.executable, "-S", "-c", program]

    monkeypatch.setattr(spawn, "command", command)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("raise SystemExit(3)", "ended with 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
        ("print('{')", "wrote nonsense"),
        ("print('[]')", "wrote nonsense"),
        ("print('{\"errors\": [{}]}')", "wrote nonsense"),
        ("print('{\"errors\": [3]}')", "wrote nonsense"),
        ("print('{}')", "arrived as nonsense"),
        ("print('{\"config\": 3}')", "arrived as nonsense"),
    ],
)
def test_a_process_that_fails_is_an_error(
    monkeypatch: pytest.MonkeyPatch, program: str, expected: str
) -> None:
    runs(monkeypatch, program)
    with pytest.raises(LoadError, match=expected):
        loaded_with([])


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "command", lambda *_: ["/nonexistent/python"])
    with pytest.raises(LoadError, match="did not start"):
        Loading([])


def test_a_process_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "TIMEOUT_S", 0.2)
    runs(monkeypatch, "import time; time.sleep(60)")
    waited_for, polled = Loading([]), Loading([])
    started = time.monotonic()
    with pytest.raises(LoadError, match=r"was killed by signal 9; it may take 0\.2 s"):
        waited_for.result()
    while not polled.done():
        time.sleep(0.01)
    with pytest.raises(LoadError, match="was killed by signal 9"):
        polled.result()
    assert time.monotonic() - started < 5


def test_one_that_is_abandoned_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs(monkeypatch, "import time; time.sleep(60)")
    child = Loading([])
    child.abandon()
    assert child.done()
    assert not Path(f"/proc/{child.pid}").exists()
