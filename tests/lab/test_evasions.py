"""Ways round rules of every class but files and MCP, on the enforce tiers: judged by effect."""

from collections.abc import Iterator

import pytest

from tests.adversarial.support.arena import Arena, arena_under_guard
from tests.adversarial.support.case import Case
from tests.adversarial.support.sections import SECTIONS
from tests.lab.support.slow_daemon import SlowDaemon

pytestmark = pytest.mark.lab(kernels=["6.12"])
ALL = [
    pytest.param(case, id=f"{section}: {case.name}")
    for section, cases in SECTIONS.items()
    for case in cases
]


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with arena_under_guard(tmp_path_factory.mktemp("arena"), SlowDaemon) as arena:
        yield arena


@pytest.mark.parametrize("case", ALL)
def test_what_becomes_of_it(arena: Arena, case: Case) -> None:
    word, outcome = arena.attempt(case, case.enforce)
    assert word == case.enforce, outcome
