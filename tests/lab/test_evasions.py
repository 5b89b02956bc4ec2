"""Ways round rules of every class but files and MCP, on the enforce tiers: judged by effect."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.adversarial.support.arena import Arena, arena_under_guard
from tests.adversarial.support.case import Case
from tests.adversarial.support.sections import SECTIONS
from tests.lab.support.slow_daemon import SlowDaemon

pytestmark = pytest.mark.lab
ALL = [
    pytest.param(case, id=f"{section}: {case.name}")
    for section, cases in SECTIONS.items()
    for case in cases
]


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    base = tmp_path_factory.mktemp("arena")
    volume = base / "volume"
    volume.mkdir()
    # The root is an overlay, on which Linux 6.1 makes no files without a name.
    subprocess.run(["mount", "-t", "tmpfs", "volume", volume], check=True)
    try:
        with arena_under_guard(base, SlowDaemon) as arena:
            yield arena
    finally:
        subprocess.run(["umount", volume], check=True)


@pytest.mark.parametrize("case", ALL)
def test_what_becomes_of_it(arena: Arena, case: Case) -> None:
    word, outcome = arena.attempt(case, case.enforce)
    assert word == case.enforce, outcome
