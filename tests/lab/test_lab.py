"""The lab itself, seen from the host."""

from pathlib import Path

import pytest

from tests.lab.support.kernels import fetch
from tests.lab.support.vm import Machine

BOOT_LIMIT_S = 240


@pytest.mark.timeout(BOOT_LIMIT_S + 30)
@pytest.mark.root
def test_a_machine_that_panics_has_no_exit_code_and_says_why(tmp_path: Path) -> None:
    machine = Machine(fetch("6.12"), tmp_path)
    process = machine.start("echo hello; sync; echo c >/proc/sysrq-trigger; sleep 60")
    try:
        output, _ = process.communicate(timeout=BOOT_LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert output == b"hello\n"
    assert machine.exit_code() is None
    assert "Kernel panic - not syncing: sysrq triggered crash" in machine.last_words()
