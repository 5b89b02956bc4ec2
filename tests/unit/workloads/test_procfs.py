import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.workloads.identity import TICK_NS, ProcessKey
from agentd.workloads.procfs import (
    current_key,
    is_childless,
    parse_cgroup,
    parse_stat,
    read_ancestors,
    read_arguments,
    read_environ,
    read_process,
    read_stat,
    same_process,
)

LEADER_GONE = """
import ctypes, os, threading, time
def rest():
    time.sleep(0.2)
    os.write(1, b"ready\\n")
    time.sleep(60)
threading.Thread(target=rest, daemon=True).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_this_process() -> None:
    info = read_process(os.getpid())
    assert info is not None
    assert (info.ppid, info.uid, info.gid) == (os.getppid(), os.getuid(), os.getgid())
    assert info.exe == os.path.realpath("/proc/self/exe")
    assert info.parent == current_key(os.getppid())
    assert same_process(info.key, os.getpid())
    assert not same_process(ProcessKey(info.key.tgid, info.key.start_ns + TICK_NS), os.getpid())
    assert not same_process(info.key, os.getppid())


def test_ancestors() -> None:
    above = read_ancestors(os.getpid())
    parent = read_process(os.getppid())
    assert parent is not None
    assert above[0] == parent.exe
    assert above[1:] == read_ancestors(os.getppid())
    assert read_ancestors(1) == []
    assert read_ancestors(2**22 + 1) == []


def test_arguments_and_environment() -> None:
    environment = {"AGENT": "claude", "ODD": "a=b", "BYTES": "\udcff"}
    with subprocess.Popen(["/bin/sleep", "5"], env=environment) as process:
        info = read_process(process.pid)
        assert info is not None
        assert info.argv == ("/bin/sleep", "5")
        assert read_environ(info.key) == {**environment, "BYTES": "\\xff"}
        assert read_environ(ProcessKey(process.pid, info.key.start_ns + TICK_NS)) == {}
        assert read_arguments(info.key) == info.argv
        assert read_arguments(ProcessKey(process.pid, info.key.start_ns + TICK_NS)) == ("",)
        process.kill()
        process.wait()
    assert read_process(process.pid) is None
    assert read_stat(process.pid) is None
    assert not same_process(info.key, process.pid)
    assert read_environ(info.key) == {}


def test_childless() -> None:
    """Said only of one that can have no child that nobody sees."""
    threads = "import threading\nthreading.Thread(target=input).start()\nprint('y', flush=True)"
    for command, expected in (
        (["cat"], True),
        (["/bin/sh", "-c", "cat; :"], False),
        ([sys.executable, "-S", "-c", threads], False),
    ):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"y\n" if expected or command[0] == "/bin/sh" else b"")
            process.stdin.flush()
            assert process.stdout.readline() == b"y\n"
            assert is_childless(process.pid) is expected
            process.communicate(b"\n")
    assert not is_childless(process.pid)


def test_a_zombie_is_gone_and_a_kernel_thread_nobody() -> None:
    process = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert read_process(process.pid) is None
    key = current_key(process.pid)
    assert key is not None
    assert not same_process(key, process.pid)
    process.wait()
    kthreadd = read_stat(2)
    if kthreadd is not None and kthreadd.kernel_thread:
        assert read_process(2) is None


def test_a_process_whose_first_thread_has_exited_is_still_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", LEADER_GONE], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        stat = read_stat(process.pid)
        assert stat is not None
        assert stat.leader_gone
        info = read_process(process.pid)
        assert info is not None
        assert "python" in info.exe
        assert info.argv[1] == "-c"
        process.kill()


def test_races_with_processes_that_come_and_go() -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            subprocess.run(["/bin/true"], check=True)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            for entry in os.listdir("/proc"):  # noqa: PTH208
                if entry.isdigit():
                    read_process(int(entry))
    finally:
        stop.set()
        thread.join()


@given(st.binary(max_size=32).filter(lambda name: b"\0" not in name))
def test_names_cannot_break_the_fields(name: bytes) -> None:
    rest = b"S 7 " + b"0 " * 4 + b"2097152 " + b"0 " * 10 + b"3 0 4242 0 0\n"
    stat = parse_stat(b"12 (" + name + b") " + rest)
    assert (stat.ppid, stat.threads, stat.start_ticks, stat.state) == (7, 3, 4242, "S")
    assert stat.kernel_thread


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        (b"0::/a/b\n", "/a/b"),
        (b"4:memory:/x\n1:name=systemd:/s.service\n0::/\n", "/s.service"),
        (b"1:name=systemd:/s.service\n0::/u.scope\n", "/u.scope"),
        (b"1:name=systemd:/s.service\n", "/s.service"),
        (b"1:name=systemd:/\n0::/\n", "/"),
        (b"0::/a:b\n", "/a:b"),
        (b"", None),
    ],
)
def test_cgroup_lines(lines: bytes, path: str | None) -> None:
    assert parse_cgroup(lines) == path
