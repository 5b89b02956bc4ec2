"""The journal: no gap, no duplicate, within its budget, whatever happens to process and disk."""

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.events import envelope, store
from agentd.events.journal import FlushStatus, Journal
from agentd.stream.source import Source

BOOT = "6b1c2f3e-1111-2222-3333-444455556666"
NEXT_BOOT = "7c2d304f-1111-2222-3333-444455556666"
MIB = 1 << 20


def rows(path: Path) -> list[tuple[int, int, int, dict[str, Any]]]:
    con = sqlite3.connect(path)
    with contextlib.closing(con):
        found = con.execute("SELECT id, boot, seq, body FROM events ORDER BY id").fetchall()
    return [(row_id, boot, seq, orjson.loads(body)) for row_id, boot, seq, body in found]


def fill(journal: Journal, count: int, size: int = 300, workload: str = "w") -> None:
    for _ in range(count):
        journal.append("file.open", time.time_ns(), workload, "s", {"pad": "x" * size})


def sizes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) - (
        Path(f"{path}-shm").stat().st_size
    )


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make the kernel refuse (EFBIG) to let any file grow over `size`, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("count", [200, 3000])
def test_other_work_goes_on_while_much_is_written(tmp_path: Path, count: int) -> None:
    journal = Journal(tmp_path / "journal.db", 64 * MIB, "h", BOOT)
    turns = 0

    def between() -> None:
        nonlocal turns
        turns += 1
        if turns <= 5:
            fill(journal, 1)

    journal.between = between
    fill(journal, count)
    assert journal.flush() is FlushStatus.OK
    journal.close()
    assert turns >= count // 20
    written = rows(tmp_path / "journal.db")
    assert [seq for _, _, seq, _ in written] == list(range(1, count + 6))
    assert all(one[0] < other[0] for one, other in pairwise(written))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.sampled_from(["append", "flush", "reopen", "abandon", "reboot"]), min_size=5, max_size=60
    )
)
def test_numbers_have_no_gap_per_boot(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    boots = [f"{n:08x}-0000-0000-0000-000000000000" for n in range(100)]
    journal = Journal(path, MIB, "h", boots[0])
    for step in steps:
        match step:
            case "append":
                fill(journal, 3, 10)
            case "flush":
                assert journal.flush() is FlushStatus.OK
            case "reopen":
                journal.close()
                journal = Journal(path, MIB, "h", journal.boot)
            case "abandon":  # what is buffered is gone, and so are its numbers
                journal._buffer.clear()
                journal.close()
                journal = Journal(path, MIB, "h", journal.boot)
            case _:
                journal.close()
                journal = Journal(path, MIB, "h", boots[boots.index(journal.boot) + 1])
    journal.close()
    found = rows(path)
    assert [row[0] for row in found] == sorted({row[0] for row in found})
    by_boot: dict[str, list[int]] = {}
    for _, _, seq, body in found:
        assert body["seq"] == seq
        by_boot.setdefault(body["boot"], []).append(seq)
    for numbers in by_boot.values():
        assert numbers == list(range(1, len(numbers) + 1))


def test_what_is_returned_is_what_is_stored(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", MIB, "h", BOOT)
    decision = {"verdict": "deny", "rules": ["a", "b"]}
    body = journal.append(
        "mcp.request", 5, "w", "s", {"decision": decision}, verdict="deny", rules=["a", "b"]
    )
    assert journal.sync() is FlushStatus.OK
    con = sqlite3.connect(tmp_path / "j.db")
    stored = con.execute("SELECT seq, time_ns, class, verdict, rules, body FROM events").fetchall()
    con.close()
    assert stored == [(1, 5, "mcp.request", "deny", "a b", body)]
    envelope.Event.model_validate_json(body)
    assert (tmp_path / "j.db").stat().st_mode & 0o777 == 0o600
    journal.close()


def test_killed_at_any_moment_the_sequence_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    reported = 0
    for attempt in range(8):
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("journal_writer.py")),
             str(path), BOOT, str(2 * MIB)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip
        assert child.stdout is not None
        first = int(child.stdout.readline())
        assert first > reported
        time.sleep(0.013 * attempt)
        child.kill()
        numbers = [first, *map(int, child.stdout.read().decode().split("\n")[:-1])]
        child.stdout.close()
        child.wait()
        reported = numbers[-1]
    journal = Journal(path, 2 * MIB, "h", BOOT)
    assert journal.stats().seq >= reported
    journal.close()
    found = [row[2] for row in rows(path)]
    assert found == list(range(found[0], found[-1] + 1))
    assert found[-1] >= reported


def test_a_new_boot_starts_at_one_and_far_above_in_ids(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, MIB, "h", BOOT)
    fill(journal, 10)
    journal.close()
    journal = Journal(path, MIB, "h", NEXT_BOOT)
    fill(journal, 1)
    journal.close()
    assert [(row[0], row[2]) for row in rows(path)][-2:] == [(10, 10), (11 + store.ID_JUMP, 1)]


@pytest.mark.parametrize("size", [40, 300, 5000, 40_000])
def test_file_and_wal_stay_within_the_budget(tmp_path: Path, size: int) -> None:
    path, budget = tmp_path / "j.db", 2 * MIB
    journal = Journal(path, budget, "h", BOOT)
    highest = 0
    for _ in range(60):
        fill(journal, max(2, 200_000 // (size + 300)), size)
        assert journal.flush() is FlushStatus.OK
        highest = max(highest, sizes(path))
    stats = journal.stats()
    journal.close()
    assert stats.trimmed > 0
    assert highest <= budget
    assert highest > budget // 3
    found = [row[2] for row in rows(path)]
    assert found == list(range(found[0], stats.seq + 1))


def test_a_lower_budget_makes_the_file_smaller(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, 16 * MIB, "h", BOOT)
    fill(journal, 20_000)
    journal.close()
    assert path.stat().st_size > 6 * MIB
    journal = Journal(path, 2 * MIB, "h", BOOT)
    for _ in range(40):
        fill(journal, 10)
        journal.flush()
    journal.close()
    assert path.stat().st_size <= 2 * MIB


def test_trimming_unsent_rows_leaves_a_loss_event(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    sent = 0
    journal = Journal(path, MIB, "h", BOOT, sent_floor=lambda _: sent)
    for _ in range(40):
        fill(journal, 100)
        journal.flush()
    assert len(journal.take_notices()) > 2
    # Earlier loss events were trimmed themselves: what is left tells of everything once.
    found = rows(path)
    losses = [row[3]["loss"] for row in found if row[3]["class"] == "loss"]
    ranges = sorted((p for loss in losses for p in loss["ranges"]), key=lambda p: int(p["first"]))
    assert ranges[0]["first"] == 1
    assert ranges[-1]["last"] == found[0][2] - 1
    assert all(b["first"] == a["last"] + 1 for a, b in pairwise(ranges))
    assert sum(loss["count"] for loss in losses) == found[0][2] - 1

    sent = journal.stats().seq
    fill(journal, 100)
    journal.flush()
    journal.take_notices()
    for _ in range(10):
        sent = journal.stats().seq
        fill(journal, 100)
        journal.flush()
    assert journal.take_notices() == []
    journal.close()


def test_a_noted_trim_is_told_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, MIB, "h", BOOT)
    noted = orjson.dumps([{"boot": BOOT, "first": 1, "last": 5, "count": 5}]).decode()
    journal._con.execute(store.SET_KEY, ("journal.trimmed", noted))
    journal.close()
    for expected in (1, 0):
        journal = Journal(path, MIB, "h", BOOT)
        journal.flush()
        assert len(journal.take_notices()) == expected
        journal.close()


def test_a_slow_reader_cannot_make_the_wal_grow_without_bound(tmp_path: Path) -> None:
    path, budget = tmp_path / "j.db", 4 * MIB
    journal = Journal(path, budget, "h", BOOT, buffer_bytes=MIB)
    fill(journal, 10)
    journal.flush()
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchone()
    statuses = set()
    for _ in range(120):
        fill(journal, 100)
        journal._retry_at = 0
        statuses.add(journal.flush())
        assert sizes(path) <= budget + 128 * 1024
    assert statuses == {FlushStatus.OK, FlushStatus.BLOCKED}
    dropped = journal.stats().dropped
    assert dropped > 0
    assert "reader" in journal.stats().error
    reader.execute("COMMIT")
    reader.close()
    journal._retry_at = 0
    assert journal.flush() is FlushStatus.OK
    assert sum(orjson.loads(body)["loss"]["count"] for body in journal.take_notices()) == dropped
    journal.close()
    found = [row[2] for row in rows(path)]
    assert found == list(range(found[0], found[-1] + 1))


def test_a_full_disk_is_survived_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, 8 * MIB, "h", BOOT, buffer_bytes=200_000)
    fill(journal, 100)
    assert journal.flush() is FlushStatus.OK
    with file_size_limit(path.stat().st_size + 100_000):
        for _ in range(50):
            fill(journal, 50, workload="noisy")
            journal._retry_at = 0
            status = journal.flush()
        assert status is FlushStatus.FAILED
        assert journal.stats().error
        body = journal.append("mcp.request", 1, "w", "s", {}, verdict="deny", rules=["r"])
        assert body, "a decision finds room when telemetry does not"
    dropped = journal.stats().dropped
    assert dropped > 1000
    journal._retry_at = 0
    assert journal.flush() is FlushStatus.OK
    (notice,) = journal.take_notices()
    loss = envelope.Event.model_validate_json(notice).loss
    assert loss is not None
    assert (loss.source, loss.count, loss.workloads) == (
        "journal.buffer", dropped, {"noisy": dropped},
    )  # fmt: skip
    journal.close()
    found = [row[2] for row in rows(path)]
    assert found == list(range(1, found[-1] + 1))


def test_after_a_failure_the_disk_is_left_alone_for_a_while(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", 8 * MIB, "h", BOOT)
    with file_size_limit(1):
        fill(journal, 1)
        assert journal.flush() is FlushStatus.FAILED
    assert journal.flush() is FlushStatus.FAILED
    time.sleep(0.21)
    assert journal.flush() is FlushStatus.OK
    journal.close()


def test_a_journal_left_open_can_be_opened_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    crashed = Journal(path, 8 * MIB, "h", BOOT)
    fill(crashed, 10)
    assert crashed.flush() is FlushStatus.OK
    with file_size_limit(1):
        journal = Journal(path, 8 * MIB, "h", BOOT)
        fill(journal, 1)
        assert journal.flush() is FlushStatus.FAILED
    time.sleep(0.21)
    assert journal.flush() is FlushStatus.OK
    journal.close()
    crashed.close()
    assert [row[2] for row in rows(path)] == list(range(1, 12))


def test_a_journal_that_somebody_else_writes_can_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    crashed = Journal(path, 8 * MIB, "h", BOOT)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        journal = Journal(path, 8 * MIB, "h", BOOT)
        fill(journal, 1)
        assert journal.flush() is FlushStatus.FAILED
        other.execute("ROLLBACK")
    time.sleep(0.21)
    assert journal.flush() is FlushStatus.OK
    journal.close()
    crashed.close()


@pytest.mark.parametrize("damage", [b"this is not a database, not at all" * 400, b""])
def test_a_broken_file_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, MIB, "h", BOOT)
    fill(journal, 500)
    journal.close()
    data = path.read_bytes()
    path.write_bytes(damage or data[:100] + b"\xff" * (len(data) - 100))
    journal = Journal(path, MIB, "h", BOOT)
    fill(journal, 1)
    assert journal.flush() is FlushStatus.OK
    (notice,) = journal.take_notices()
    assert orjson.loads(notice)["loss"]["source"] == "journal.broken"
    journal.close()
    assert all(row[2] > 500 for row in rows(path)), "no number is used twice in one boot"
    (aside,) = tmp_path.glob("j.db.broken-*[0-9]")
    assert aside.stat().st_mode & 0o777 == 0o400


def losses(path: Path) -> list[dict[str, Any]]:
    return [row[3]["loss"] for row in rows(path) if row[3]["class"] == "loss"]


def test_what_is_damaged_while_it_is_written_is_set_aside_and_the_numbers_go_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, MIB, "h", NEXT_BOOT)
    fill(journal, 10)
    journal.close()
    journal = Journal(path, MIB, "h", BOOT)
    while not journal.stats().trimmed:
        fill(journal, 50)
        assert journal.flush() is FlushStatus.OK
    journal.close()
    with path.open("r+b") as file:
        for page in range(8, path.stat().st_size // store.PAGE_SIZE - 8):
            file.seek(page * store.PAGE_SIZE)
            file.write(os.urandom(store.PAGE_SIZE))
    journal = Journal(path, MIB, "h", BOOT)
    before = journal.stats().seq
    while not (notices := journal.take_notices()):
        fill(journal, 50)
        assert journal.flush() is FlushStatus.OK
    assert orjson.loads(notices[0])["loss"]["source"] == "journal.broken"
    fill(journal, 1)
    journal.close()
    kept = [row[2] for row in rows(path)]
    assert kept == list(range(kept[0], kept[-1] + 1)), "no gap from the first that was written here"
    assert before < kept[0]
    (aside,) = tmp_path.glob("j.db.broken-*[0-9]")
    assert losses(path)[0]["kept"] == str(aside)


@pytest.mark.parametrize("moved", [False, True])
def test_a_journal_removed_while_it_is_written_is_begun_anew_and_the_numbers_go_on(
    tmp_path: Path, moved: bool
) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, MIB, "h", BOOT)
    fill(journal, 10)
    assert journal.flush() is FlushStatus.OK
    source = Source(path)
    if moved:
        path.rename(tmp_path / "elsewhere")
    else:
        for part in tmp_path.glob("j.db*"):
            part.unlink()
    fill(journal, 5)
    assert journal.flush() is FlushStatus.OK
    assert [row[2] for row in rows(path)] == [11, 12, 13, 14, 15, 16]
    assert [loss["source"] for loss in losses(path)] == ["journal.missing"]
    assert source.replaced()
    journal.close()


@pytest.mark.parametrize("emptied", [False, True])
def test_a_journal_removed_while_nothing_runs_uses_no_number_twice(
    tmp_path: Path, emptied: bool
) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, MIB, "h", BOOT)
    fill(journal, 10)
    journal.close()
    for part in tmp_path.glob("j.db*"):
        part.write_bytes(b"") if emptied else part.unlink()
    for count in (1, 2):
        journal = Journal(path, MIB, "h", BOOT, begun=True)
        fill(journal, 1)
        journal.close()
        assert len(rows(path)) == count + 1
    numbers = [row[2] for row in rows(path)]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert numbers[0] > 10
    assert [loss["source"] for loss in losses(path)] == ["journal.missing"]


def test_a_wal_removed_while_it_is_written_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, MIB, "h", BOOT)
    fill(journal, 10)
    assert journal.flush() is FlushStatus.OK
    source = Source(path)
    Path(f"{path}-wal").unlink()
    fill(journal, 5)
    assert journal.flush() is FlushStatus.OK
    assert [row[2] for row in rows(path)] == [11, 12, 13, 14, 15, 16]
    assert source.replaced()
    source._con.close()
    assert [row[2] for row in rows(Path(losses(path)[0]["kept"]))] == list(range(1, 11))
    journal.close()
    assert path.stat().st_mode & 0o200, "what is closed in order can be opened again"


def test_a_reader_without_write_access_sees_every_commit(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, MIB, "h", BOOT)
    reader = store.open_reader(path)
    for count in range(1, 200):
        fill(journal, 20)
        journal.flush()
        newest = reader.execute("SELECT max(seq) FROM events").fetchone()[0]
        assert newest == 20 * count
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM events")
    reader.close()
    journal.close()


def test_a_budget_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="budget"):
        Journal(tmp_path / "j.db", 1000, "h", BOOT)
