"""Tests marked `lab` run in a VM, once a kernel, and are reported as if they had run here.

    @pytest.mark.lab                                                # on every kernel of KERNELS
    @pytest.mark.lab(kernels=["6.12"], append="lsm=lockdown,yama")  # on this one, started like this

appears as `test_x[6.12]`. All tests of one kernel and `append` share one boot, which begins when
the first of them is reached. The fixture `kernel` is the series, such as "6.12". A `timeout` mark
counts in the VM; without one a test has TEST_LIMIT_S there.

What a test records as `figures` (`record_property("figures", text)`) stands at the end of the
report, under its name.

`--lab-kernel 6.12` (repeatable) leaves the others out; `-m "not lab"` leaves out all of them.
"""

import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from tests.lab.support.boots import POLL_S, TEST_LIMIT_S, Boot, Limits

KERNELS: Final = ("6.1", "6.12", "7.2")
"""Where tests run that do not say otherwise."""
FIGURES: Final = "figures"
_PASSED_ON: Final = ("AGENTD_NO_SKIPS", "AGENTD_HOLD_CALLS", "AGENTD_RESTARTS")
_PHASES: Final[tuple[Literal["setup", "call", "teardown"], ...]] = ("setup", "call", "teardown")
_INSIDE: Final = "AGENTD_LAB_SHARE"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lab", "tests in VMs")
    group.addoption("--lab-kernel", action="append", default=[], help="only this one (repeatable)")
    group.addoption("--lab-jobs", type=int, default=2, help="VMs at a time (2)")
    group.addoption("--lab-boot-timeout", type=float, default=300.0, help="seconds (300)")
    group.addoption("--lab-timeout", type=float, default=2700.0, help="seconds a VM may run (2700)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "lab(kernels=None, append=''): runs in a VM, once a kernel (see tests/lab)"
    )
    inside = os.environ.get(_INSIDE)
    config.pluginmanager.register(
        Outside(config) if inside is None else Inside(config, Path(inside))
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("lab")
    if marker is None:
        return
    if "kernel" not in metafunc.fixturenames:
        metafunc.fixturenames.append("kernel")
    kernels = marker.kwargs.get("kernels") or KERNELS
    metafunc.parametrize("kernel", kernels, ids=kernels, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kernel(request: pytest.FixtureRequest) -> str:
    """The series of the kernel that the test runs on, such as "6.12"."""
    return str(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for name, text in report.user_properties if report.when == "call" else ():
            if name == FIGURES:
                terminalreporter.section(report.nodeid.rpartition("::")[2])
                terminalreporter.line(text)


class Inside:
    """In the VM: tests run as anywhere, and their reports go to the shared directory."""

    def __init__(self, config: pytest.Config, share: Path) -> None:
        self._config = config
        self._lines = (share / "reports").open("a", encoding="utf-8", buffering=1)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write({"start": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self._config.hook
        self._write(hook.pytest_report_to_serializable(config=self._config, report=report))

    def _write(self, record: dict[str, Any]) -> None:
        self._lines.write(json.dumps(record) + "\n")


class Outside:
    """On the host: tests of the lab are handed to a VM, and its reports replayed."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._boots: dict[tuple[str, str], Boot] = {}
        self._boots_machines = os.geteuid() == 0  # a VM sees the host's files

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        wanted = self._config.getoption("lab_kernel")
        kept: list[pytest.Item] = []
        left_out: list[pytest.Item] = []
        for item in items:
            is_wanted = not wanted or not _is_lab(item) or _series(item) in wanted
            (kept if is_wanted else left_out).append(item)
        if left_out:
            self._config.hook.pytest_deselected(items=left_out)
            items[:] = kept

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        words = [f"{name}={self._config.getoption(name)}" for name in ("--tb", "--verbosity")]
        limits = Limits(
            self._config.getoption("lab_boot_timeout"), self._config.getoption("lab_timeout")
        )
        for item in session.items:
            if _is_lab(item):
                key = _boot_of(item)
                if key not in self._boots:
                    self._boots[key] = Boot(*key, words, environment, limits)
                limit = item.get_closest_marker("timeout")
                self._boots[key].add(item.nodeid, limit.args[0] if limit else TEST_LIMIT_S)
                # Here it may wait for a boot, and for tests that come before it.
                item.add_marker(pytest.mark.timeout(0), append=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Replay the reports of a test of the lab; leave all others to pytest."""
        if not _is_lab(item) or not self._boots_machines:
            return None
        boot = self._boots[_boot_of(item)]
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(boot, item):
            item.ihook.pytest_runtest_logreport(report=report)
        if item.nodeid == boot.tests[-1]:
            boot.close()
        item.session._setupstate.teardown_exact(nextitem)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        for boot in self._boots.values():
            boot.kill()
            boot.close()

    def _reports(self, boot: Boot, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """What the VM reports, and what is to be said where it reports no more."""
        self._start(boot)
        missing = list(_PHASES)
        for record in boot.reports(item.nodeid):
            report: pytest.TestReport = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=record
            )
            if report.failed:
                report.sections.append((f"console of Linux {boot.series}", boot.console()))
            del missing[: missing.index(report.when) + 1]
            yield report
        if missing:
            yield pytest.TestReport(
                nodeid=item.nodeid,
                location=item.location,
                keywords={item.name: 1},
                outcome="failed",
                longrepr=boot.trouble(),
                when=missing[0],
            )

    def _start(self, wanted: Boot) -> None:
        """Start this boot, and others, the longest first, as soon as they may run beside it."""
        jobs = max(1, self._config.getoption("lab_jobs"))
        longest_first = sorted(self._boots.values(), key=lambda boot: -len(boot.tests))
        while True:
            room = jobs - sum(boot.running for boot in longest_first)
            waiting = (boot for boot in (wanted, *longest_first) if not boot.started)
            for boot in islice(waiting, room):
                boot.start()
            if wanted.started:
                return
            for boot in longest_first:
                boot.look()
            time.sleep(POLL_S)


def _is_lab(item: pytest.Item) -> bool:
    return item.get_closest_marker("lab") is not None


def _boot_of(item: pytest.Item) -> tuple[str, str]:
    """Series and kernel parameters."""
    marker = item.get_closest_marker("lab")
    assert marker is not None
    return _series(item), marker.kwargs.get("append", "")


def _series(item: pytest.Item) -> str:
    assert isinstance(item, pytest.Function)
    return str(item.callspec.params["kernel"])
