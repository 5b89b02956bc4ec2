"""One daemon with the rules of every class of ways, and the sessions that try them."""

import math
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from agentd.kernel.pins import Pins
from tests.adversarial.support import arguments, blinding, execution, network, tree
from tests.adversarial.support.case import Case
from tests.adversarial.support.prelude import PRELUDE
from tests.adversarial.support.targets import Closed, Victim
from tests.host.support.control import Message
from tests.host.support.daemon import Daemon, workload
from tests.host.support.labelled import PYTHON
from tests.host.support.processes import wait_until
from tests.host.support.puppet import Outcome, Puppet

WORKLOAD: Final = "tested"
FREE: Final = "free"
"""A workload in which rules only watch: what is tried there must have its effect."""
_TOLD_S: Final = 20.0
_QUIET_S: Final = 0.5
_HELD_S: Final = 60.0
_MAY_BE_HELD_S: Final = 3.0
_ERRNOS_OF_REFUSAL: Final = {1, 13}
"""EPERM; EACCES is what the kernel makes of it at /proc/PID/mem and its kin."""


class Arena:
    """The place of one test run. `names` are what acts call things by, in braces."""

    def __init__(self, base: Path, daemon: Daemon, servers: Closed, names: dict[str, str]) -> None:
        self.base = base
        self.daemon = daemon
        self.servers = servers
        self.names = names
        self.pins = Pins(daemon.runtime_dir).directory
        self.before = ""
        self.timer = threading.Timer(0, print)
        self.puppets: dict[str, Puppet] = {}
        self.stack = ExitStack()
        self._victim: Victim | None = None

    @property
    def victim(self) -> Victim:
        assert self._victim is not None
        return self._victim

    def puppet(self, workload_name: str) -> Puppet:
        """The puppet of a workload, started with the first act."""
        if workload_name not in self.puppets:
            command = self.daemon.run(workload_name, Puppet.ARGV)
            puppet = self.stack.enter_context(Puppet(command))
            puppet.act("import ctypes, fcntl, mmap, signal, socket, struct, threading, time")
            self.puppets[workload_name] = puppet
        return self.puppets[workload_name]

    def attempt(self, case: Case, expected: str, workload_name: str = WORKLOAD) -> tuple[str, Any]:
        """Try it; what has become of it, in the words of cases, and the act's outcome."""
        puppet = self.puppet(workload_name)
        source = self._prepare(case)
        began = math.floor(time.time() * 1000) / 1000  # as the journal has it
        puppet.start(source)
        if case.asks and workload_name == WORKLOAD:
            self._deny_when_held(case, expected)
        outcome = puppet.finish()
        if self._happened(case):
            told_s = _TOLD_S if expected == "detected" else _QUIET_S
            return ("detected" if self._is_told(began, told_s) else "gap"), outcome
        if expected == "held":
            return "held", outcome
        return became_of(outcome), outcome

    def _prepare(self, case: Case) -> str:
        work = self.base / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        self.servers.got.clear()
        if self._victim is None or not self._victim.is_untouched():
            self._start_victim()
        if case.before is not None:
            case.before(self)
        source = PRELUDE + case.source
        for name, value in self.names.items():
            source = source.replace("{" + name + "}", value)
        return source

    def _start_victim(self) -> None:
        program = Path(self.names["victim_program"])
        environment = {"SECRET": "victim-secret"}
        secret = self.base / "victim-file"
        self._victim = self.stack.enter_context(Victim(program, secret, environment))
        self.names["victim"] = str(self._victim.pid)
        self.names["address"] = str(self._victim.address)
        self.names["descriptor"] = str(self._victim.descriptor)

    def _deny_when_held(self, case: Case, expected: str) -> None:
        def holds() -> list[Message]:
            found: list[Message] = self.daemon.request("holds")["holds"]
            return found

        try:
            wait_until(holds, _HELD_S if expected == "held" else _MAY_BE_HELD_S, "a hold")
        except AssertionError:
            if expected == "held":
                raise
        time.sleep(_QUIET_S)
        if expected == "held":
            assert not self._happened(case), "it has happened before it was judged"
        for hold in holds():
            self.daemon.request("deny", id=hold["id"])

    def _happened(self, case: Case) -> bool:
        if case.happened is not None:
            return case.happened(self)
        return Path(self.names["effect"]).exists()

    def _is_told(self, began: float, within_s: float) -> bool:
        """Whether a decision has been recorded that refuses something."""

        def refusals() -> list[Message]:
            return [
                event
                for event in self.daemon.events(workload=WORKLOAD)
                if event.get("decision", {}).get("verdict") in {"deny", "kill", "hold"}
                and _seconds(event) >= began
            ]

        try:
            wait_until(refusals, within_s, "a record", interval=0.1)
        except AssertionError:
            return False
        return True


def _seconds(event: Message) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def became_of(outcome: Outcome) -> str:
    """In the words of cases, where the effect is missing."""
    if outcome.signal == 9:
        return "killed"
    if outcome.error in _ERRNOS_OF_REFUSAL and not outcome.signal:
        return "denied"
    return f"errno {outcome.error}, signal {outcome.signal}"


def _control_group() -> str:
    """The root of the unified hierarchy."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return next(line.split()[4] for line in mounts if " - cgroup2 " in line)


@contextmanager
def arena_under_guard(base: Path, daemon_class: type[Daemon]) -> Iterator[Arena]:
    """A daemon with the rules of all classes, servers, a victim; the sessions come with acts."""
    base.chmod(0o755)
    servers = Closed(base)
    program = base / "victim"
    shutil.copy(Path(PYTHON).resolve(), program)
    (base / "victim-file").write_text("victim-file")
    names = {"work": str(base / "work"), "effect": str(base / "work" / "effect")}
    names |= execution.lay(base) | arguments.lay(base) | tree.lay(base)
    names |= blinding.lay(base)
    names["victim_program"] = str(program)
    names["procs"] = f"{_control_group()}/cgroup.procs"
    try:
        servers.start()
        names |= network.names(servers) | {"forwarder": str(servers.forwarder)}
        rules = [
            *execution.rules(names), *arguments.rules(names), *tree.rules(names),
            *network.rules(servers),
        ]  # fmt: skip
        documents = {
            "tested.yaml": workload(WORKLOAD),
            "free.yaml": workload(FREE, posture="observe"),
            "rules.yaml": {"rules": [{**rule, "reason": rule["id"]} for rule in rules]},
        }
        with daemon_class(base / "agentd", documents) as daemon:
            arena = Arena(base, daemon, servers, names)
            with arena.stack:
                yield arena
    finally:
        servers.close()
