"""The observe tier on the kernels of the lab: the daemon starts, labels, and kills in time."""

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentd.kernel import tiers
from tests.host.support.daemon import workload
from tests.lab.support.slow_daemon import PATIENCE_S, SlowDaemon

pytestmark = pytest.mark.lab


@dataclass
class Place:
    daemon: SlowDaemon
    secret: Path
    plain: Path

    def cat(self, path: Path) -> subprocess.CompletedProcess[bytes]:
        """Run cat in a session."""
        command = self.daemon.run("tested", ["/bin/cat", str(path)])
        return subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("place")
    (base / "vault").mkdir()
    secret, plain = base / "vault" / "key", base / "plain"
    secret.write_bytes(b"the-secret")
    plain.write_bytes(b"no secret")
    rule = {
        "id": "no-secret",
        "on": "file.open",
        "match": {"path": f"{base}/vault/**"},
        "action": "kill",
    }
    rules = {"workloads.yaml": workload("tested"), "rules.yaml": {"rules": [rule]}}
    with SlowDaemon(base / "agentd", rules, settings={"tier": tiers.OBSERVE}) as daemon:
        yield Place(daemon, secret, plain)


def test_a_reader_of_a_secret_is_killed_before_it_has_a_byte(place: Place) -> None:
    check_a_reader_of_a_secret_is_killed(place)


@pytest.mark.lab(kernels=["6.12"], append="preempt=full")
def test_a_reader_of_a_secret_is_killed_where_the_kernel_is_preempted(place: Place) -> None:
    """Seen by the raw tracepoint there, on the others where the function returns."""
    check_a_reader_of_a_secret_is_killed(place)


def check_a_reader_of_a_secret_is_killed(place: Place) -> None:
    result = place.cat(place.secret)
    assert (result.returncode, result.stdout) == (-signal.SIGKILL, b""), result.stderr
    event = place.daemon.wait_for(
        lambda event: event["class"] == "file.open" and event.get("decision") is not None,
        PATIENCE_S,
    )
    decision = event["decision"]
    assert decision["rules"] == ["no-secret"]
    assert (decision["outcome"], decision["before_effect"]) == ("killed", True)
    assert decision["tier"] == tiers.OBSERVE


def test_other_files_can_be_read(place: Place) -> None:
    result = place.cat(place.plain)
    assert (result.returncode, result.stdout) == (0, b"no secret"), result.stderr
