"""The journal's file: its schema, how writers and readers open it, what becomes of a broken one.

SQLite in WAL mode. `events.id` is the global order: it never repeats and never goes back, and it
jumps at every boot, so that rows which a power cut took from the end of the WAL (synchronous is
NORMAL) can never share an id with later ones. `events.seq` has no gaps within one boot.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE_SIZE = 8192
ID_JUMP = 1 << 24

_SCHEMA = """
CREATE TABLE IF NOT EXISTS boots(n INTEGER PRIMARY KEY, boot TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS events(
    id INTEGER PRIMARY KEY,
    boot INTEGER NOT NULL,   -- boots.n
    seq INTEGER NOT NULL,    -- 1, 2, 3, ... in this boot
    time_ns INTEGER NOT NULL,
    class TEXT NOT NULL,
    workload TEXT,
    session TEXT,
    verdict TEXT,            -- NULL when no rule matched and nothing was held
    rules TEXT,              -- ids with a space between them
    body BLOB NOT NULL       -- the event, JSON
);
CREATE INDEX IF NOT EXISTS decisions ON events(id) WHERE verdict IS NOT NULL;
CREATE TABLE IF NOT EXISTS kv(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
INSERT = "INSERT INTO events VALUES(?,?,?,?,?,?,?,?,?,?)"
SET_KEY = "INSERT INTO kv VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value = excluded.value"
JOURNAL_KEY = "journal.id"

Row = tuple[int, int, int, int, str, str | None, str | None, str | None, str | None, bytes]

_INCREMENTAL = 2
# Bound as they are. Without an adapter sqlite3 looks for one at each, by attributes that they have
# not, and that takes a sixth of the time of a row.
sqlite3.register_adapter(bytes, bytes)
_NOTHING: dict[None, None] = {}
sqlite3.register_adapter(type(None), _NOTHING.get)
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is broken, rather than full, busy or unreadable."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _CORRUPT


def open_writer(path: Path) -> sqlite3.Connection:
    """Open (and make, readable by root alone) the journal for its one writer.

    The connection never waits for a lock and never checkpoints by itself. What is there already is
    not written again: a journal that was left open can be opened on a full disk, too. Raises
    sqlite3.Error or OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    con = connect(path)
    try:
        con.execute(f"PRAGMA page_size={PAGE_SIZE}")
        if con.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
            con.execute("PRAGMA auto_vacuum=INCREMENTAL")
        con.execute("PRAGMA journal_mode=WAL")
        con.execute("PRAGMA wal_autocheckpoint=0")
        con.executescript(_SCHEMA)
        if not con.execute("SELECT 1 FROM kv WHERE key = ?", (JOURNAL_KEY,)).fetchone():
            con.execute("INSERT INTO kv VALUES(?,?)", (JOURNAL_KEY, f'"{new_journal_id()}"'))
    except BaseException:
        con.close()
        raise
    return con


def connect(path: Path) -> sqlite3.Connection:
    """A read-write connection with the journal's per-connection settings."""
    con = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    con.execute("PRAGMA synchronous=NORMAL")
    con.execute("PRAGMA secure_delete=OFF")
    con.execute("PRAGMA cache_size=-512")
    return con


@contextmanager
def transaction(con: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One write transaction: committed at the end, rolled back on any exception."""
    con.execute("BEGIN IMMEDIATE")
    try:
        yield con
        con.execute("COMMIT")
    except BaseException:
        # SQLite rolls back by itself when the disk is full or fails.
        if con.in_transaction:
            con.execute("ROLLBACK")
        raise


def open_reader(path: Path) -> sqlite3.Connection:
    """Open the journal to read it.

    `readonly_shm` maps the WAL index read-only: SQLite (since 3.22) then uses the read marks that
    the writer keeps up to date and takes only shared locks. SQLite asks to write the WAL even so,
    and is content when that is refused. All three files are opened by the first query, which this
    function makes; after it the process may give up the right to open them, and keeps reading.
    Raises sqlite3.OperationalError while there is no journal to read.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro&readonly_shm=1"
    con = sqlite3.connect(uri, uri=True, timeout=1, isolation_level=None)
    try:
        con.execute("PRAGMA query_only=ON")
        con.execute("PRAGMA cache_size=-512")
        con.execute("SELECT max(id) FROM events").fetchone()
    except BaseException:
        con.close()
        raise
    return con


def new_journal_id() -> str:
    """A name for a new journal file, by which readers tell it from the one they knew."""
    return os.urandom(8).hex()


def journal_id(con: sqlite3.Connection) -> str:
    """The journal's own name, see `new_journal_id`."""
    text = con.execute("SELECT value FROM kv WHERE key = ?", (JOURNAL_KEY,)).fetchone()[0]
    return str(text).strip('"')


def set_aside(path: Path) -> Path | None:
    """Move a broken journal (and its WAL) out of the way; returns its new path, if there is one."""
    aside = path.with_name(f"{path.name}.broken-{time.time_ns() // 1_000_000_000}")
    for suffix in ("-wal", "-shm", ""):
        part = Path(f"{path}{suffix}")
        if part.exists():
            part.rename(f"{aside}{suffix}")
    if not aside.exists():
        return None
    retire(aside)
    return aside


def retire(path: Path) -> None:
    """Make a journal read-only, which tells a reader that still has it open to look again."""
    path.chmod(0o400)
