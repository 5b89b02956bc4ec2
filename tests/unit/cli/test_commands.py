import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from agentd.cli import main
from agentd.cli.exits import MEANINGS, Exit
from tests.unit.cli.conftest import ControlServer

Agentd = Callable[..., Result]
EVENT = {
    "v": 1,
    "time": "2026-11-23T17:40:00.123456789Z",
    "class": "mcp.request",
    "workload": "ci-bot",
    "mcp": {"method": "tools/call", "tool": "evil\x1b[2J"},
    "decision": {"verdict": "deny", "rules": ["r1"], "outcome": "denied"},
}
HOLD = {
    "id": "h-7",
    "workload": "ci-bot",
    "session": "s-k3v9q2ab",
    "rule": "ask-first",
    "reason": "needs a person",
    "subject": {"mcp": {"method": "tools/call", "tool": "deploy"}},
    "process": {"pid": 42, "comm": "node"},
    "age_s": 75.2,
    "timeout_s": 120,
    "on_timeout": "deny",
}
PS = {
    "ok": True,
    "workloads": [
        {
            "name": "ci-bot",
            "posture": "enforce",
            "sessions": [
                {
                    "id": "s-k3v9q2ab",
                    "task": {"objective": "mend it"},
                    "labels": ["read:secret"],
                    "started": "2026-11-23T17:40:00Z",
                    "processes": [
                        {"pid": 10, "ppid": 1, "exe": "/bin/a", "argv": ["a", "b\x1b[0m"]},
                        {"pid": 12, "ppid": 10, "exe": "/bin/c", "argv": []},
                        {"pid": 11, "ppid": 10, "exe": "/bin/b", "argv": ["b"]},
                        {"pid": 13, "ppid": 11, "exe": "/bin/d", "argv": ["d"]},
                    ],
                }
            ],
        },
        {"name": "idle", "posture": "observe", "sessions": []},
    ],
}


def test_help_lists_every_command_and_exit_code(agentd: Agentd) -> None:
    result = agentd("--help")
    assert result.exit_code == 0
    for name in main._COMMANDS:
        assert f"\n  {name} " in result.output
    for code, meaning in MEANINGS.items():
        assert f"{int(code):2}  {meaning}" in result.output


@pytest.mark.parametrize("name", list(main._COMMANDS))
def test_every_command_has_help_that_says_what_the_list_says(agentd: Agentd, name: str) -> None:
    result = agentd(name, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage: agentd" in result.output


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("watch", "--verdict", "maybe"), ("approve",), ("completion", "tcsh"),
     ("run", "--", "true"), ("run", "-w", "x"), ("run", "-w", "x", "--expires", "2h", "--", "true"),
     ("run", "-w", "x", "--task", "t", "--expires", "soon", "--", "true"),
     ("query", "--since", "yesterday-ish")],
)  # fmt: skip
def test_wrong_usage_ends_with_2(agentd: Agentd, arguments: tuple[str, ...]) -> None:
    result = agentd(*arguments)
    assert result.exit_code == Exit.USAGE, result.output
    assert "Error: " in result.stderr


