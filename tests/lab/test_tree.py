"""The side doors of a session: what rules say of them happens before the effect."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.host.support.daemon import workload
from tests.lab.sessions import CALL, EVENT_S, SessionDaemon, outcome, victim_program

pytestmark = pytest.mark.lab


@dataclass
class Scene:
    daemon: SessionDaemon
    victim: subprocess.Popen[bytes]
    base: Path


def _rule(rule_id: str, on: str, action: str, match: Any, **more: Any) -> dict[str, Any]:
    return {"id": rule_id, "on": on, "action": action, "match": match, **more}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    base = tmp_path_factory.mktemp("tree")
    program = victim_program(base)
    (base / "point").mkdir()
    victim = {"exe": "**/victim"}
    if_named = {"when": "event.process.comm == 'perl'"}
    rules = [
        _rule("no-trace", "process.trace", "deny", {**victim, "access": ["attach"]}),
        _rule("no-kill", "process.signal", "deny", {**victim, "signal": ["KILL", "TERM"]}),
        _rule("see-urg", "process.signal", "audit", {**victim, "signal": "URG"}),
        _rule("ask-winch", "process.signal", "deny", {**victim, "signal": "WINCH"}, **if_named),
        _rule("no-ns", "process.namespace", "deny", {"kind": ["user", "join"]}),
        _rule("see-ns", "process.namespace", "audit", {"kind": "create"}),
        _rule("no-mount", "system.mount", "deny", {"path": f"{base}/point"}),
        _rule("may-bpf", "system.bpf", "allow", {}, workloads=["w"]),
    ]
    documents = {
        "w.yaml": workload("w"),
        "o.yaml": workload("o", posture="observe"),
        "r.yaml": {"rules": rules},
    }
    with (
        SessionDaemon(base / "daemon", documents) as daemon,
        subprocess.Popen([program, "100000"]) as process,
    ):
        try:
            yield Scene(daemon, process, base)
        finally:
            process.kill()


def test_another_process_is_out_of_reach(scene: Scene) -> None:
    pid = scene.victim.pid
    lines = scene.daemon.session(
        "w",
        f"""
        try kill -KILL {pid}
        try kill -URG {pid}
        try perl -e 'kill WINCH => {pid} or exit 1'
        try bash -c 'kill -WINCH {pid}'
        try perl -e '{CALL}' 101 16 {pid} 0 0
        try head -c 4 /proc/{pid}/mem
        sleep 1000 & try kill -KILL $!
        """,
    )
    assert [line.split()[0] for line in lines] == ["no", "ok", "no", "ok", "no", "no", "ok"], lines
    assert scene.victim.poll() is None
    scene.daemon.decided_by("process.signal", "no-kill", "see-urg", "ask-winch")
    scene.daemon.decided_by("process.trace", "no-trace")


def test_namespaces_and_mounts(scene: Scene) -> None:
    point = scene.base / "point"
    lines = scene.daemon.session(
        "w",
        f"""
        try unshare --user true
        try unshare --mount true
        try nsenter --target 1 --mount true
        try mount -t tmpfs none {point}
        try mount --bind /tmp {point}
        mkdir {scene.base}/free; try mount -t tmpfs none {scene.base}/free
        try umount {scene.base}/free
        """,
    )
    assert [line.split()[0] for line in lines] == ["no", "ok", "no", "no", "no", "ok", "ok"], lines
    assert not point.is_mount()
    scene.daemon.decided_by("process.namespace", "no-ns", "see-ns")
    scene.daemon.decided_by("system.mount", "no-mount")


def test_bpf_is_open_to_a_workload_that_a_rule_allows_it(scene: Scene) -> None:
    """An array map of one entry: BPF_MAP_CREATE with a type, sizes and a number of entries."""
    create = "my $a = pack(qq(L4x112), 2, 4, 8, 1); my $f = syscall(321, 0, $a, 128); exit($f < 0);"
    assert scene.daemon.session("w", f"try perl -e '{create}'")[0].startswith("ok")
    assert scene.daemon.session("o", f"try perl -e '{create}'")[0].startswith("no")


def test_an_observed_workload_is_told_of_and_not_refused(scene: Scene) -> None:
    assert outcome(scene.daemon.session("o", "try unshare --user true"), "unshare") == "ok"
    event = scene.daemon.wait_for(
        lambda found: found["class"] == "process.namespace" and found["workload"] == "o",
        EVENT_S,
    )
    assert (event["decision"]["verdict"], event["decision"]["would"]) == ("deny", True)


def test_a_set_user_id_program_keeps_the_label(scene: Scene) -> None:
    """`su` to another user and back up by a set-user-id shell: still not let out."""
    shell = scene.base / "shell"
    shell.write_bytes(Path("/bin/dash").read_bytes())
    shell.chmod(0o4755)
    pid = scene.victim.pid
    lines = scene.daemon.session(
        "w", f"try setpriv --reuid 65534 --clear-groups {shell} -pc 'id -u; kill -KILL {pid}'"
    )
    assert outcome(lines, "setpriv") == "no"
    assert scene.victim.poll() is None
