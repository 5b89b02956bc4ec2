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


def _attributes() -> tuple[int, int, int]:
    buffer = ctypes.create_string_buffer(48)
    ctypes.CDLL(None).syscall(_GETATTR[platform.machine()], 0, buffer, 48, 0)
    _, policy, _, nice, _, slice_ns, _, _ = struct.unpack("=IIQiIQQQ", buffer.raw)
    return policy, nice, slice_ns


def report_placement() -> None:
    """Print policy, nice value and slice in nanoseconds, then what they are while it is behind."""
    placement = Placement()
    placement.stand(behind=True)
    behind = _attributes()
    placement.stand(behind=False)
    print(*_attributes(), *behind)


@pytest.mark.root  # a better priority is a privilege
@pytest.mark.parametrize(
    ("started", "expected", "behind"), [(0, -10, 5), (5, -5, 10), (-15, -20, -10)]
)
def test_better_than_the_work_and_never_real_time(started: int, expected: int, behind: int) -> None:
    code = "from tests.unit.daemon.test_placement import report_placement as r; r()"
    change = started - os.getpriority(os.PRIO_PROCESS, 0)
    command = ["nice", "-n", str(change), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    policy, nice, slice_ns, *later = map(int, done.stdout.split())
    assert (policy, nice) == (os.SCHED_OTHER, expected)
    assert later[:2] == [os.SCHED_OTHER, behind]
    if _RELEASE >= (6, 12):
        assert (slice_ns, later[2]) == (100_000, 10_000_000)
