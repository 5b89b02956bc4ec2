"""Tests marked `lab` run in a VM, once a kernel, and are reported as if they had run here.

    @pytest.mark.lab                                              # on every kernel of KERNELS
    @pytest.mark.lab(kernels=["6.12"], append="lsm=lockdown,yama")  # on this one, started like this

appears as `test_x[6.12]`. All tests of one kernel and `append` share one boot, which begins when
the first of them is reached. The fixture `kernel` is the series, such as "6.12".

`--lab-kernel 6.12` (repeatable) leaves the others out; `-m "not lab"` leaves out all of them.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from tests.lab.support.boots import TEST_LIMIT_S, Boot

KERNELS: Final = ("6.1", "6.12", "7.2")
_SLOWNESS: Final = 10
_PASSED_ON: Final = ("AGENTD_NO_SKIPS",)
_PHASES: Final[tuple[Literal["setup", "call", "teardown"], ...]] = ("setup", "call", "teardown")
_INSIDE: Final = "AGENTD_LAB_SHARE"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lab", "tests in VMs")
    group.addoption("--lab-kernel", action="append", default=[], help="only this one (repeatable)")
    group.addoption("--lab-jobs", type=int, default=2, help="VMs at a time (2)")
    group.addoption("--lab-boot-timeout", type=float, default=180.0, help="seconds (180)")
    group.addoption("--lab-timeout", type=float, default=1800.0, help="seconds a VM may run (1800)")


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


class Inside:
    """In the VM: tests run as anywhere, and their reports go to the shared directory."""

    def __init__(self, config: pytest.Config, share: Path) -> None:
        self._config = config
        self._lines = (share / "reports").open("a", encoding="utf-8", buffering=1)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """A limit that a test sets for itself is meant for a real machine."""
        for item in items:
            limit = item.get_closest_marker("timeout")
            if limit is not None and limit.args:
                scaled = max(TEST_LIMIT_S, limit.args[0] * _SLOWNESS)
                item.add_marker(pytest.mark.timeout(scaled), append=False)

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

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        wanted = self._config.getoption("lab_kernel")
        left_out = []
        for item in items:
            if item.get_closest_marker("lab") is not None:
                # The limits of boots count, not that of the test it happens to be waiting in.
                item.add_marker(pytest.mark.timeout(0), append=False)
                if wanted and _series(item) not in wanted:
                    left_out.append(item)
        if left_out:
            self._config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        limits = (
            self._config.getoption("lab_boot_timeout"),
            self._config.getoption("lab_timeout"),
        )
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        for item in session.items:
            marker = item.get_closest_marker("lab")
            if marker is not None:
                key = _series(item), marker.kwargs.get("append", "")
                if key not in self._boots:
                    self._boots[key] = Boot(*key, environment, limits)
                self._boots[key].tests.append(item.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Replay the reports of a test of the lab; leave all others to pytest."""
        marker = item.get_closest_marker("lab")
        if marker is None:
            return None
        boot = self._boots[_series(item), marker.kwargs.get("append", "")]
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
        phases = iter(_PHASES)
        for record in boot.reports(item.nodeid):
            report: pytest.TestReport = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=record
            )
            if report.failed:
                report.sections.append((f"console of Linux {boot.series}", boot.console()))
            next(phases)
            yield report
        for phase in phases:
            yield pytest.TestReport(
                nodeid=item.nodeid,
                location=item.location,
                keywords={item.name: 1},
                outcome="failed",
                longrepr=boot.trouble(),
                when=phase,
            )
            return

    def _start(self, wanted: Boot) -> None:
        """Start this boot, and others that come later, as many as may run at a time."""
        room = self._config.getoption("lab_jobs") - sum(b.running for b in self._boots.values())
        for boot in (wanted, *self._boots.values()):
            if not boot.started and (boot is wanted or room > 0):
                boot.start()
                room -= 1


def _series(item: pytest.Item) -> str:
    assert isinstance(item, pytest.Function)
    return str(item.callspec.params["kernel"])
