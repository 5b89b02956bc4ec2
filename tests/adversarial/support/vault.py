"""A directory that a rule names, with secrets in it, and the puppet that would like them."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.adversarial.support.case import Case
from tests.host.support.daemon import Daemon, workload
from tests.host.support.puppet import Outcome, Puppet

SECRET = "the-secret"
DEPTH = 40
WORKLOAD = "tested"


@dataclass
class Vault:
    """The place of one test run."""

    base: Path
    daemon: Daemon
    puppet: Puppet
    settle_s: float = 0.0
    """How long it takes until the daemon has seen what was laid: where the kernel does not look."""

    def fill(self) -> dict[str, str]:
        """Lay everything anew; returns the names that acts use."""
        above = self.base / "above"
        # No directory on its path is on the vault's alone: the kernel's filter by name stays out.
        work = self.base.with_name("elsewhere")
        for directory in (above, work, self.base / "above2"):
            shutil.rmtree(directory, ignore_errors=True)
        vault = above / "vault"
        deep = vault.joinpath(*["d" * 8] * DEPTH)
        deep.mkdir(parents=True)
        work.mkdir()
        files = {"key": 0o600, "spare": 0o600, "open": 0o644}
        for name, mode in files.items():
            (vault / name).write_text(SECRET)
            (vault / name).chmod(mode)
        (deep / "key").write_text(SECRET)
        return {
            "secret": str(vault / "key"),
            "spare": str(vault / "spare"),
            "deep": str(deep / "key"),
            "vault": str(vault),
            "vault_name": "vault",
            "above": str(above),
            "work": str(work),
        }

    def attempt(self, case: Case) -> Outcome:
        """Try one way to the secret."""
        source = case.source
        for name, value in self.fill().items():
            source = source.replace("{" + name + "}", value)
        time.sleep(self.settle_s)
        return self.puppet.act(source)


@contextmanager
def vault_under_guard(
    base: Path, daemon: type[Daemon], *, settle_s: float = 0.0, **settings: Any
) -> Iterator[Vault]:
    """A daemon with the rule, and a puppet in a session that the rule binds."""
    (base / "above" / "vault").mkdir(parents=True)
    rule = {
        "id": "no-vault",
        "on": "file.open",
        "match": {"path": f"{base}/above/vault/**"},
        "action": "deny",
        "reason": "The vault is closed.",
    }
    rules = {"workloads.yaml": workload(WORKLOAD), "rules.yaml": {"rules": [rule]}}
    with (
        daemon(base / "agentd", rules, **settings) as running,
        Puppet(running.run(WORKLOAD, Puppet.ARGV)) as puppet,
    ):
        yield Vault(base, running, puppet, settle_s)


def became_of(outcome: Outcome) -> str:
    """In the words of the cases. Fails where the secret has got out and nobody was stopped."""
    if outcome.result is not None:
        return "gap"
    if outcome.signal == 9:
        return "killed"
    return "denied" if outcome.error == 1 else f"errno {outcome.error}, signal {outcome.signal}"
