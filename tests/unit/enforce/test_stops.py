"""What is known of a thread that should be stopped, asked of a real one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agentd.enforce.stops import is_stopped, stop_is_pending

SPIN = "print('up', flush=True)\nwhile True: pass"


@pytest.fixture
def spinning() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid
        process.kill()


def test_a_thread_that_runs_and_one_that_is_stopped(spinning: int) -> None:
    assert not is_stopped(spinning, spinning)
    os.kill(spinning, signal.SIGSTOP)
    assert is_stopped(spinning, spinning)
    assert not stop_is_pending(spinning, spinning)
    os.kill(spinning, signal.SIGCONT)
    assert not is_stopped(spinning, spinning)
