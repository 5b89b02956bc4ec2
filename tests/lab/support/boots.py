"""Tests that run in a VM: one boot a kernel and set of parameters, reports as they are made.

In the VM pytest runs with exactly the tests of that boot and writes one JSON line when a test
starts and one for every report (`plugin.Inside`) to the directory that it shares with the host;
here they are read while they appear.
"""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.lab.support.kernels import KernelUnavailableError, fetch
from tests.lab.support.vm import Machine

TEST_LIMIT_S: Final = 300.0
"""What a test may take in the VM, where everything takes 10 to 25 times as long."""
_MARGIN_S: Final = 60.0
_POWER_OFF_LIMIT_S: Final = 30.0
POLL_S: Final = 0.05
_PYTEST: Final = (
    # Whatever is imported costs ten times as much there: only the plugins that are used.
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 exec python -m pytest -p pytest_timeout -p no:cacheprovider"
    f" -o timeout={TEST_LIMIT_S:.0f} --no-header"
)

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds from the start of a VM: until its first test begins, until it is off."""

    boot_s: float
    whole_s: float


class Boot:
    """One VM and the tests that it runs. `words` are more options of the pytest in it."""

    def __init__(
        self,
        series: str,
        append: str,
        words: Sequence[str],
        environment: dict[str, str],
        limits: Limits,
    ) -> None:
        self.series = series
        self.tests: list[str] = []
        self._append = append
        self._words = words
        self._environment = environment
        self._limits = limits
        self._test_limit_s = TEST_LIMIT_S
        self._reports: dict[str, list[Record]] = {}
        self._share: Path | None = None
        self._machine: Machine | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self._started = self._heard = 0.0
        self._trouble = ""

    @property
    def started(self) -> bool:
        """Whether it was started, or cannot be."""
        return self._process is not None or bool(self._trouble)

    @property
    def running(self) -> bool:
        """Whether the VM is on."""
        return self._process is not None and self._process.poll() is None

    def add(self, test: str, limit_s: float) -> None:
        """Run this test, too, given by its node id, which may take so long."""
        self.tests.append(test)
        self._test_limit_s = max(self._test_limit_s, limit_s)

    def start(self) -> None:
        """Boot; what prevents it is told by `reports`."""
        self._started = self._heard = time.monotonic()
        try:
            kernel = fetch(self.series)
            self._share = Path(tempfile.mkdtemp(prefix="agentd-lab-"))
            (self._share / "tests").write_text("".join(f"{test}\n" for test in self.tests))
            self._machine = Machine(
                kernel, self._share, self._append, environment=self._environment
            )
            with (self._share / "output").open("wb") as output:
                command = f"{_PYTEST} {' '.join(self._words)} @$AGENTD_LAB_SHARE/tests"
                self._process = self._machine.start(command, output=output)
        except (OSError, KernelUnavailableError, subprocess.CalledProcessError) as error:
            self._trouble = f"Linux {self.series} cannot be booted: {error}"

    def reports(self, test: str) -> Iterator[Record]:
        """The reports of a test as they come in; waits for them.

        Fewer than three, the last one no teardown, if the VM ended before: see `trouble`.
        """
        given = 0
        while True:
            ended = not self.running
            self.look()
            for record in self._reports.get(test, [])[given:]:
                given += 1
                yield record
                if record["when"] == "teardown":
                    return
            if ended:
                return
            time.sleep(POLL_S)

    def look(self) -> None:
        """Read what has come in, and end a VM that is too late."""
        self._read_on()
        if self.running:
            self._watch_the_time()

    def trouble(self) -> str:
        """Why a report is missing, with what the VM said last."""
        if self._machine is None or self._share is None:
            return self._trouble
        code = self._machine.exit_code()
        why = self._trouble or (
            "the machine died" if code is None else f"pytest ended with {code} in the machine"
        )
        output = (self._share / "output").read_text(errors="replace").splitlines()[-60:]
        return "\n".join(
            [
                f"Linux {self.series}: {why}",
                *("---- what pytest printed in the machine", *output),
                *("---- what its kernel printed", self._machine.last_words()),
            ]
        )

    def console(self) -> str:
        """What the kernel printed so far."""
        return "" if self._machine is None else self._machine.last_words()

    def close(self) -> None:
        """Wait for the VM to power off, for a while; remove its directory."""
        if self._process is not None:
            try:
                self._process.wait(_POWER_OFF_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._share is not None:
            shutil.rmtree(self._share, ignore_errors=True)

    def kill(self) -> None:
        """End the VM now."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read_on(self) -> None:
        if self._share is None:
            return
        try:
            with (self._share / "reports").open("rb") as lines:
                lines.seek(self._read)
                new = lines.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._heard = time.monotonic()
            record = json.loads(line)
            if "when" in record:
                self._reports.setdefault(record["nodeid"], []).append(record)

    def _watch_the_time(self) -> None:
        """End the VM if it is too late, or nothing has been heard for too long."""
        now = time.monotonic()
        silent_s = self._test_limit_s + _MARGIN_S if self._read else self._limits.boot_s
        if now - self._heard > silent_s:
            self._trouble = f"nothing heard for {silent_s:.0f} s"
        elif now - self._started > self._limits.whole_s:
            self._trouble = f"still on after {self._limits.whole_s:.0f} s"
        else:
            return
        self.kill()
