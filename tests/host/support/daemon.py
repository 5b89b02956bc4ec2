"""The real daemon, started for a test in a directory of its own, and its journal.

Nothing of the host's own agentd is touched: runtime, state and rules directories all lie under
the given directory, so that several daemons can run side by side.
"""

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

from agentd.kernel.pins import Pins
from tests.host.support.control import ControlClient, Message
from tests.host.support.processes import stop, wait_until
from tests.host.support.servers import AGENTD, REPOSITORY

Document = dict[str, Any]

ALLOW_ALL: Document = {
    "rules": [
        {
            "id": "allow-every-request",
            "on": "mcp.request",
            "match": {"method": "*"},
            "action": "allow",
        }
    ]
}


def every_write_told(workload_name: str) -> Document:
    """A rule that may judge any write of a workload, so that none is folded by directory."""
    rule = {
        "id": "every-write",
        "on": "file.open",
        "workloads": [workload_name],
        "match": {"path": "/**", "access": ["write"]},
        "action": "audit",
    }
    return {"rules": [rule]}


def workload(name: str, posture: str = "enforce", **fields: Any) -> Document:
    """Return a rules document with one workload that only `agentd run` puts processes into."""
    never = [{"exe": f"/nonexistent/{name}"}]
    return {"workloads": [{"name": name, "posture": posture, "select": never, **fields}]}


def shipped_workloads_unselected() -> Document:
    """The shipped workloads, none of which finds a process by itself.

    This host may run agents that are no business of the tests: their MCP traffic must not be read.
    """
    shipped = yaml.safe_load((REPOSITORY / "rules" / "workloads.yaml").read_text())["workloads"]
    never = {each["name"]: [{"exe": f"/nonexistent/{each['name']}"}] for each in shipped}
    return {"workloads": [{**each, "select": never[each["name"]]} for each in shipped]}


class Daemon:
    """One daemon. `rules` maps file names to YAML documents of the drop-in directory.

    `shipped` adds the repository's rules, without their selectors; `settings` goes into the
    configuration file as it is.
    """

    READY_TIMEOUT_S = 20.0

    def __init__(
        self,
        directory: Path,
        rules: dict[str, Document] | None = None,
        *,
        shipped: bool = False,
        settings: Document | None = None,
    ) -> None:
        self.directory = directory
        self.runtime_dir = directory / "run"
        self.state_dir = directory / "state"
        self.rules_dir = directory / "rules.d"
        self.socket = self.runtime_dir / "control.sock"
        self.journal = self.state_dir / "journal.db"
        self.configuration = directory / "agentd.yaml"
        self.log = directory / "daemon.log"
        self.ready_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        for path in (self.runtime_dir, self.state_dir, self.rules_dir):
            path.mkdir(parents=True, exist_ok=True)
        for name, document in (rules or {}).items():
            self.write_rules(name, document)
        self._rules = [REPOSITORY / "rules", self.rules_dir] if shipped else [self.rules_dir]
        if shipped:
            self.write_rules("shipped-workloads.yaml", shipped_workloads_unselected())
        self.configuration.write_text(
            yaml.safe_dump(
                {
                    "runtime_dir": str(self.runtime_dir),
                    "state_dir": str(self.state_dir),
                    **(settings or {}),
                }
            )
        )

    # ---- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until the control socket answers a ping (`ready_s` says how long)."""
        started = time.perf_counter()
        self.begin()
        wait_until(
            self._answers, self.READY_TIMEOUT_S, f"daemon ready, see {self.log}", interval=0.005
        )
        self.ready_s = time.perf_counter() - started

    def begin(self) -> None:
        """Start it, and do not wait."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _command(self) -> list[str]:
        rules = [word for path in self._rules for word in ("--rules", str(path))]
        return [str(AGENTD), "--config", str(self.configuration), "daemon", *rules]

    def forget(self) -> None:
        """It has ended: `start` starts another one."""
        assert self._process is not None
        self._process.wait()
        self._process = None

    def stop(self, *, unload: bool = True) -> None:
        """SIGTERM; AssertionError when it or one of its processes outlives that.

        `unload`: what it leaves in the kernel goes, too.
        """
        if self._process is None:
            if unload:
                Pins(self.runtime_dir).remove()
            return
        process, self._process = self._process, None
        below = self._below(process.pid)
        try:
            status = stop(process, 15.0)
        finally:
            _, alive = psutil.wait_procs(below, 5.0)
            for child in alive:
                child.kill()
        if unload:
            Pins(self.runtime_dir).remove()
        assert not alive, f"outlived the supervisor: {alive}"
        assert status == 0, f"daemon ended with {status}: {self.tail()}"

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        return [psutil.Process(self.pid), *self._below(self.pid)]

    def engine(self) -> psutil.Process | None:
        """The engine, if there is one just now."""
        for child in psutil.Process(self.pid).children():
            with suppress(psutil.Error):
                if "agentd.daemon.engine" in child.cmdline():
                    return child
        return None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the daemon does not run"
        return self._process.pid

    def tail(self, lines: int = 30) -> str:
        """The end of what the daemon printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"daemon ended at start:\n{self.tail()}"
        try:
            with ControlClient(self.socket, timeout=5.0) as client:
                client.request("ping")
        except (FileNotFoundError, ConnectionError, TimeoutError):
            return False
        return True

    @staticmethod
    def _below(pid: int) -> list[psutil.Process]:
        try:
            return psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    # ---- control ---------------------------------------------------------------------------

    def request(self, op: str, **fields: Any) -> Message:
        """One control request on a connection of its own."""
        with ControlClient(self.socket) as client:
            return client.request(op, **fields)

    def write_rules(self, name: str, document: Document) -> None:
        (self.rules_dir / name).write_text(yaml.safe_dump(document, sort_keys=False))

    def command(self, *words: str) -> list[str]:
        """Return the argument vector of an agentd command that talks to this daemon."""
        return [str(AGENTD), "--socket", str(self.socket), *words]

    def run(self, workload_name: str, command: Sequence[str]) -> list[str]:
        """Return the argument vector that runs `command` in a labelled session."""
        return [*self.command("run", "--workload", workload_name), "--", *command]

    # ---- events ----------------------------------------------------------------------------

    def events(self, event_class: str | None = None, **fields: Any) -> list[Message]:
        """Journalled events in order: of one class, and with these top-level fields."""
        if not self.journal.exists():
            return []
        connection = sqlite3.connect(f"{self.journal.as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            rows = connection.execute("SELECT body FROM events ORDER BY id").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            connection.close()
        found = [json.loads(body) for (body,) in rows]
        return [
            event
            for event in found
            if (event_class is None or event["class"] == event_class)
            and all(event.get(key) == value for key, value in fields.items())
        ]

    def wait_for(
        self, predicate: Callable[[Message], bool], timeout: float = 5.0, what: str = "event"
    ) -> Message:
        """Return the first journalled event that satisfies `predicate`; AssertionError if none."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self.events():
                if predicate(event):
                    return event
            if time.monotonic() >= deadline:
                classes = [event["class"] for event in self.events()]
                raise AssertionError(f"{what} did not come within {timeout} s; have {classes}")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def require_root() -> str | None:
    """Why a daemon cannot be started here, or None when it can."""
    return None if os.geteuid() == 0 else "needs root: agentd loads programs into the kernel"
