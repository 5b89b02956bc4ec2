"""The engine's priority is relative to that of whoever starts the daemon."""

import ctypes
import os
import platform
import struct
import subprocess
import sys

import pytest

from agentd.daemon.placement import Placement

_GETATTR = {"x86_64": 315, "aarch64": 275}
_RELEASE = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def report_placement() -> None:
    """Print the nice value and the slice in nanoseconds that a new Placement leaves."""
    Placement()
    buffer = ctypes.create_string_buffer(48)
    ctypes.CDLL(None).syscall(_GETATTR[platform.machine()], 0, buffer, 48, 0)
    _, policy, _, nice, _, slice_ns, _, _ = struct.unpack("=IIQiIQQQ", buffer.raw)
    print(policy, nice, slice_ns)


@pytest.mark.root  # a better priority is a privilege
@pytest.mark.parametrize(("started", "expected"), [(0, -10), (5, -5), (-15, -20)])
def test_better_than_the_work_and_never_real_time(started: int, expected: int) -> None:
    code = "from tests.unit.daemon.test_placement import report_placement as r; r()"
    change = started - os.getpriority(os.PRIO_PROCESS, 0)
    command = ["nice", "-n", str(change), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    policy, nice, slice_ns = map(int, done.stdout.split())
    assert (policy, nice) == (os.SCHED_OTHER, expected)
    if _RELEASE >= (6, 12):
        assert slice_ns == 100_000
