"""Exec rules act before the first instruction; holds of opens and execs wait for a person."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.host.support.control import ControlError, Message
from tests.host.support.daemon import Daemon, workload
from tests.host.support.labelled import Labelled, python, shell
from tests.host.support.processes import wait_until

HOLD_S = 30


@dataclass
class Place:
    daemon: Daemon
    base: Path

    def copy(self, source: str, name: str) -> Path:
        """A copy of a program under another name."""
        target = self.base / name
        if not target.exists():
            shutil.copy(source, target)
        return target


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("exec")
    shutil.copy("/bin/touch", base / "enrolled-tool")

    def rule(name: str, match: Message, action: str, **more: object) -> Message:
        return {"id": name, "on": "process.exec", "match": match, "action": action, **more}

    approve = {"timeout": f"{HOLD_S}s", "on_timeout": "deny"}
    rules = [
        rule("by-name", {"exe": "**/forbidden-tool"}, "deny"),
        rule("by-argv", {"argv": ["*touch*", "--no-create"]}, "kill"),
        rule("by-line", {"argv": {"regex": r"magic-word-\d+"}}, "deny"),
        rule("by-path", {"exe": f"{base}/enrolled-tool"}, "kill"),
        rule("by-script", {"exe": f"{base}/evil.sh"}, "deny"),
        rule("ask", {"exe": "**/ask-first"}, "hold", approve=approve),
        rule(
            "ask-briefly",
            {"exe": "**/ask-briefly"},
            "hold",
            approve={"timeout": "300ms", "on_timeout": "deny"},
        ),
        rule(
            "ask-politely",
            {"exe": "**/ask-politely"},
            "hold",
            approve={"timeout": "300ms", "on_timeout": "allow"},
        ),
        {
            "id": "ask-open",
            "on": "file.open",
            "match": {"path": f"{base}/ask-file"},
            "action": "hold",
            "approve": approve,
        },
    ]
    files = {
        "workloads.yaml": workload("tested"),
        "observed.yaml": workload("observed", posture="observe"),
        "rules.yaml": {"rules": rules},
    }
    with Daemon(base / "agentd", files) as daemon:
        yield Place(daemon, base)


def assert_never_ran(labelled: Labelled, effect: Path, rule: str) -> None:
    labelled.finish()
    assert not effect.exists()
    decision = labelled.decisions("process.exec")[-1]["decision"]
    assert rule in decision["rules"]
    assert decision["outcome"] == "killed"
    assert decision["before_effect"] is True


def test_by_name(place: Place) -> None:
    tool = place.copy("/bin/touch", "forbidden-tool")
    effect = place.base / "effect-name"
    assert_never_ran(shell(place.daemon, f"{tool} {effect}; true"), effect, "by-name")


def test_by_name_of_a_link(place: Place) -> None:
    tool = place.copy("/bin/touch", "plain-tool")
    (place.base / "links").mkdir()
    link = place.base / "links" / "forbidden-tool"
    link.symlink_to(tool)
    effect = place.base / "effect-link"
    assert_never_ran(shell(place.daemon, f"{link} {effect}; true"), effect, "by-name")


def test_link_to_the_named_program(place: Place) -> None:
    tool = place.copy("/bin/touch", "forbidden-tool")
    link = place.base / "harmless"
    link.symlink_to(tool)
    effect = place.base / "effect-linked"
    assert_never_ran(shell(place.daemon, f"{link} {effect}; true"), effect, "by-name")


def test_hard_link_and_new_name_of_a_program_that_a_rule_names_by_path(place: Place) -> None:
    effect = place.base / "effect-renamed"
    script = f"""
ln {place.base}/enrolled-tool {place.base}/nice-tool; {place.base}/nice-tool {effect}
mv {place.base}/enrolled-tool {place.base}/other-tool; {place.base}/other-tool {effect}; true
"""
    labelled = shell(place.daemon, script)
    assert_never_ran(labelled, effect, "by-path")
    assert len(labelled.decisions("process.exec")) == 2


def test_execveat_of_a_descriptor(place: Place) -> None:
    tool = place.copy("/bin/touch", "forbidden-tool")
    effect = place.base / "effect-fexecve"
    code = "import os, sys\nos.execve(os.open(sys.argv[1], 0), ['x', sys.argv[2]], {})"
    assert_never_ran(python(place.daemon, code, tool, effect), effect, "by-name")


def test_exec_by_a_thread(place: Place) -> None:
    tool = place.copy("/bin/touch", "forbidden-tool")
    effect = place.base / "effect-thread"
    code = """
