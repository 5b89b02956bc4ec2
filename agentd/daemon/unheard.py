"""What the engine was not told: records that were lost, processes that ended without one."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentd.daemon.dispatch import Dispatch
from agentd.daemon.inforce import PolicyInForce
from agentd.daemon.labelling import Labelling
from agentd.daemon.report import Reporter
from agentd.kernel.maps import KernelMaps
from agentd.kernel.wire import MAX_WORKLOADS

if TYPE_CHECKING:
    from agentd.workloads.identity import ProcessKey


class Unheard:
    """Looked after now and then. `losses` is saved and restored by the engine."""

    def __init__(
        self,
        kernel: KernelMaps,
        labelling: Labelling,
        dispatch: Dispatch,
        policy: PolicyInForce,
        reporter: Reporter,
    ) -> None:
        self._kernel = kernel
        self._labelling = labelling
        self._dispatch = dispatch
        self._policy = policy
        self._reporter = reporter
        self._losses: dict[tuple[str, int], int] = {}
        self._gone: set[ProcessKey] | None = None
        self._gone_by = 0

    def restore(self, losses: Iterable[tuple[str, int, int]]) -> None:
        """What an engine before this one has told of: the kernel counts since load."""
        self._losses = {(source, number): count for source, number, count in losses}

    def state(self) -> list[tuple[str, int, int]]:
        """For `restore`: source, workload number, how many."""
        return [(*key, count) for key, count in self._losses.items()]

    def report_losses(self) -> None:
        """An event for each workload of which records were lost since the last one."""
        registry = self._labelling.registry
        numbers = range(min(registry.workload_count + 1, MAX_WORKLOADS))
        for key, count in self._kernel.losses(numbers).items():
            lost = count - self._losses.get(key, 0)
            if lost > 0:
                self._losses[key] = count
                self._labelling.changed = True
                source, number = key
                if not number and len(self._policy.selectors):
                    self._labelling.discover()  # an exec that a selector may match was not told
                name = registry.workload_name(number)
                self._reporter.daemon_event(
                    "loss", {"loss": {"count": lost, "source": f"kernel.{source}"}}, name
                )

    def look(self) -> None:
        """Finds processes that are gone; `reap` drops them."""
        if self._gone is None:
            self._gone = self._labelling.registry.gone()
            self._gone_by = self._dispatch.told()

    def reap(self) -> None:
        """Drops what was gone once its last records, which may have waited, are taken in."""
        if self._gone is not None and self._dispatch.past(self._gone_by):
            self._labelling.reap(self._gone)
            self._gone = None
