"""`agentd run`: start a command as a labelled session, and stand in for it in its job.

The child asks the daemon for its label over the control socket (SO_PEERCRED names the child), and
becomes the command only after the answer. The parent is not labelled. It shares the command's
terminal, process group and session, so that Ctrl-C, Ctrl-Z, `fg` and `bg` reach the command as if
it had been started directly, and it passes on what only the parent gets: signals, stops, the end.

Limits. A command that stops *itself* with SIGSTOP cannot be told from one that agentd holds: no
shell learns of it. Ctrl-C and Ctrl-Z reach a held command when the hold ends. SIGCONT to the
wrapper resumes a job that was stopped from the terminal and nothing else, or it would be a way
around a hold. If the wrapper dies of SIGKILL the command does too (PR_SET_PDEATHSIG), except after
it has executed a setuid program, which clears that.
"""

# Every command waits for these imports, and pathlib would take longer than all the others.
# ruff: noqa: PTH110, PTH112, PTH118, PTH123

import errno
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from agentd.cli.standin import ALL_SIGNALS, Sentinel, die_with, stand_in

EX_UNAVAILABLE = 69
EX_NOPERM = 77
NOT_EXECUTABLE = 126
NOT_FOUND = 127

ANSWER_TIMEOUT_S = 30.0
_ANSWER_TIMEVAL = struct.pack("@ll", int(ANSWER_TIMEOUT_S), 0)
ANSWER_MAX = 1 << 16
DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"

# Python ignores these before any code of ours runs, which hides what was inherited.
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
# Programs that hand on to a child what they ignore themselves; others (Python, Node) do not.
HAND_ON_IGNORED = frozenset({"systemd", "init", "sh", "bash", "dash", "ash", "zsh", "ksh", "mksh"})


def run(
    socket_path: str, workload: str, task: Mapping[str, str] | None, argv: Sequence[str]
) -> int:
    """Run `argv` as a new session of `workload`; returns the command's exit code.

    Does not return if a signal killed the command: the wrapper then dies of the same signal.
    `argv` must not be empty; `task` is as in the control protocol (objective, requester, expires).
    The command is not started, and the reason goes to standard error, if the daemon cannot be
    reached (69), refuses (77), or the command is not executable (126) or not found (127).
    """
    ignored: set[int] = {
        number for number in ALL_SIGNALS if signal.getsignal(number) is signal.SIG_IGN
    }
    inherited_ignored = ignored.difference(PYTHON_IGNORES) | _ignored_by_parent()
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, ALL_SIGNALS)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: we were started with it closed
            stream.flush()
    wrapper = os.getpid()
    sentinel = Sentinel()
    child = os.fork()
    if child == 0:
        status = EX_UNAVAILABLE
        try:
            die_with(wrapper)
            _restore_signals(inherited_ignored, mask)
            # Read before the label: it is not the agent that looks at its environment here.
            environment = _given_environment()
            refused = _ask_for_label(socket_path, workload, task)
            status = refused or _become(argv, environment)
        except Exception as error:  # noqa: BLE001 (told, and the command is not started)
            _complain(f"cannot start {argv[0]}: {error}")
        finally:
            os._exit(status)
    return stand_in(child, sentinel)


def _ignored_by_parent() -> set[int]:
    """Which of the signals that Python ignores anyway our parent made us ignore: a good guess."""
    try:
        with open(f"/proc/{os.getppid()}/status", encoding="utf-8", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status if ":" in line)
        if fields["Name"].strip() not in HAND_ON_IGNORED:
            return set()
        bits = int(fields["SigIgn"], 16)
    except (OSError, KeyError, ValueError):
        return set()
    return {number for number in PYTHON_IGNORES if bits >> (number - 1) & 1}


def _restore_signals(ignored: set[int], mask: set[int | signal.Signals]) -> None:
    """Dispositions and mask as they were before Python started."""
    for number in ALL_SIGNALS:
        wanted = signal.SIG_IGN if number in ignored else signal.SIG_DFL
        if signal.getsignal(number) is not wanted:
            signal.signal(number, wanted)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _ask_for_label(socket_path: str, workload: str, task: Mapping[str, str] | None) -> int:
    """Have the daemon label this process; 0, or the exit code after a complaint."""
    request: dict[str, object] = {"op": "run", "workload": workload}
    if task:
        request["task"] = dict(task)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            # Blocking: a connection that may not block is refused while many others wait.
            control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _ANSWER_TIMEVAL)
            control.connect(socket_path)
            control.settimeout(ANSWER_TIMEOUT_S)
            control.sendall(json.dumps(request).encode() + b"\n", socket.MSG_NOSIGNAL)
            answer = b""
            while not answer.endswith(b"\n"):
                part = control.recv(4096)
                if not part or len(answer) > ANSWER_MAX:
                    raise ConnectionError("the daemon closed the connection without an answer")
                answer += part
        reply = json.loads(answer)
        accepted = reply["ok"] is True
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        _complain(
            f"the daemon cannot be reached at {socket_path}: {problem}; the command was not "
            "started (is `agentd daemon` running?)"
        )
        return EX_UNAVAILABLE
    if not accepted:
        _complain(f"refused: {reply.get('error', 'no reason given')}; the command was not started")
        return EX_NOPERM
    return 0


def _become(argv: Sequence[str], environment: dict[bytes, bytes]) -> int:
    """Execute the command with the environment that we were given; returns only on failure."""
    name = os.fsencode(argv[0])
    arguments = [os.fsencode(argument) for argument in argv]
    if b"/" in name:
        files = [name]
    else:
        path = environment.get(b"PATH", DEFAULT_PATH)
        files = [os.path.join(part or b".", name) for part in path.split(b":")] if name else []
    denied = b""
    for file in files:
        try:
            _execute(file, arguments, environment)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.exists(file):
                _complain(f"{argv[0]}: its interpreter was not found")
                return NOT_EXECUTABLE
        except PermissionError:
            denied = denied or file
        except OSError as error:
            _complain(f"{argv[0]}: {error.strerror}")
            return NOT_EXECUTABLE
    if denied:
        kind = errno.EISDIR if os.path.isdir(denied) else errno.EACCES
        if kind == errno.EACCES or b"/" in name:
            _complain(f"{argv[0]}: {os.strerror(kind)}")
            return NOT_EXECUTABLE
    _complain(f"{argv[0]}: {'No such file or directory' if b'/' in name else 'command not found'}")
    return NOT_FOUND


def _execute(file: bytes, arguments: list[bytes], environment: dict[bytes, bytes]) -> NoReturn:
    try:
        os.execve(file, arguments, environment)  # noqa: S606
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        with open(file, "rb") as script:
            if b"\0" in script.read(128).split(b"\n", 1)[0]:
                raise
    # A script without an interpreter line: the shell's, as for every shell and execvp(3).
    os.execve(b"/bin/sh", [b"/bin/sh", file, *arguments[1:]], environment)  # noqa: S606


def _given_environment() -> dict[bytes, bytes]:
    """The environment as the kernel gave it; Python itself may have added LC_CTYPE (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as given:
            entries = [entry.partition(b"=") for entry in given.read().split(b"\0")]
    except OSError:
        return dict(os.environb)
    return {name: value for name, equals, value in entries if name and equals}


def _complain(message: str) -> None:
    os.write(2, f"agentd run: {message}\n".encode("utf-8", "replace"))
