"""vagrant/provision.sh on a machine with systemd: what it installs, and that the unit holds.

The tests are in the order in which they use the machine: the last one ends the enforcement.
"""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.kernel import tiers
from tests.host.support.control import ControlClient, Message
from tests.host.support.processes import wait_until
from tests.host.support.puppet import Puppet
from tests.host.support.servers import REPOSITORY
from tests.lab.sessions import EVENT_S
from tests.lab.support.slow_daemon import PATIENCE_S

pytestmark = pytest.mark.lab(kernels=["6.12"], append="init=/lib/systemd/systemd")

AGENTD = Path("/usr/local/bin/agentd")
SOCKET = Path("/run/agentd/control.sock")
UNITS = Path("/etc/systemd/system")
RULES = Path("/etc/agentd/rules.d/tested.yaml")
ISSUE = Path("/etc/issue.net")
DEMO = Path("/tmp/agentd-demo")
DENIED = Path("/srv/denied")
GROUP = Path("/sys/fs/cgroup/system.slice/agentd.service/cgroup.procs")
MODULES = ("agentd.cli.supervise", "agentd.daemon.engine", "agentd.stream")
OWN = ("/etc/agentd", "/run/agentd", "/var/lib/agentd")
INSTALLED = ("/etc/agentd", "/etc/nats", "/etc/passwd", "/etc/group", UNITS, "/opt", AGENTD)
SCRIPT = [str(REPOSITORY / "vagrant" / "provision.sh")]
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "AGENTD_WHEELS": str(REPOSITORY / "dist" / "wheels"),
}
READ = "if cat /srv/denied; then echo read; else echo refused; fi; sleep 0.2"
BY_UNIT = {
    "by-unit": ("agent-of-a-unit.service", ""),
    "by-slice": ("agents.slice", "Slice=agents.slice"),
}


def run(*command: str | Path) -> str:
    """Standard output; AssertionError with all that was printed if the command fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def show(unit: str, name: str) -> str:
    return run("systemctl", "show", unit, "--value", "-p", name).strip()


def wait_until_shown(unit: str, name: str, value: str, timeout: float) -> None:
    """Asked once a second: to run systemctl all the time would take what is waited for its CPU."""
    wait_until(lambda: show(unit, name) == value, timeout, f"{name} {value} of {unit}", 1.0)


def log(unit: str) -> list[str]:
    return run("journalctl", "-u", unit, "-o", "cat", "--no-pager").splitlines()


def answers() -> list[str]:
    """What the sample agent has been told so far."""
    return [line for line in log("agentd-sample") if line.startswith(("ok:", "error:"))]


def ask(op: str, **fields: Any) -> Message:
    with ControlClient(SOCKET, 60.0) as client:
        return client.request(op, **fields)


def processes() -> dict[str, int]:
    """Pids of the daemon's processes by Python module, once all three run.

    The publisher is started after READY. A process has its parent's arguments until it executes
    its program, and for a moment none.
    """
    found: dict[str, int] = {}

    def all_run() -> bool:
        found.clear()
        pids = GROUP.read_text().split()
        for pid in pids:
            with suppress(OSError):  # it has ended
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                found.update({module: int(pid) for module in MODULES if module in words})
        return len(found) == len(pids) == len(MODULES)

    wait_until(all_run, PATIENCE_S, "the daemon's processes")
    return found


def held(tool: str) -> str:
    """The id of a held call of this tool, when there is one."""
    ids: list[str] = []

    def is_there() -> bool:
        ids[:] = [h["id"] for h in ask("holds")["holds"] if tool in json.dumps(h["subject"])]
        return bool(ids)

    wait_until(is_there, EVENT_S, f"a held {tool}")
    return ids[0]


def files() -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything that the script installs."""
    found = {}
    for top in INSTALLED:
        for path in (top, *(Path(at, n) for at, _, names in os.walk(top) for n in names)):
            status = os.lstat(path)
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module", autouse=True)
def provisioned() -> Iterator[None]:
    """The script has run, and the administrator has rules of their own."""
    for place in OWN:  # the host may have run agentd too, and its files are seen here
        shutil.rmtree(place, ignore_errors=True)
    DENIED.parent.mkdir(exist_ok=True)
    DENIED.write_text("denied\n")
    never = [{"exe": "/nonexistent/tested"}]
    workloads = {"tested": never, **{n: [{"unit": unit}] for n, (unit, _) in BY_UNIT.items()}}
    rule = {
        "id": "no",
        "on": "file.open",
        "workloads": [*workloads],
        "match": {"path": str(DENIED)},
        "action": "deny",
    }
    RULES.parent.mkdir(parents=True)
    RULES.write_text(
        yaml.safe_dump(
            {
                "workloads": [
                    # A puppet's standard input is a pipe that may carry MCP, and is not to be
                    # refused while there is no daemon.
                    {"name": name, "posture": "enforce", "on_failure": "allow", "select": select}
                    for name, select in workloads.items()
                ],
                "rules": [rule],
            }
        )
    )
    subprocess.run(SCRIPT, env=ENVIRONMENT, check=True)
    yield
    subprocess.run(["systemctl", "stop", "agentd", "nats"], check=True)
    subprocess.run([AGENTD, "unload"], check=True)
    for group in Path("/sys/fs/cgroup").rglob("agentd-s-*"):
        group.rmdir()  # the next daemon would
    for place in OWN:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def puppet(provisioned: None) -> Iterator[Puppet]:
    command = [str(AGENTD), "run", "--workload", "tested", "--", *Puppet.ARGV]
    with Puppet(command) as running:
        yield running


