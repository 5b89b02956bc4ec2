"""What every lab kernel is and allows, before anything of the daemon's runs on it."""

import os

import pytest

pytestmark = pytest.mark.lab


def test_the_kernel_is_of_its_series(kernel: str) -> None:
    assert os.uname().release.startswith(f"{kernel}.")
