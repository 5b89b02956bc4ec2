"""What a labelled root process cannot do to agentd itself, whatever its workload's posture."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.policy.own import SELF
from tests.host.support.daemon import workload
from tests.lab.sessions import CALL, SessionDaemon, outcome

pytestmark = pytest.mark.lab

APPROVE = (
    "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit 2;"
    ' print $s qq({"op":"approve","id":"$ARGV[1]"}\\n); my $a = <$s>; print $a;'
    ' exit($a =~ /"ok":true/ ? 0 : 1);'
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionDaemon]:
    base = tmp_path_factory.mktemp("guard")
    (base / "held").write_text("held\n")
    rule = {
        "id": "hold-it",
        "on": "file.open",
        "match": {"path": str(base / "held"), "access": ["read"]},
        "action": "hold",
        "approve": {"timeout": "20s", "on_timeout": "deny"},
    }
    documents = {
        "w.yaml": workload("w"),
        "o.yaml": workload("o", posture="observe"),
        "r.yaml": {"rules": [rule]},
    }
    with SessionDaemon(base / "daemon", documents) as running:
        yield running


@pytest.mark.parametrize("name", ["w", "o"])
def test_its_processes_live_and_are_not_looked_into(
    daemon: SessionDaemon, kernel: str, name: str
) -> None:
    """Linux 7.2 shows `environ` and `maps` to whoever has CAP_PERFMON, whatever modules say."""
    pids = [process.pid for process in daemon.processes()]
    script = "".join(
        f"try kill -KILL {pid}\ntry kill -STOP {pid}\ntry perl -e '{CALL}' 101 16 {pid} 0 0\n"
        f"try head -c 1 /proc/{pid}/environ\ntry head -c 1 /proc/{pid}/mem\n"
        f"try prlimit --pid {pid} --cpu=1\n"
        for pid in pids
    )
    lines = daemon.session(name, f"{script}try kill -0 {pids[0]}")
    shown = [line for line in lines[:-1] if line.startswith("ok")]
    environments = [f"ok head -c 1 /proc/{pid}/environ" for pid in pids]
    assert shown == (environments if kernel == "7.2" else []), lines
    assert outcome(lines, "kill -0") == "ok"
    assert [process.pid for process in daemon.processes()] == pids
    assert daemon.request("ping")
    daemon.decided_by("process.signal", SELF)
    daemon.decided_by("process.trace", SELF)


@pytest.mark.parametrize("name", ["w", "o"])
def test_its_files_keep_their_bytes_and_names(
    daemon: SessionDaemon, tmp_path: Path, name: str
) -> None:
    rules, journal, socket = daemon.rules_dir, daemon.journal, daemon.socket
    before = sorted(rules.iterdir()), daemon.configuration.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lines = daemon.session(
        name,
        f"""
        try touch {rules}/evil.yaml
        try rm {journal}
        try mv {journal} {tmp_path}/j
        try ln {journal} {tmp_path}/l
        try truncate -s 0 {daemon.configuration}
        try rm {socket}
        try mv {rules} {tmp_path}/r
        try mv {daemon.directory} {tmp_path}/d
        try mount -t tmpfs none {rules}
        try mount -t tmpfs none {daemon.directory}
        mount --bind {rules} {elsewhere} && cd {elsewhere} && try touch by-another-way.yaml
        try rm w.yaml
        """,
    )
    assert {line.split()[0] for line in lines} == {"no"}, lines
    assert (sorted(rules.iterdir()), daemon.configuration.read_bytes()) == before
    assert journal.exists()
    assert socket.exists()
    daemon.decided_by("file.open", SELF)
    subprocess.run(["umount", str(elsewhere)], check=False)


def test_bpf_is_closed(daemon: SessionDaemon) -> None:
    call = f"try perl -e '{CALL}' 321 0 {'x' * 8} 8"
    lines = daemon.session("o", call)
    assert outcome(lines, "perl") == "no"
    daemon.decided_by("system.bpf", SELF)


def test_a_sibling_neither_wakes_nor_approves_what_is_held(
    daemon: SessionDaemon, tmp_path: Path
) -> None:
    held = daemon.directory.parent / "held"
    (tmp_path / "approve.pl").write_text(APPROVE)
    script = f"""
        cat {held} > {tmp_path}/out & H=$!
        for i in $(seq 100); do grep -q '^State:.T' /proc/$H/status && break; sleep 0.1; done
        try kill -CONT $H
        try kill -STOP $H
        try perl -e '{CALL}' 101 16 $H 0 0
        for id in h1 h2; do
            try perl {tmp_path}/approve.pl {daemon.socket} $id
            try perl {tmp_path}/approve.pl /proc/self/root{daemon.socket} $id
        done
        cp /usr/bin/perl {tmp_path}/agentd-approve
        try {tmp_path}/agentd-approve {tmp_path}/approve.pl {daemon.socket} h1
        (setsid bash -c "(perl {tmp_path}/approve.pl {daemon.socket} h1 > {tmp_path}/double; \\
            echo $? > {tmp_path}/status) &")
        wait $H
        echo "cat $?"
        for i in $(seq 50); do [ -s {tmp_path}/status ] && break; sleep 0.1; done
    """
    began = time.monotonic()
    lines = daemon.session("w", script)
    assert lines[-1] == "cat 1", lines
    assert {line.split()[0] for line in lines[:-1]} == {"no"}, lines
    assert (tmp_path / "out").read_text() == ""
    assert "denied" in (tmp_path / "double").read_text()
    assert time.monotonic() - began >= 20.0