def read(puppet: Puppet) -> tuple[object, int]:
    outcome = puppet.act(f"result = open({str(DENIED)!r}).read()")
    return outcome.result, outcome.error


def test_the_units_run_and_enforce() -> None:
    assert run("systemctl", "is-active", "agentd", "nats").split() == ["active"] * 2
    assert run("systemctl", "is-enabled", "agentd", "nats").split() == ["enabled"] * 2
    assert run("systemd-analyze", "verify", "agentd.service", "agentd-sample.service") == ""
    found = json.loads(run(AGENTD, "doctor", "--json"))
    assert found["tier"] == tiers.ENFORCE_LSM
    assert str(found["daemon"]["pid"]) in map(str, processes().values())


def test_the_publisher_has_a_user_of_its_own_and_no_privilege() -> None:
    wait_until(lambda: any("streaming to" in line for line in log("agentd")), EVENT_S, "a stream")
    pid = processes()["agentd.stream"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    uid = str(pwd.getpwnam("agentd").pw_uid)
    assert status["Uid"].split() == [uid] * 4
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


def test_the_sample_agent(tmp_path: Path) -> None:
    """One call is allowed, one denied, one held: in effect, on record and in the stream."""
    issue = ISSUE.read_bytes()
    (watched, streamed) = (tmp_path / "watched", tmp_path / "streamed")
    with watched.open("wb") as file:
        watch = subprocess.Popen([AGENTD, "watch"], stdout=file)
    with streamed.open("wb") as file:
        consumer = subprocess.Popen(
            ["/opt/agentd-sample/events.py", "agentd.v1.*.demo.>"], stdout=file
        )
    try:
        run("systemctl", "start", "--no-block", "agentd-sample")
        run(AGENTD, "approve", held("move_file"))
        sample = "agentd-sample.service"
        wait_until_shown(sample, "ActiveState", "inactive", EVENT_S)
        assert show(sample, "Result") == "success"
        wait_until(lambda: b"session ended" in watched.read_bytes(), EVENT_S, "the end on screen")
        wait_until(lambda: b"session.end" in streamed.read_bytes(), EVENT_S, "the end streamed")
    finally:
        for process in (watch, consumer):
            process.terminate()
            process.wait(EVENT_S)
    assert ISSUE.read_bytes() == issue
    assert [path.name for path in DEMO.iterdir()] == ["old.txt"]
    assert answers() == [
        f"ok: wrote {DEMO}/notes.txt",
        f"error: unknown tool: denied-by-agentd: demo-outside-directory: Write only below {DEMO}.",
        f"ok: moved {DEMO}/notes.txt to {DEMO}/old.txt",
    ]
    # A record may come after that of the next call, which it must not delay.
    shown = re.findall(r"Z (DENY|HOLD|ALLOW) ", watched.read_text())
    assert sorted(shown) == ["ALLOW", "DENY", "HOLD"]
    recorded = run(AGENTD, "query", "--workload", "demo", "--json").splitlines()
    events = [json.loads(line) for line in streamed.read_text().splitlines()]
    assert [each["id"] for each in map(json.loads, recorded)] == [each["id"] for each in events]
    decisions = [event["decision"] for event in events if "decision" in event]
    decided = [(decision["verdict"], decision["rules"]) for decision in decisions]
    assert ("deny", ["demo-outside-directory"]) in decided
    assert ("hold", ["demo-move"]) in decided


def test_a_second_run_changes_nothing() -> None:
    before = files(), processes(), show("nats", "MainPID")
    done = subprocess.run(SCRIPT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"provision: agentd runs: {tiers.ENFORCE_LSM}"]
    assert (files(), processes(), show("nats", "MainPID")) == before


@pytest.mark.parametrize("name", BY_UNIT)
def test_a_workload_is_selected_by_its_unit(name: str) -> None:
    """The unit itself, or the slice that it is in."""
    _, setting = BY_UNIT[name]
    unit = "agent-of-a-unit" if name == "by-unit" else "agent-of-a-slice"
    (UNITS / f"{unit}.service").write_text(
        f"[Service]\nExecStart=/bin/sh -c 'while :; do {READ}; done'\n{setting}\n"
    )
    run("systemctl", "daemon-reload")
    run("systemctl", "start", unit)
    try:
        wait_until(lambda: log(unit).count("refused") >= 5, EVENT_S, "refusals")
        said = log(unit)
        assert "read" not in said[said.index("refused") :]
        (session,) = sessions(name)
        assert session["processes"]
        assert DENIED.read_text() == "denied\n"  # this process is in no such unit
    finally:
        run("systemctl", "stop", unit)
    wait_until(lambda: not sessions(name), EVENT_S, "the end of the session")


def sessions(workload: str) -> list[dict[str, Any]]:
    return [s for w in ask("ps")["workloads"] if w["name"] == workload for s in w["sessions"]]


def test_a_restart_leaves_no_gap(puppet: Puppet) -> None:
    assert read(puppet) == (None, 1)
    puppet.start(
        f"""
import os, time
result = {{"refused": 0, "read": 0}}
while not os.path.exists("/srv/end"):
    try:
        open({str(DENIED)!r}).close()
        result["read"] += 1
    except PermissionError:
        result["refused"] += 1
    time.sleep(0.01)
"""
    )
    before = processes()
    run("systemctl", "restart", "agentd")
    Path("/srv/end").touch()
    tried = puppet.finish().result
    assert tried["read"] == 0
    assert tried["refused"] > 100
    assert not before.items() & processes().items()
    assert len(sessions("tested")) == 1


def test_a_killed_supervisor_is_started_again(puppet: Puppet) -> None:
    """Nothing stays held, and the denials stay in force meanwhile."""
    run("systemctl", "start", "--no-block", "agentd-sample")
    held("move_file")
    os.kill(int(show("agentd", "MainPID")), signal.SIGKILL)
    assert read(puppet) == (None, 1)
    wait_until_shown("agentd", "NRestarts", "1", EVENT_S)
    wait_until_shown("agentd", "ActiveState", "active", PATIENCE_S)
    assert read(puppet) == (None, 1)
    wait_until_shown("agentd-sample", "ActiveState", "inactive", EVENT_S)
    assert answers()[-1].startswith("error: unknown tool: denied-by-agentd: engine-down")


def test_stopped_it_leaves_its_denials_and_unload_ends_them(puppet: Puppet) -> None:
    run("systemctl", "stop", "agentd")
    assert show("agentd", "Result") == "success"
    time.sleep(3.0)  # for longer than it takes the kernel to see that nobody is there
    assert read(puppet) == (None, 1)
    run(AGENTD, "unload")
    assert not Path("/sys/fs/bpf/agentd").exists()
    assert read(puppet) == ("denied\n", 0)