@pytest.mark.parametrize(
    "arguments", [("ps",), ("holds",), ("approve", "x"), ("reload",), ("status",), ("watch",)]
)
def test_without_a_daemon_every_command_ends_with_69(
    agentd: Agentd, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTD_SOCKET", "")
    result = agentd("--socket", str(tmp_path / "none" / "s"), *arguments)
    assert result.exit_code == Exit.UNAVAILABLE
    assert result.stderr.startswith("agentd: the daemon does not answer")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments", [("ps",), ("watch", "-n", "1"), ("watch", "-n", "1", "--json")]
)
def test_output_that_goes_nowhere_is_no_fault_of_the_command(
    server: ControlServer, arguments: tuple[str, ...]
) -> None:
    """Standard output closed, or on a full disk."""
    server.answers |= {"ps": PS, "watch": [{"ok": True}, EVENT]}
    command = [sys.executable, "-m", "agentd", "--socket", str(server.path), *arguments]
    closed = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, b"")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == Exit.FAILED
    assert done.stderr.startswith(b"agentd: the output cannot be written")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "redirections", "exit_code", "lines"),
    [
        ("--help", ">/dev/full", Exit.FAILED, 1),
        ("--version", ">/dev/full", Exit.FAILED, 1),
        ("run --help", ">/dev/full", Exit.FAILED, 1),
        ("rules check --help", "1</dev/null", Exit.FAILED, 1),
        ("--help", ">/dev/full 2>/dev/full", Exit.FAILED, 0),
        ("--help", ">&- 2>&-", Exit.OK, 0),
        ("status", "2>/dev/full", Exit.UNAVAILABLE, 0),
        ("status", ">&- 2>&-", Exit.UNAVAILABLE, 0),
        ("no-such-command", "2>/dev/full", Exit.FAILED, 0),
    ],
)
def test_help_and_complaints_that_cannot_be_written(
    tmp_path: Path, words: str, redirections: str, exit_code: Exit, lines: int
) -> None:
    command = [sys.executable, "-m", "agentd", "--socket", str(tmp_path / "none" / "s")]
    script = f'exec "$@" {redirections}'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *command, *words.split()], capture_output=True, check=False
    )
    assert done.returncode == exit_code
    assert done.stderr.count(b"\n") == lines, done.stderr
    assert not lines or done.stderr.startswith(b"agentd: the output cannot be written: ")


def test_refusal_ends_with_77_in_one_clean_line(agentd: Agentd, server: ControlServer) -> None:
    server.answers["approve"] = {"ok": False, "error": "inside \x1b[1mci-bot", "code": "denied"}
    result = agentd("approve", "h-7")
    assert result.exit_code == Exit.DENIED
    assert result.stderr == "agentd: inside \\x1b[1mci-bot\n"


