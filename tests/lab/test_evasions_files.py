"""Ways round a rule on files, on the enforce tiers: judged by effect."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adversarial.support.case import Case
from tests.adversarial.support.files import CASES
from tests.adversarial.support.vault import SECRET, Vault, became_of, vault_under_guard
from tests.lab.support.slow_daemon import SlowDaemon

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with vault_under_guard(tmp_path_factory.mktemp("vault"), SlowDaemon) as vault:
        yield vault


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_secret_stays(vault: Vault, case: Case) -> None:
    outcome = vault.attempt(case)
    assert became_of(outcome) == case.enforce, outcome
    assert SECRET not in str(outcome.result)


@pytest.mark.parametrize(
    "act",
    [
        "open({secret!r}, 'w')",
        "import os; os.truncate({secret!r}, 0)",
        "import os; os.chmod({secret!r}, 0o777)",
        "import os; open({work!r} + '/f', 'w').close(); os.rename({work!r} + '/f', {secret!r})",
        "import os; open({work!r} + '/f', 'w').close(); os.link({work!r} + '/f', {new!r})",
        "import os; os.symlink('/etc/hosts', {new!r})",
        "open({new!r}, 'w').write('mine')",
    ],
)
def test_nothing_is_changed(vault: Vault, act: str) -> None:
    names = vault.fill()
    names["new"] = f"{names['vault']}/new"
    outcome = vault.puppet.act(act.format(**names))
    assert became_of(outcome) == "denied", outcome
    assert Path(names["secret"]).read_text() == SECRET
    assert Path(names["secret"]).stat().st_mode & 0o777 == 0o600
    assert not Path(names["new"]).exists()
