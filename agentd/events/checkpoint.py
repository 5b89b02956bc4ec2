"""Copies the WAL back into the journal in a thread of its own.

A checkpoint waits for the disk (fsync of the WAL, then of the file). The engine's one thread
decides held calls, so it must not wait there; SQLite lets another connection do it meanwhile.
"""

import sqlite3
import threading
from pathlib import Path

from agentd.events import store


class Checkpointer:
    """Runs passive checkpoints on request. Failures show as a WAL that keeps growing.

    `lock` is held while one runs: SQLite lets two checkpoints exclude each other, not wait.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Ask for a checkpoint soon; many requests while one runs give one more."""
        self._wake.set()

    def close(self) -> None:
        """Finish the running checkpoint and end the thread."""
        self._stop = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        con: sqlite3.Connection | None = None
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stop:
                break
            try:
                con = con or store.connect(self._path)
                with self.lock:
                    con.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error:
                if con is not None:
                    con.close()
                con = None
        if con is not None:
            con.close()