def test_watch_renders_and_goes_on_over_a_restart(agentd: Agentd, server: ControlServer) -> None:
    server.script = [[{"ok": True}, EVENT], [{"ok": True}, {**EVENT, "count": 2}]]
    result = agentd("watch", "--class", "mcp.*", "--decisions", "-n", "2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert "evil\\x1b[2J" in lines[0]
    assert "DENIED by r1" in lines[0]
    assert "trying again" in result.stderr
    assert server.requests[0] == {
        "op": "watch",
        "classes": ["mcp.*"],
        "verdict": ["allow", "audit", "deny", "hold", "kill"],
    }


def test_watch_json_is_one_ascii_object_a_line(agentd: Agentd, server: ControlServer) -> None:
    server.answers["watch"] = [{"ok": True}, {"seq": 1}, EVENT]
    result = agentd("watch", "--json", "-n", "2")
    first, second = result.stdout.splitlines()
    assert json.loads(first) == {"seq": 1}
    assert json.loads(second) == EVENT
    assert "\x1b" not in second


def test_ps_draws_trees(agentd: Agentd, server: ControlServer) -> None:
    server.answers["ps"] = PS
    result = agentd("ps")
    assert result.stdout.splitlines() == [
        "ci-bot  enforce  1 session",
        "└─ s-k3v9q2ab  since 2026-11-23T17:40:00Z  task: mend it  labels: read:secret",
        "   └─ 10 a b\\x1b[0m",
        "      ├─ 11 b",
        "      │  └─ 13 d",
        "      └─ 12 /bin/c",
    ]


def test_ps_selects_and_prints_json(agentd: Agentd, server: ControlServer) -> None:
    server.answers["ps"] = PS
    assert "idle  observe  0 sessions" in agentd("ps", "--all").stdout
    document = json.loads(agentd("ps", "--json", "idle").stdout)
    assert [one["name"] for one in document["workloads"]] == ["idle"]


def test_ps_survives_a_loop_of_parents(agentd: Agentd, server: ControlServer) -> None:
    loop = [{"pid": 1, "ppid": 2}, {"pid": 2, "ppid": 1}, {"pid": 3, "ppid": 3}, {"pid": "x"}]
    session = {"id": "s", "processes": loop}
    server.answers["ps"] = {"ok": True, "workloads": [{"name": "w", "sessions": [session]}]}
    result = agentd("ps")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2 + len(loop)


def test_holds(agentd: Agentd, server: ControlServer) -> None:
    server.answers["holds"] = {"ok": True, "holds": [HOLD]}
    header, row = agentd("holds").stdout.splitlines()
    assert header.split() == ["ID", "AGE", "LIMIT", "THEN", "WORKLOAD", "PROCESS", "RULE", "WHAT"]
    for part in ("h-7", "1m15s", "2m00s", "deny", "ci-bot/k3v9q2ab", "node[42]", "ask-first",
                 "tools/call deploy (needs a person)"):  # fmt: skip
        assert part in row
    assert json.loads(agentd("holds", "--json").stdout) == {"holds": [HOLD]}
    server.answers["holds"] = {"ok": True, "holds": []}
    assert agentd("holds").stdout == "nothing is held\n"


@pytest.mark.parametrize(("op", "verdict"), [("approve", "allow"), ("deny", "deny")])
def test_decisions(agentd: Agentd, server: ControlServer, op: str, verdict: str) -> None:
    server.answers[op] = {"ok": True, "id": "h-7", "verdict": verdict}
    result = agentd(op, "h-7", "--note", "seen", "--json")
    assert json.loads(result.stdout) == {"id": "h-7", "verdict": verdict}
    assert server.requests == [{"op": op, "id": "h-7", "note": "seen"}]


def test_unknown_hold_ends_with_1(agentd: Agentd, server: ControlServer) -> None:
    server.answers["deny"] = {"ok": False, "error": "no hold h-9", "code": "not-found"}
    result = agentd("deny", "h-9")
    assert (result.exit_code, result.stderr) == (Exit.FAILED, "agentd: no hold h-9\n")


def test_reload_says_what_is_wrong(agentd: Agentd, server: ControlServer) -> None:
    server.answers["reload"] = {"ok": True, "rules": 12, "workloads": 3, "problems": []}
    result = agentd("reload")
    assert (result.exit_code, result.stdout) == (0, "12 rules and 3 workloads in force\n")
    server.answers["reload"] = {
        "ok": True,
        "rules": 12,
        "workloads": 3,
        "problems": ["a.yaml:3: x"],
    }
    result = agentd("reload")
    assert result.exit_code == Exit.CONFIG
    assert "a.yaml:3: x" in result.stderr


def test_status_joins_ping_and_counters(agentd: Agentd, server: ControlServer) -> None:
    server.answers["ping"] = {"ok": True, "version": "0.1.0", "tier": "observe"}
    server.answers["status"] = {"ok": True, "events": {"journal": 7}}
    document = json.loads(agentd("status", "--json").stdout)
    assert document == {"version": "0.1.0", "tier": "observe", "events": {"journal": 7}}
    assert "events.journal" in agentd("status").stdout


@pytest.mark.parametrize(("shell", "marker"), [("bash", "complete "), ("zsh", "#compdef"),
                                              ("fish", "complete ")])  # fmt: skip
def test_completion_scripts(agentd: Agentd, shell: str, marker: str) -> None:
    result = agentd("completion", shell)
    assert result.exit_code == 0
    assert marker in result.stdout
    assert "_AGENTD_COMPLETE" in result.stdout


def test_bash_takes_the_completion_script(agentd: Agentd) -> None:
    script = agentd("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_hold_ids_are_completed(
    agentd: Agentd, server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["holds"] = {"ok": True, "holds": [HOLD, {"id": "g-1"}]}
    completed = subprocess.run(
        [sys.executable, "-m", "agentd"],
        env={
            "_AGENTD_COMPLETE": "bash_complete",
            "COMP_WORDS": f"agentd --socket {server.path} approve h-",
            "COMP_CWORD": "4",
            "PATH": "/usr/bin:/bin",
        },
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout == "plain,h-7\n"


def test_run_hands_over_everything(agentd: Agentd, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def run(*arguments: object) -> int:
        calls.append(arguments)
        return 7

    monkeypatch.setattr("agentd.cli.run.run", run)
    result = agentd(
        "run", "-w", "ci-bot", "--task", "mend", "--expires", "2h", "--", "ls", "--json"
    )
    assert result.exit_code == 7
    socket, workload, task, argv = calls[0]
    assert str(socket).endswith("control.sock")
    assert (workload, argv) == ("ci-bot", ["ls", "--json"])
    assert isinstance(task, dict)
    assert task["objective"] == "mend"
    assert task["expires"].endswith("+00:00")


def test_a_task_that_is_not_utf_8_is_wrong_usage(
    agentd: Agentd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentd.cli.run.run", lambda *_: 0)
    result = agentd("run", "-w", "x", "--task", "caf\udce9", "--", "true")
    assert result.exit_code == Exit.USAGE
    assert "--task is not UTF-8" in result.stderr


def test_daemon_wants_rules_that_are_there(
    agentd: Agentd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would start without a rule."""
    monkeypatch.setattr("os.execve", lambda *_: None)
    result = agentd("daemon", "--rules", str(tmp_path / "rulez.d"))
    assert result.exit_code == Exit.USAGE
    assert "does not exist" in result.stderr


def test_daemon_replaces_the_process(agentd: Agentd, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda *arguments: calls.append(arguments))
    agentd("--config", "/c.yaml", "daemon", "--foreground", "--rules", "/", "--rules", "/dev")
    program, arguments, environment = calls[0]
    assert program == sys.executable
    assert str(Path(main.__file__).parents[2]) in environment["PYTHONPATH"].split(":")
    assert arguments[1:] == ["-S", "-P", "-m", "agentd.cli.supervise", "--foreground",
                             "--config", "/c.yaml", "--rules", "/", "--rules", "/dev"]  # fmt: skip


@pytest.mark.parametrize("command", ["run_command", "supervise_imports"])
def test_what_must_start_fast_imports_little(command: str) -> None:
    """`run` pays for no other command; the daemon's first modules know no click."""
    code = {
        "run_command": "import agentd.cli.main, agentd.cli.run_command",
        "supervise_imports": "import agentd.ui.live, agentd.cli.client, agentd.kernel.tiers",
    }[command]
    listed = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print('\\n'.join(sys.modules))"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    unwanted = {"pydantic", "yaml", "sqlite3", "asyncio", "orjson", "agentd.cli.doctor"}
    if command == "supervise_imports":
        unwanted |= {"click", "rich"}
    assert not unwanted.intersection(listed)


def test_the_configuration_names_the_socket(agentd: Agentd, tmp_path: Path) -> None:
    config = tmp_path / "agentd.yaml"
    config.write_text(f"runtime_dir: {tmp_path / 'elsewhere'}\n")
    result = agentd("--socket", "", "--config", str(config), "ps")
    assert result.exit_code == Exit.UNAVAILABLE
    assert f"{tmp_path}/elsewhere/control.sock" in result.stderr


def test_a_wrong_configuration_ends_with_78(agentd: Agentd, tmp_path: Path) -> None:
    config = tmp_path / "agentd.yaml"
    config.write_text("runtime_dir: /x\nnonsense: 1\n")
    result = agentd("--socket", "", "--config", str(config), "ps")
    assert result.exit_code == Exit.CONFIG
    assert f"{config}:2: " in result.stderr
