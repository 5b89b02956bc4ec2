"""Ways round rules of every class but files and MCP, on the observe tier: judged by effect."""

from collections.abc import Iterator

import pytest

from tests.adversarial.support.arena import FREE, Arena, arena_under_guard
from tests.adversarial.support.case import AT_LEAST, UNTRIED, Case
from tests.adversarial.support.sections import SECTIONS
from tests.host.support.daemon import Daemon

pytestmark = pytest.mark.host
TRIED = {
    f"{section}: {case.name}": case
    for section, cases in SECTIONS.items()
    for case in cases
    if case.observe != UNTRIED
}
FREELY = {name: case for name, case in TRIED.items() if case.is_free}


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with arena_under_guard(tmp_path_factory.mktemp("arena"), Daemon) as arena:
        yield arena


@pytest.mark.parametrize("case", TRIED.values(), ids=TRIED)
def test_what_becomes_of_it(arena: Arena, case: Case) -> None:
    """What the table says, or better: on this tier some of it is a race."""
    word, outcome = arena.attempt(case, case.observe)
    assert word in AT_LEAST.get(case.observe, {case.observe}), (word, outcome)


@pytest.mark.parametrize("case", FREELY.values(), ids=FREELY)
def test_it_works_where_rules_only_watch(arena: Arena, case: Case) -> None:
    """Each act really does the thing: otherwise its refusal would say nothing."""
    word, outcome = arena.attempt(case, "gap", FREE)
    assert word in {"gap", "detected"}, outcome
