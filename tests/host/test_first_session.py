"""The README's first session works as it is written, with what `make run` starts.

Every `sh` block of that part is given to one bash, unchanged and in order; only the daemon's
configuration ($AGENTD_CONFIG) puts its socket and journal elsewhere.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.host.support.daemon import shipped_workloads_unselected
from tests.host.support.leftovers import foreign_daemons, host_state
from tests.host.support.processes import wait_until
from tests.host.support.servers import REPOSITORY
from tests.host.support.terminal import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

README = REPOSITORY / "README.md"
ISSUE = Path("/etc/issue.net")
CREDENTIALS = Path.home() / ".aws" / "credentials"
MADE = (Path("/tmp/agentd-demo"), Path("/tmp/agentd-demo-tools"))
ONE_AT_A_TIME = Path("/run/lock/agentd-first-session.lock")
MARKER = "@@ end of step"
STEPS = (
    "tools", "agent", "allowed", "refused", "approved", "timeout", "killed", "record", "clean-up",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Session:
    """What was to be seen: by step on the user's terminal, and on the daemon's."""

    steps: dict[str, str]
    daemon: str
    issue_before: bytes
    issue_after: bytes
    stop_status: int
    stop_s: float
    outlived: list[psutil.Process]
    runtime_dir: Path
    left_cgroups: frozenset[str]


def blocks() -> list[str]:
    """The `sh` blocks of the part "A first session"."""
    part = README.read_text().split("\n## A first session\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)


def run_blocks(environment: dict[str, str]) -> dict[str, str]:
    """Give the blocks to one bash; what each has shown, both streams together."""
    script = "".join(f"{block}echo '{MARKER}'\n" for block in blocks())
    done = subprocess.run(
        ["bash", "-s"],
        input=script,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    shown = done.stdout.split(f"{MARKER}\n")
    assert len(shown) == len(STEPS) + 1, f"the session has other steps now:\n{done.stdout}"
    return dict(zip(STEPS, shown, strict=False))


@pytest.fixture(scope="module")
def fresh_places() -> Iterator[None]:
    """One such session at a time on a host, and nothing of it stays, whatever goes wrong."""
    with ONE_AT_A_TIME.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in MADE:  # of a run that was ended before it could clear up
            shutil.rmtree(path, ignore_errors=True)
        had_credentials = CREDENTIALS.exists()
        had_directory = CREDENTIALS.parent.exists()
        issue = ISSUE.read_bytes()
        yield
        for path in MADE:
            shutil.rmtree(path, ignore_errors=True)
        if not had_credentials:
            CREDENTIALS.unlink(missing_ok=True)
        if not had_directory and CREDENTIALS.parent.exists():
            CREDENTIALS.parent.rmdir()
        if issue != ISSUE.read_bytes():
            ISSUE.write_bytes(issue)


@pytest.fixture(scope="module")
def session(fresh_places: None, tmp_path_factory: pytest.TempPathFactory) -> Session:
    directory = tmp_path_factory.mktemp("first-session")
    runtime_dir = directory / "run"
    configuration = directory / "agentd.yaml"
    own_rules = directory / "rules.d"
    own_rules.mkdir()
    (own_rules / "workloads.yaml").write_text(yaml.safe_dump(shipped_workloads_unselected()))
    configuration.write_text(
        yaml.safe_dump(
            {
                "runtime_dir": str(runtime_dir),
                "state_dir": str(directory / "state"),
                "rules": [str(own_rules)],
            }
        )
    )
    environment = {**os.environ, "AGENTD_CONFIG": str(configuration)}
    environment.pop("AGENTD_SOCKET", None)
    cgroups = host_state().cgroups
    issue = ISSUE.read_bytes()
    with Terminal(["make", "run"], REPOSITORY, environment) as terminal:

        def ready() -> bool:
            assert terminal.process.poll() is None, terminal.text()
            return "READY" in terminal.text()

        wait_until(ready, 90.0, "READY on the terminal of `make run`")
        steps = run_blocks(environment)
        processes = terminal.processes()
        status, took = terminal.press_ctrl_c(30.0)
        _, outlived = psutil.wait_procs(processes, 1.0)
        return Session(
            steps=steps,
            daemon=terminal.text(),
            issue_before=issue,
            issue_after=ISSUE.read_bytes(),
            stop_status=status,
            stop_s=took,
            outlived=outlived,
            runtime_dir=runtime_dir,
            left_cgroups=frozenset() if foreign_daemons() else host_state().cgroups - cgroups,
        )


def test_an_allowed_call_takes_effect(session: Session) -> None:
    assert session.steps["allowed"] == (
        "ok: Successfully wrote to /tmp/agentd-demo/notes.txt\nhello\n"
    )


def test_a_refused_call_names_rule_and_reason_and_has_no_effect(session: Session) -> None:
    shown = session.steps["refused"]
    assert shown.startswith("error: ")
    assert "denied-by-agentd: demo-outside-directory: Write only below /tmp/agentd-demo." in shown
    assert "nobody noticed" not in shown
    assert session.issue_after == session.issue_before


def test_a_call_waits_until_it_is_approved(session: Session) -> None:
    shown = session.steps["approved"]
    heading, hold, *rest = shown.splitlines()
    assert heading.split() == ["ID", "AGE", "LIMIT", "THEN", "WORKLOAD", "PROCESS", "RULE", "WHAT"]
    assert re.match(r"h\d+ +\d+s +1m00s +deny +demo/\w{8} +node\[\d+] +demo-move +tools/call", hold)
    assert any(line.startswith("demo  enforce  1 session") for line in rest)
    assert any("task: tidy up" in line for line in rest)
    assert f"{hold.split()[0]} approved" in rest
    assert shown.endswith(
        "ok: Successfully moved /tmp/agentd-demo/notes.txt to /tmp/agentd-demo/old.txt\n"
    )


def test_a_call_that_nobody_approves_is_refused(session: Session) -> None:
    shown = session.steps["timeout"]
    assert shown.startswith("error: ")
    assert "denied-by-agentd: demo-mkdir: Needs approval within 5 s." in shown
    held = re.search(r"NO ANSWER, denied.*demo-mkdir.*held (\d+\.\d)s", session.daemon)
    assert held is not None, session.daemon
    assert 5.0 <= float(held[1]) < 7.0


def test_an_agent_that_reads_credentials_is_killed_before_it_has_them(session: Session) -> None:
    shown = session.steps["killed"]
    assert shown.endswith("exit code 137\n")
    assert "agentd demo" not in shown  # the content of the file


def test_the_record_shows_every_decision(session: Session) -> None:
    record, doctor = session.steps["record"].split("tier ", 1)
    decisions = [line.split()[1] for line in record.splitlines()]
    assert decisions == ["DENY", "HOLD", "ALLOW", "HOLD", "DENY", "KILL"]
    for words in (
        "DENIED by demo-outside-directory: Write only below /tmp/agentd-demo.",
        "APPROVED by uid 0 (rule demo-move",
        "KILLED by secret-cloud: ",
    ):
        assert words in record
    assert re.match(r" +observe\n", doctor)
    assert re.search(r"^daemon +running, version ", doctor, re.MULTILINE)


def test_the_daemon_shows_the_same_as_it_happens(session: Session) -> None:
    record = session.steps["record"].split("tier ", 1)[0].splitlines()
    shown = session.daemon.splitlines()
    assert [line for line in shown if line in record] == record
    assert sum("session started: tidy up" in line for line in shown) == 4
    assert not [line for line in shown if "Traceback" in line]


def test_nothing_else_is_asked_or_complained_of(session: Session) -> None:
    for name in ("agent", "clean-up"):
        assert session.steps[name] == ""


def test_ctrl_c_ends_it_and_leaves_nothing(session: Session) -> None:
    assert session.stop_status in {0, -signal.SIGINT}  # make hands the signal on to itself
    assert session.daemon.rstrip().endswith("agentd stops")
    assert session.stop_s < 5.0
    assert session.outlived == []
    assert [path.name for path in session.runtime_dir.iterdir()] == ["lock"]
    assert session.left_cgroups == frozenset()
    assert not any(path.exists() for path in MADE)