import os, sys, threading, time
threading.Thread(target=os.execv, args=(sys.argv[1], ["x", sys.argv[2]])).start()
time.sleep(10)
"""
    assert_never_ran(python(place.daemon, code, tool, effect), effect, "by-name")


def test_by_arguments(place: Place) -> None:
    effect = place.base / "effect-argv"
    assert_never_ran(
        shell(place.daemon, f"/bin/touch {effect} --no-create; true"), effect, "by-argv"
    )


def test_by_a_word_behind_very_long_arguments(place: Place) -> None:
    effect = place.base / "effect-line"
    code = """
import os, sys
padding = ["/nonexistent/" + "x" * 1000] * 90
os.execv("/bin/touch", ["touch", sys.argv[1], *padding, "magic-word-7"])
"""
    assert_never_ran(python(place.daemon, code, effect), effect, "by-line")


@pytest.mark.parametrize("how", ["absolute", "relative", "directory-link"])
def test_script_by_its_name(place: Place, how: str) -> None:
    script = place.base / "evil.sh"
    effect = place.base / "effect-script"
    script.write_text(f"#!/bin/sh\n: > {effect}\n")
    script.chmod(0o755)
    linked = place.base / "linked-base"
    if not linked.is_symlink():
        linked.symlink_to(place.base)
    command = {
        "absolute": str(script),
        "relative": f"cd {place.base}; ./evil.sh",
        "directory-link": f"{linked}/evil.sh",
    }[how]
    assert_never_ran(shell(place.daemon, f"{command}; true"), effect, "by-script")


def test_other_programs_run(place: Place) -> None:
    effect = place.base / "effect-allowed"
    labelled = shell(place.daemon, f"/bin/touch {effect}")
    assert labelled.finish() == 0
    assert effect.exists()


def test_observed_workload(place: Place) -> None:
    tool = place.copy("/bin/touch", "forbidden-tool")
    effect = place.base / "effect-observed"
    labelled = shell(place.daemon, f"{tool} {effect}; true", workload="observed")
    assert labelled.finish() == 0
    assert effect.exists()
    decision = labelled.decisions("process.exec")[0]["decision"]
    assert decision["would"] is True
    assert decision["verdict"] == "deny"


# ---- holds -----------------------------------------------------------------------------------


def waiting(place: Place, labelled: Labelled) -> Message:
    """The hold of a session, once it waits."""
    opened = labelled.wait_for(lambda event: event["class"] == "hold.open")
    holds = place.daemon.request("holds")["holds"]
    found = [hold for hold in holds if hold["id"] == opened["decision"]["hold_id"]]
    assert len(found) == 1
    hold: Message = found[0]
    return hold


@pytest.mark.parametrize("answer", ["approve", "deny"])
def test_held_exec(place: Place, answer: str) -> None:
    tool = place.copy("/bin/touch", "ask-first")
    effect = place.base / f"effect-{answer}"
    labelled = shell(place.daemon, f"{tool} {effect}; true")
    hold = waiting(place, labelled)
    assert hold["rule"] == "ask"
    assert hold["subject"]["exec"]["exe"] == str(tool)
    assert not effect.exists()
    done = subprocess.run(
        place.daemon.command(answer, hold["id"]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert labelled.finish() == 0
    assert effect.exists() is (answer == "approve")
    decision = labelled.decisions("process.exec")[-1]["decision"]
    assert decision["hold_id"] == hold["id"]
    assert decision["approver"].startswith("uid 0")
    assert decision["outcome"] == ("allowed" if answer == "approve" else "killed")


@pytest.mark.parametrize(("tool", "runs"), [("ask-briefly", False), ("ask-politely", True)])
def test_held_exec_that_nobody_answers(place: Place, tool: str, runs: bool) -> None:
    effect = place.base / f"effect-{tool}"
    labelled = shell(place.daemon, f"{place.copy('/bin/touch', tool)} {effect}; true")
    labelled.finish()
    assert effect.exists() is runs
    assert labelled.decisions("process.exec")[-1]["decision"]["outcome"] == "timeout"
    assert labelled.decisions("hold.open")


@pytest.mark.parametrize("answer", ["approve", "deny"])
def test_held_open(place: Place, answer: str) -> None:
    file = place.base / "ask-file"
    file.write_text("asked-for")
    labelled = shell(place.daemon, f"cat {file}; echo $?")
    hold = waiting(place, labelled)
    assert hold["subject"]["file"]["path"] == str(file)
    place.daemon.request(answer, id=hold["id"])
    labelled.finish()
    assert labelled.output == (b"asked-for0\n" if answer == "approve" else b"137\n")


def test_an_agent_cannot_approve(place: Place) -> None:
    tool = place.copy("/bin/touch", "ask-first")
    effect = place.base / "effect-self"
    labelled = shell(place.daemon, f"{tool} {effect}; true")
    hold = waiting(place, labelled)
    own = " ".join(place.daemon.command("approve", hold["id"]))
    attempt = shell(place.daemon, f"{own} || (setsid {own} & wait)")
    attempt.finish()
    assert b"inside a session" in attempt.output + attempt.errors
    code = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as control:
    control.connect(sys.argv[1])
    control.sendall(json.dumps({"op": "approve", "id": sys.argv[2]}).encode() + b"\\n")
    print(json.loads(control.makefile().readline())["code"])
"""
    attempt = python(place.daemon, code, place.daemon.socket, hold["id"])
    attempt.finish()
    assert attempt.output == b"denied\n"
    assert not effect.exists()
    with pytest.raises(ControlError) as refused:
        place.daemon.request("approve", id="h999999")
    assert refused.value.code == "not-found"
    place.daemon.request("deny", id=hold["id"])
    labelled.finish()
    assert not effect.exists()


