"""The daemon and its journal's file: removed, damaged, of no use, or somebody else's."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.host.support.daemon import Daemon, workload
from tests.host.support.processes import wait_until

RULES = {"w.yaml": workload("tested")}


def remove_journal(daemon: Daemon) -> None:
    for part in daemon.state_dir.glob("journal.db*"):
        part.unlink()


def run_true(daemon: Daemon) -> None:
    subprocess.run(daemon.run("tested", ["/bin/true"]), check=True, timeout=20)


def is_missing(event: dict[str, object]) -> bool:
    loss = event.get("loss")
    return isinstance(loss, dict) and loss["source"] == "journal.missing"


def test_a_journal_removed_under_the_daemon_is_begun_anew(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon(rules=RULES)
    run_true(daemon)
    daemon.wait_for(lambda event: event["class"] == "session.end")
    last = daemon.events()[-1]["seq"]
    engine = daemon.request("ping")["pid"]
    remove_journal(daemon)
    run_true(daemon)
    daemon.wait_for(is_missing)
    numbers = [event["seq"] for event in daemon.events()]
    assert numbers == list(range(last + 1, last + 1 + len(numbers)))
    assert daemon.request("ping")["pid"] == engine


def test_a_journal_removed_between_two_daemons_uses_no_number_twice(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon(rules=RULES)
    run_true(daemon)
    daemon.stop()
    last = daemon.events()[-1]["seq"]
    remove_journal(daemon)
    daemon.start()
    daemon.wait_for(is_missing)
    assert min(event["seq"] for event in daemon.events()) > last


def test_a_journal_that_cannot_be_is_told_in_a_line(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, RULES)
    daemon.journal.mkdir()
    daemon.begin()
    daemon.forget()
    assert f"agentd: the journal {daemon.journal} cannot be opened" in daemon.tail()
    assert "Traceback" not in daemon.tail()


def test_two_daemons_do_not_share_a_state_dir(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    first = start_daemon(rules=RULES)
    second = Daemon(tmp_path / "second", RULES, settings={"state_dir": str(first.state_dir)})
    refusal = f"another agentd runs with {first.state_dir}; stop it first"
    second.begin()
    try:
        wait_until(lambda: refusal in second.tail(), 10, "refusal")
    except AssertionError:
        second.stop()
        raise
    second.forget()
    run_true(first)
    first.wait_for(lambda event: event["class"] == "session.end")
