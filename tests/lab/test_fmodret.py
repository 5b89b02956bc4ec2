"""The tier `enforce-fmodret` by effect: the same decisions where `bpf` is no security module."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentd.kernel.tier import ENFORCE_FMODRET
from tests.host.support.daemon import Document, workload
from tests.host.support.puppet import Outcome, Puppet
from tests.lab.support.slow_daemon import PATIENCE_S, SlowDaemon
from tests.lab.test_evasions_files import test_the_secret_stays, vault
from tests.lab.test_holds import (
    place,
    test_a_condition_is_judged_before_the_open,
    test_a_person_decides,
    test_holds_under_load,
    test_nobody_answers,
)

__all__ = [
    "place",
    "test_a_condition_is_judged_before_the_open",
    "test_a_person_decides",
    "test_holds_under_load",
    "test_nobody_answers",
    "test_the_secret_stays",
    "vault",
]

pytestmark = pytest.mark.lab(kernels=["6.1"], append="lsm=lockdown,yama")

EPERM = 1


@dataclass
class Scene:
    base: Path
    daemon: SlowDaemon
    puppet: Puppet

    def act(self, source: str, *names: str) -> Outcome:
        """`{0}` and so on in it are the paths of these names."""
        return self.puppet.act(source.format(*(str(self.base / name) for name in names)))

    def decided_by(self, rule: str) -> None:
        """The decision is on record, as one of this tier before the effect."""
        event = self.daemon.wait_for(
            lambda event: rule in (event.get("decision") or {}).get("rules", ()), PATIENCE_S, rule
        )
        decision = event["decision"]
        assert (decision["tier"], decision["before_effect"]) == (ENFORCE_FMODRET, True)


def rule(on: str, action: str = "deny", **match: object) -> Document:
    return {"id": f"{action}-{on}".replace(".", "-"), "on": on, "match": match, "action": action}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    base = tmp_path_factory.mktemp("scene")
    kept = base / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    for name in ("tool", "free-tool"):
        shutil.copy("/usr/bin/touch", base / name)
    rules = [
        rule("file.open", path=f"{kept}/**"),
        rule("file.delete", path=f"{kept}/**"),
        rule("file.rename", path=f"{kept}/**"),
        rule("process.exec", exe=str(base / "tool")),
        rule("network.connect", cidr=["127.77.0.0/24"]),
        rule("network.bind", port=7777),
    ]
    documents = {"w.yaml": workload("tested"), "r.yaml": {"rules": rules}}
    with (
        SlowDaemon(base / "agentd", documents) as daemon,
        Puppet(daemon.run("tested", Puppet.ARGV)) as puppet,
    ):
        yield Scene(base, daemon, puppet)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("result = open({0}).read()", "open"),
        ("open({0}, 'a')", "open"),
        ("import os; os.truncate({0}, 0)", "open"),
        ("import os; os.unlink({0})", "delete"),
        ("import os; os.rename({0}, {1})", "rename"),
        ("import os; os.link({0}, {1})", "rename"),
    ],
)
def test_files(scene: Scene, source: str, kind: str) -> None:
    names = ("kept/file", "elsewhere")
    outcome = scene.act(source.replace("{", "'{").replace("}", "}'"), *names)
    assert (outcome.result, outcome.error) == (None, EPERM)
    assert (scene.base / "kept" / "file").read_text() == "kept"
    assert not (scene.base / "elsewhere").exists()
    scene.decided_by(f"deny-file-{kind}")


def test_exec(scene: Scene) -> None:
    source = "import os; os.execv('{0}', ['{0}', '{1}'])"
    assert scene.act(source, "tool", "made").error == EPERM
    assert not (scene.base / "made").exists()
    assert scene.act(source, "free-tool", "made").error == 0
    assert (scene.base / "made").exists()
    scene.decided_by("deny-process-exec")


def test_a_loader_does_not_map_what_may_not_be_executed(scene: Scene) -> None:
    source = "import os; os.execv('/lib64/ld-linux-x86-64.so.2', ['ld.so', '{0}', '{1}'])"
    scene.act(source, "tool", "loaded")
    assert not (scene.base / "loaded").exists()
    scene.act(source, "free-tool", "loaded")
    assert (scene.base / "loaded").exists()


def test_network(scene: Scene) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(PATIENCE_S)
        port = server.getsockname()[1]
        connect = "import socket; socket.create_connection(('{}', {}))"
        assert scene.puppet.act(connect.format("127.77.0.1", port)).error == EPERM
        assert scene.puppet.act(connect.format("127.0.0.1", port)).error == 0
        _, (address, _) = server.accept()
        assert address == "127.0.0.1"  # the first that has arrived
    bind = "import socket; socket.socket().bind(('127.0.0.1', {}))"
    assert scene.puppet.act(bind.format(7777)).error == EPERM
    assert scene.puppet.act(bind.format(7778)).error == 0
    for kind in ("connect", "bind"):
        scene.decided_by(f"deny-network-{kind}")


def test_agentd_cannot_be_killed_from_a_session(scene: Scene) -> None:
    kill = f"import os; os.kill({scene.daemon.pid}, 9)"
    assert scene.puppet.act(kill).error == EPERM
    assert scene.daemon.request("ping")["ok"]
    scene.decided_by("agentd-self")
