"""What a session says it is doing. Reported by the agent's side: context, not proof."""

import re
from datetime import datetime

from agentd.errors import AgentdError

OBJECTIVE_MAX = 500
REQUESTER_MAX = 200
FIELDS = ("objective", "requester", "expires")

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)")


class TaskError(AgentdError):
    """A task that cannot be used, and why."""


def read_task(given: object) -> dict[str, str]:
    """The task in a request: `objective`, and where given `requester` and `expires` (RFC 3339).

    Other fields are left out, and so are those that are null. Raises TaskError.
    """
    if not isinstance(given, dict):
        raise TaskError("a task is an object with an objective")
    task = {name: given[name] for name in FIELDS if given.get(name) is not None}
    if "objective" not in task:
        raise TaskError("a task needs an objective")
    _check_text(task, "objective", OBJECTIVE_MAX)
    _check_text(task, "requester", REQUESTER_MAX)
    if "expires" in task and not _is_moment(task["expires"]):
        raise TaskError(
            f"expires: {str(task['expires'])[:40]!r} is not a time with an offset;"
            " write it like 2026-11-23T18:00:00+01:00"
        )
    return task


def _check_text(task: dict[str, object], name: str, most: int) -> None:
    text = task.get(name, "-")
    if not isinstance(text, str):
        raise TaskError(f"{name} is not a text")
    if not 1 <= len(text) <= most:
        raise TaskError(f"{name} has {len(text)} characters; write 1 to {most}")


def _is_moment(text: object) -> bool:
    if not isinstance(text, str) or not _RFC3339.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
