from typing import Any

import pytest
from pydantic import ValidationError

from agentd.workloads.model import SelectorModel, WorkloadModel
from agentd.workloads.task import TaskError, read_task


def test_defaults_are_the_careful_ones() -> None:
    workload = WorkloadModel.model_validate({"name": "claude-code"})
    assert (workload.posture, workload.on_failure, workload.select) == ("observe", "deny", ())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "would match every process"),
        ({"exe": "claude"}, "'\\*/claude'"),
        ({"ancestor": "codex"}, "whole path"),
        ({"cgroup": "agents/x"}, "whole path"),
        ({"unit": "claude"}, "claude.service"),
        ({"argv": []}, "at least 1"),
        ({"argv": [""]}, "at least 1"),
        ({"uid": True}, "neither a user id nor a user name"),
        ({"uid": -1}, "not a user id"),
        ({"uid": 2**32 - 1}, "not a user id"),
        ({"uid": []}, "empty"),
        ({"uid": [0, "no spaces"]}, "neither"),
        ({"env": {}}, "at least 1"),
        ({"env": {"A=B": "x"}}, "name of an environment variable"),
        ({"exe": "/x", "pid": 1}, "Extra inputs"),
    ],
)
def test_selectors_that_make_no_sense(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SelectorModel.model_validate(given)


@pytest.mark.parametrize("uid", [0, "root", [0, "root"], (0,)])
def test_users(uid: Any) -> None:
    users = SelectorModel.model_validate({"uid": uid}).uid
    assert users is not None
    assert set(users) <= {0, "root"}


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a.b", "a" * 64, "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValidationError):
        WorkloadModel.model_validate({"name": name})


def test_task() -> None:
    task = {"objective": "mend it", "requester": "ci", "expires": "2026-11-23T18:00:00+01:00"}
    assert read_task({**task, "pid": 1}) == task
    assert read_task({"objective": "x" * 500, "requester": None}) == {"objective": "x" * 500}
    assert read_task({"objective": "x", "expires": "2026-11-23T18:00:00.5Z"})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("mend it", "an object"),
        ({}, "needs an objective"),
        ({"objective": None}, "needs an objective"),
        ({"objective": ""}, "objective has 0 characters; write 1 to 500"),
        ({"objective": "x" * 501}, "objective has 501 characters"),
        ({"objective": ["x"]}, "objective is not a text"),
        ({"objective": "x", "requester": "x" * 201}, "requester has 201 characters"),
        ({"objective": "x", "expires": "2026-11-23T18:00:00"}, "time with an offset"),
        ({"objective": "x", "expires": "2026-13-23T18:00:00Z"}, "time with an offset"),
        ({"objective": "x", "expires": 1800000000}, "time with an offset"),
    ],
)
def test_tasks_that_cannot_be_used(given: object, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        read_task(given)
