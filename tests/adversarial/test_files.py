"""Ways round a rule on files, on the observe tier of this machine's kernel: judged by effect."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adversarial.support.case import Case
from tests.adversarial.support.files import CASES
from tests.adversarial.support.vault import SECRET, Vault, became_of, vault_under_guard
from tests.host.support.daemon import Daemon
from tests.host.support.processes import wait_until

RESCAN_S = 1.0
"""Every half a second the daemon looks for files that nobody has told it of."""


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    base = tmp_path_factory.mktemp("vault")
    with vault_under_guard(base, Daemon, settle_s=RESCAN_S) as vault:
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


def test_an_open_waits_until_a_rename_before_it_is_known(vault: Vault) -> None:
    assert vault.puppet.act("result = 'there'").result == "there"
    engine = vault.daemon.engine()
    assert engine is not None
    engine.suspend()
    try:
        names = vault.fill()  # nobody has seen these files under their names
        new = f"{names['work']}/r"
        vault.puppet.start(
            f"import os; os.rename({names['spare']!r}, {new!r}); result = open({new!r}).read()"
        )
        wait_until(Path(new).exists, 1.5, "the rename")
        time.sleep(0.1)
    finally:
        engine.resume()
    assert became_of(vault.puppet.finish()) == "killed"
