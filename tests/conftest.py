"""What holds for every test: no silent skips on request, and nothing left behind."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.host.support.daemon import require_root
from tests.host.support.leftovers import host_state, leftovers
from tests.host.support.processes import become_subreaper

pytest_plugins = ["tests.lab.plugin"]

NO_SKIPS = os.environ.get("AGENTD_NO_SKIPS") == "1"


def pytest_sessionstart() -> None:
    become_subreaper()
    # A shell starts what runs in its background with these ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The only skip there is: without root no program gets into a kernel, here or in a VM."""
    reason = require_root()
    if reason is not None:
        for item in items:
            if any(item.get_closest_marker(name) for name in ("host", "lab", "root")):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the run when it leaves a process, BPF object, cgroup, mount or file on the host."""
    before = host_state()
    yield
    found = leftovers(before)
    if found:
        pytest.fail("left behind:\n" + "\n".join(found), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With AGENTD_NO_SKIPS=1 a skipped test is a failed one."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which AGENTD_NO_SKIPS forbids: {call.excinfo}"
    return report  # type: ignore[return-value]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for a module that skips itself while it is collected."""
    report: pytest.CollectReport = yield  # type: ignore[assignment]
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} skipped itself, which AGENTD_NO_SKIPS forbids"
    return report  # type: ignore[return-value]
