"""Policies from rules written as dictionaries."""

from dataclasses import dataclass, field
from typing import Any

from agentd.policy.loader import Policy
from agentd.policy.model import Rule


def policy_of(*rules: dict[str, Any]) -> Policy:
    """The rules, with ids r0, r1, ... where they have none."""
    return Policy(
        rules=[
            Rule.model_validate({"id": f"r{number}", **rule}) for number, rule in enumerate(rules)
        ]
    )


@dataclass
class Session:
    """A session as the evaluator sees it."""

    id: str = "s-1"
    workload: str = "w"
    posture: str = "enforce"
    labels: set[str] = field(default_factory=set)
    task: dict[str, Any] | None = None
