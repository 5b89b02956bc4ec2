"""`agentd run` under an interactive shell on a real pseudo-terminal."""

import os
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.support.run_wrapper import (
    ControlServer,
    Terminal,
    counter,
    environment,
    parent_of,
    state,
    until,
    wrapped,
)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal whose shell knows the commands `agentd-run` and `count`."""
    server = ControlServer(tmp_path / "control.sock")
    commands = {"agentd-run": wrapped(server.path), "count": counter()}
    for name, command in commands.items():
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        script.chmod(0o755)
    shell = Terminal({**environment(), "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    yield shell
    shell.close()
    server.close()


def test_ctrl_c_arrives_once(terminal: Terminal) -> None:
    terminal.command("SIGINT")
    for _ in range(5):
        terminal.type("\x03")
        terminal.expect("got SIGINT\r\n")
    assert "got" not in terminal.rest()
    terminal.type("\x1c")  # Ctrl-\
    terminal.expect("Quit.*PROMPT> ")


def test_ctrl_c_ends_the_command_and_the_shell_knows(terminal: Terminal) -> None:
    terminal.command()
    terminal.type("\x03")
    terminal.expect("PROMPT> ")
    terminal.type("echo code=$?\n")
    terminal.expect("code=130\r\n")


def test_ctrl_z_fg_bg(terminal: Terminal) -> None:
    child = terminal.command("SIGINT", "SIGCONT")
    wrapper = parent_of(child)
    for _ in range(2):
        terminal.type("\x1a")
        terminal.expect(r"Stopped[^\n]*\r\nPROMPT> ")
        assert (state(child), state(wrapper)) == ("T", "T")
        terminal.type("fg\n")
        terminal.expect("got SIGCONT\r\n")
        assert "got" not in terminal.rest(0.2)
        until(lambda: (state(child), state(wrapper)) == ("S", "S"))
    terminal.type("\x1a")
    terminal.expect(r"Stopped[^\n]*\r\nPROMPT> ")
    terminal.type("bg\n")
    terminal.expect("got SIGCONT\r\n")
    until(lambda: (state(child), state(wrapper)) == ("S", "S"))
    terminal.type("fg\n")
    until(lambda: terminal.foreground() == wrapper)
    terminal.type("\x03")
    terminal.expect("got SIGINT\r\n")
    terminal.type("\x1a")
    terminal.expect("PROMPT> ")
    terminal.type("kill -KILL %1; sleep 0.3; echo\n")
    terminal.expect("Killed")
    until(lambda: state(child) in {"", "Z"})


def test_kill_job_arrives_once(terminal: Terminal) -> None:
    terminal.type("agentd-run count SIGTERM SIGHUP &\n")
    child = int(terminal.expect(r"ready (\d+)\r\n")[1])
    for _ in range(5):
        terminal.type("kill %1\n")
        terminal.expect("got SIGTERM\r\n")
    assert "got" not in terminal.rest()
    terminal.type("kill -KILL %1\n")
    until(lambda: state(child) in {"", "Z"})


def test_background_reader_stops_the_job(terminal: Terminal) -> None:
    terminal.type("agentd-run cat &\n")
    wrapper = int(terminal.expect(r"\[1\] (\d+)\r\n")[1])
    until(lambda: state(wrapper) == "T")
    terminal.type("\n")
    terminal.expect("Stopped")
    terminal.type("fg\n")
    until(lambda: terminal.foreground() == wrapper and state(wrapper) == "S")
    terminal.type("hello there\n")
    terminal.expect("hello there\r\nhello there\r\n")
    terminal.type("\x04")
    terminal.expect("PROMPT> ")


def test_the_shell_sees_nothing_of_a_hold(terminal: Terminal) -> None:
    child = terminal.command("SIGCONT")
    os.kill(child, signal.SIGSTOP)
    assert terminal.rest() == ""
    os.kill(child, signal.SIGCONT)
    terminal.expect("got SIGCONT\r\n")
    os.kill(child, signal.SIGKILL)
    terminal.expect("Killed.*PROMPT> ")
    terminal.type("agentd-run sh -c 'echo pid $$; exec sleep 60'\n")
    child = int(terminal.expect(r"pid (\d+)\r\n")[1])
    until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    os.kill(child, signal.SIGSTOP)
    until(lambda: state(child) == "T")
    terminal.type("\x03")  # the kernel keeps it until the hold ends
    assert terminal.rest() == "^C"
    os.kill(child, signal.SIGCONT)
    terminal.expect("PROMPT> ")
    until(lambda: state(child) in {"", "Z"})


def test_window_size(terminal: Terminal) -> None:
    child = terminal.command("SIGWINCH")
    terminal.resize(33, 77)
    terminal.expect("got SIGWINCH\r\n")
    assert "got" not in terminal.rest()
    os.kill(child, signal.SIGKILL)
    terminal.expect("Killed.*PROMPT> ")
    terminal.type("agentd-run stty size\n")
    terminal.expect("33 77\r\n")


def test_an_interactive_shell_inside(terminal: Terminal) -> None:
    terminal.type("PS1='INNER> ' agentd-run bash --norc --noprofile --noediting -i\n")
    terminal.expect("\nINNER> ")  # not the echo of the command
    shell = terminal.foreground()
    terminal.type("sleep 100\n")
    until(lambda: terminal.foreground() != shell)
    time.sleep(0.2)
    terminal.type("\x1a")
    terminal.expect(r"Stopped[^\n]*\r\nINNER> ")
    terminal.type("kill -KILL %1; sleep 0.3; echo\n")
    terminal.expect("Killed.*INNER> ")
    terminal.type("exit 3\n")
    terminal.expect("PROMPT> ")
    terminal.type("echo code=$?\n")
    terminal.expect("code=3\r\n")
