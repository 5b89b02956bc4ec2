"""How far the programs are from the verifier's limit, on each kernel and by either way."""

from collections.abc import Callable

import pytest

from agentd.kernel import syscalls
from agentd.kernel.enforcer import FAMILIES
from agentd.kernel.sensor import OBJECTS
from agentd.kernel.tier import ENFORCE_FMODRET, ENFORCE_LSM, OBSERVE
from bench import verifier
from tests.lab.plugin import FIGURES

pytestmark = pytest.mark.lab

ENOUGH = 0.7
"""Of the limit: other kernels and compilers take other paths."""


def check(
    tier: str, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    rows = verifier.verified()
    verifier.show(rows)
    record_property(FIGURES, capsys.readouterr().out)
    handling = set(syscalls.OBJECTS)
    assert {row.object for row in rows if row.tier == OBSERVE} == handling | {
        *OBJECTS,
        syscalls.DISPATCHER,
    }
    assert {row.object for row in rows if row.tier == tier} == handling | {
        *FAMILIES.values(),
    }
    assert all(0 < row.walked < ENOUGH * verifier.LIMIT for row in rows), rows


def test_no_program_is_near_the_limit(
    capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    check(ENFORCE_LSM, capsys, record_property)


@pytest.mark.lab(append="lsm=lockdown,yama")
def test_no_override_is_near_the_limit(
    capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    check(ENFORCE_FMODRET, capsys, record_property)
