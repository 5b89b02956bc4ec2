"""Connections that a session has made and that other rules now deny: cut when the rules change.

Another process finds and cuts them (`enforce.connections`); which ones is decided here, where
labels and conditions are known. Nothing in the loop waits for it.
"""

import contextlib
import json
import os
import subprocess
import time
from typing import Any, Final

from agentd.daemon import endpoints, spawn
from agentd.daemon.labelling import Labelling
from agentd.daemon.report import Reporter
from agentd.daemon.verdicts import Verdicts
from agentd.kernel.maps import KernelMaps
from agentd.policy.evaluator import Decision
from agentd.workloads.identity import ProcessInfo
from agentd.workloads.sessions import Session

_TIMEOUT_S: Final = 120.0
_READ: Final = 1 << 20
_DENYING: Final = frozenset({"deny", "kill"})
_CLASS: Final = "network.cut"
_Case = tuple[Session, ProcessInfo, Decision, dict[str, Any]]


class Cutting:
    """One search at a time; rules that change meanwhile start another one."""

    def __init__(
        self, kernel: KernelMaps, labelling: Labelling, verdicts: Verdicts, reporter: Reporter
    ) -> None:
        self._kernel = kernel
        self._labelling = labelling
        self._verdicts = verdicts
        self._reporter = reporter
        self._process: subprocess.Popen[bytes] | None = None
        self._again = False
        self._heard = b""
        self._deadline = 0.0
        self._cases: list[_Case] | None = None

    def start(self) -> None:
        """The rules have changed."""
        if self._process is not None:
            self._again = True
            return
        pids = [tgid for tgid, label in self._kernel.labelled() if self._judged(label.session)]
        if not pids:
            return
        try:
            self._process = subprocess.Popen(
                spawn.command("agentd.enforce.connections"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=spawn.environment(),
            )
        except OSError as error:
            self._warn(str(error))
            return
        self._heard, self._cases = b"", None
        self._deadline = time.monotonic() + _TIMEOUT_S
        self._labelling.own.add(self._process.pid)
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)
        self._say(pids)

    def turn(self) -> None:
        """Takes what the process has to say; never waits for it."""
        process = self._process
        if process is None or process.stdout is None:
            return
        heard = process.stdout.read(_READ)
        if heard:
            self._heard += heard
        while self._process is not None and b"\n" in self._heard:
            line, _, self._heard = self._heard.partition(b"\n")
            self._take(json.loads(line))
        if self._process is not None and (heard == b"" or time.monotonic() > self._deadline):
            self._warn("the process that looks for them has failed")
            self._end()

    def close(self) -> None:
        """Ends what is under way."""
        self._again = False
        if self._process is not None:
            self._end()

    def _take(self, answer: list[Any]) -> None:
        """First the connections, then what came of cutting those that were chosen."""
        if self._cases is None:
            self._cases, chosen = [], []
            for index, connection in enumerate(answer):
                case = self._judge(connection)
                if case is not None:
                    self._cases.append(case)
                    chosen.append(index)
            self._say(chosen)
            return
        for case, why in zip(self._cases, answer, strict=True):
            self._tell(case, why)
        self._end()

    def _judge(self, connection: dict[str, Any]) -> _Case | None:
        label = self._kernel.label_of(connection["pid"])
        session = label and self._labelling.registry.by_number(label.session)
        info = self._labelling.table.by_pid(connection["pid"])
        if not session or info is None:
            return None
        network = endpoints.connected(connection)
        decision = self._verdicts.judge("network.connect", session, info, network)
        if decision is None or decision.verdict not in _DENYING:
            return None
        return session, info, decision, network

    def _tell(self, case: _Case, why: str) -> None:
        session, info, decision, network = case
        outcome = "failed" if why else "cut"
        described = self._reporter.describe(decision, session, before_effect=False, outcome=outcome)
        if why:
            described["error"] = f"the kernel does not cut this connection: {why}"
            self._warn(why)
        now = self._reporter.clock.now()
        self._reporter.session_event(_CLASS, now, session, info, {"network": network}, described)

    def _judged(self, number: int) -> bool:
        session = self._labelling.registry.by_number(number)
        return session is not None and session.posture == "enforce"

    def _say(self, what: list[int]) -> None:
        """Little enough for a pipe that is empty."""
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._warn("the process that looks for them has ended")

    def _warn(self, why: str) -> None:
        text = f"connections that the rules now deny may go on: {why}"
        self._reporter.daemon_event("daemon.warning", {"text": text})

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.communicate()
        self._labelling.own.discard(process.pid)
        if self._again:
            self._again = False
            self.start()
