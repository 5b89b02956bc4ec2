"""Queries find what a plain scan over the same events finds."""

import fnmatch
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.events.journal import Journal
from agentd.events.query import JournalReader, Query, open_for_query, parse_time

BASE = 1_795_000_000_000_000_000
MINUTE = 60_000_000_000
CLASSES = ("file.open", "mcp.request", "mcp.response")


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("query") / "j.db"
    for boot in ("11111111-a", "22222222-b"):
        journal = Journal(path, 8 << 20, "h", boot)
        for number in range(900):
            verdict = ("deny", "audit", None)[number % 3]
            # Events of several CPUs arrive a little out of order.
            jitter = (number * 7919) % 13 * 1_000_000_000
            journal.append(
                CLASSES[number % 3],
                BASE + (boot > "2") * 1000 * MINUTE + number * MINUTE // 4 + jitter,
                ("ci-bot", "claude-code")[number % 2],
                f"s-{number % 5}",
                {"decision": {"verdict": verdict}} if verdict else {},
                verdict=verdict,
                rules=["deny-delete", "other"] if verdict == "deny" else (),
            )
        journal.close()
    return path


def every(path: Path) -> list[dict[str, Any]]:
    con = sqlite3.connect(path)
    found = con.execute(
        "SELECT id, time_ns, class, workload, session, verdict, rules FROM events ORDER BY id"
    ).fetchall()
    con.close()
    names = ("id", "time", "class", "workload", "session", "verdict", "rules")
    return [dict(zip(names, row, strict=True)) for row in found]


times = st.none() | st.integers(-100, 1400).map(lambda minutes: BASE + minutes * MINUTE)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    since=times,
    until=times,
    workload=st.sampled_from(["", "ci-*", "claude-code", "x"]),
    classes=st.sampled_from([(), ("mcp.*",), ("file.open", "mcp.request")]),
    rule=st.sampled_from(["", "deny-*", "other", "delete"]),
    verdicts=st.sampled_from([(), ("deny",), ("deny", "audit")]),
    limit=st.none() | st.integers(1, 700),
    newest=st.booleans(),
)
def test_it_finds_what_a_scan_finds(journal: Path, **given_: Any) -> None:
    query = Query(
        since_ns=given_["since"],
        until_ns=given_["until"],
        workload=given_["workload"],
        classes=given_["classes"],
        rule=given_["rule"],
        verdicts=given_["verdicts"],
        limit=given_["limit"],
        newest_first=given_["newest"],
    )

    def matches(row: dict[str, Any]) -> bool:
        rules = (row["rules"] or "").split()
        return (
            (query.since_ns is None or row["time"] >= query.since_ns)
            and (query.until_ns is None or row["time"] < query.until_ns)
            and (not query.workload or fnmatch.fnmatchcase(row["workload"], query.workload))
            and (not query.classes or any(fnmatch.fnmatch(row["class"], c) for c in query.classes))
            and (not query.rule or any(fnmatch.fnmatch(rule, query.rule) for rule in rules))
            and (not query.verdicts or row["verdict"] in query.verdicts)
        )

    expected = [row["id"] for row in every(journal) if matches(row)]
    if query.newest_first:
        expected.reverse()
    reader = JournalReader(journal)
    assert [found.id for found in reader.find(query)] == expected[: query.limit]
    reader.close()


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize(
    "minutes",
    [
        # Every seventh tells of a call that was held for ten minutes, with the time it began.
        [number / 30 - 10 * (number > 400 and number % 7 == 0) for number in range(2000)],
        # The clock is set back by an hour.
        [number / 30 - 60 * (number > 1000) for number in range(2000)],
    ],
    ids=["held", "clock"],
)
def test_what_is_told_late_is_found_by_its_time(
    tmp_path: Path, minutes: list[float], reopened: bool
) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path, 8 << 20, "h", "11111111-a")
    for number, minute in enumerate(minutes):
        journal.append("loss", BASE + int(minute * MINUTE), None, None, {})
        if reopened and number % 700 == 301:
            journal.close()
            journal = Journal(path, 8 << 20, "h", "11111111-a")
    journal.close()
    reader = JournalReader(path)
    for minute in range(-60, 70):
        moment = BASE + minute * MINUTE
        later = sum(BASE + int(each * MINUTE) >= moment for each in minutes)
        assert len(list(reader.find(Query(since_ns=moment)))) == later
        assert len(list(reader.find(Query(until_ns=moment)))) == len(minutes) - later
    reader.close()


def test_following_starts_after_the_newest(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", 8 << 20, "h", "11111111-a")
    journal.append("daemon.start", 1, None, None, {})
    journal.flush()
    reader = JournalReader(tmp_path / "j.db")
    after = reader.newest_id()
    assert list(reader.find(Query(after_id=after))) == []
    journal.append("daemon.stop", 2, None, None, {})
    journal.flush()
    (found,) = reader.find(Query(after_id=after))
    assert orjson.loads(found.body)["class"] == "daemon.stop"
    reader.close()
    journal.close()


def test_an_empty_and_a_missing_journal(tmp_path: Path) -> None:
    Journal(tmp_path / "j.db", 8 << 20, "h", "11111111-a").close()
    reader = JournalReader(tmp_path / "j.db")
    assert list(reader.find(Query())) == []
    assert reader.newest_id() == 0
    reader.close()
    with pytest.raises(sqlite3.OperationalError):
        open_for_query(tmp_path / "none.db")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", BASE - 10 * MINUTE),
        ("1.5h", BASE - 90 * MINUTE),
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T01:00:00.5+01:00", 500_000_000),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time(text, BASE) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "10 parsecs", "2026-13-01"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_time(text)
