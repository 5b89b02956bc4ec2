"""Ending what we started, and only that.

The test process makes itself a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): whatever it
starts stays its descendant even after a double fork, so "started by us" is a fact of the process
tree and never a guess from a name.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Adopt orphans among our descendants from now on; raises OSError if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def describe(process: psutil.Process) -> str:
    """Say what a process is in one line, also while it is going away."""
    try:
        command = " ".join(process.cmdline())[:160] or process.name()
        return f"pid {process.pid} [{process.status()}] {command}"
    except psutil.Error:
        return f"pid {process.pid} [gone]"


def reap_orphans() -> None:
    """Collect adopted children that have ended; children of a live Popen are left to it."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def living_descendants() -> list[psutil.Process]:
    """Every process below us that is not a zombie."""
    alive = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def stop(process: subprocess.Popen[bytes], timeout: float = 10.0) -> int:
    """SIGTERM, wait, and return the exit status; a process that ignores it fails the test.

    The process is killed before AssertionError is raised, so that nothing outlives the test.
    """
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(
            f"pid {process.pid} did not end within {timeout} s of SIGTERM"
        ) from None


def end_tree(process: subprocess.Popen[bytes], timeout: float = 10.0) -> None:
    """End a process of ours and everything below it: SIGTERM, then SIGKILL to what remains.

    For programs that are known to leave children behind; agentd itself is ended with `stop`.
    """
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(tree, timeout)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def wait_until(condition: object, timeout: float, what: str, interval: float = 0.02) -> None:
    """Call `condition` until it is true; AssertionError naming `what` after `timeout` seconds."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(interval)
