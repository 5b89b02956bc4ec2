"""Workloads from dictionaries, as they are written."""

from typing import Any

from agentd.policy.exchange import read_workload
from agentd.workloads.model import WorkloadModel
from agentd.workloads.workload import Workload


def workload(written: dict[str, Any]) -> Workload:
    """The workload, checked as when files are read."""
    return read_workload(WorkloadModel.model_validate(written).model_dump())
