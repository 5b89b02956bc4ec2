"""Ways round a rule on files, on the observe tier of this machine's kernel: judged by effect."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adversarial.support.case import Case
from tests.adversarial.support.files import CASES
from tests.adversarial.support.vault import SECRET, Vault, became_of, vault_under_guard
from tests.host.support.daemon import Daemon


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with vault_under_guard(tmp_path_factory.mktemp("vault"), Daemon) as vault:
        yield vault


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_secret_stays(vault: Vault, case: Case) -> None:
    outcome = vault.attempt(case)
    assert became_of(outcome) == case.observe, outcome
    if case.observe != "gap":
        assert SECRET not in str(outcome.result)


def test_a_file_that_is_truncated_is_so_before_the_process_dies(vault: Vault) -> None:
    """What the README says of this tier."""
    names = vault.fill()
    outcome = vault.puppet.act(f"open({names['secret']!r}, 'w')")
    assert became_of(outcome) == "killed"
    assert Path(names["secret"]).read_text() == ""