def test_held_process_that_is_killed(place: Place) -> None:
    tool = place.copy("/bin/touch", "ask-first")
    labelled = shell(place.daemon, f"{tool} /nonexistent/x; true")
    hold = waiting(place, labelled)
    os.kill(hold["process"]["pid"], 9)
    labelled.finish()

    def gone() -> bool:
        return all(each["id"] != hold["id"] for each in place.daemon.request("holds")["holds"])

    wait_until(gone, 5.0, "the hold is gone")


def test_traced_from_outside(place: Place) -> None:
    """Under strace a hold works: the tracer passes the stop on."""
    tool = place.copy("/bin/touch", "ask-first")
    effect = place.base / "effect-strace"
    labelled = shell(place.daemon, f"read line; {tool} {effect}; true")
    labelled.wait_for(lambda event: event["class"] == "process.exec")
    pid = labelled.events("session.start")[0]["process"]["pid"]
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(pid)], stderr=subprocess.DEVNULL
    )
    try:
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: "TracerPid:\t0" not in status.read_text(), 5.0, "strace attached")
        assert labelled.process.stdin is not None
        labelled.process.stdin.write(b"\n")
        labelled.process.stdin.flush()
        hold = waiting(place, labelled)
        time.sleep(0.2)  # what a tracer could still do wrong
        assert not effect.exists()
        place.daemon.request("approve", id=hold["id"])
        labelled.finish()
        assert effect.exists()
    finally:
        tracer.terminate()
        tracer.wait(5)


def test_traced_by_the_agent_itself(place: Place) -> None:
    """A tracer inside the session could swallow the stop, so the traced process dies instead."""
    tool = place.copy("/bin/touch", "ask-first")
    effect = place.base / "effect-ptrace"
    code = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, 0, 0)
    os.execv(sys.argv[1], ["x", sys.argv[2]])
while True:
    pid, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        break
    libc.ptrace(7, child, 0, 0)
"""
    labelled = python(place.daemon, code, tool, effect)
    labelled.finish()
    assert not effect.exists()
