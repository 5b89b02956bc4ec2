from typing import Any

import pytest
from pydantic import ValidationError

from agentd.workloads.model import Selector, Task, Workload


def test_defaults_are_the_careful_ones() -> None:
    workload = Workload.model_validate({"name": "claude-code"})
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
        Selector.model_validate(given)


@pytest.mark.parametrize("uid", [0, "root", [0, "root"], (0,)])
def test_users(uid: Any) -> None:
    users = Selector.model_validate({"uid": uid}).uid
    assert users is not None
    assert set(users) <= {0, "root"}


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a.b", "a" * 64, "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValidationError):
        Workload.model_validate({"name": name})


def test_task() -> None:
    task = Task.model_validate({"objective": "mend it", "expires": "2026-11-23T18:00:00+01:00"})
    assert task.to_dict() == {"objective": "mend it", "expires": "2026-11-23T18:00:00+01:00"}
    for bad in ({}, {"objective": "x" * 501}, {"objective": "x", "expires": "2026-11-23T18:00:00"}):
        with pytest.raises(ValidationError):
            Task.model_validate(bad)
