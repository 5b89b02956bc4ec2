"""Policies from rules written as dictionaries."""

from dataclasses import dataclass, field
from typing import Any

from agentd.policy.model import RuleModel
from agentd.policy.rules import Defaults, Policy


def policy_of(*rules: dict[str, Any]) -> Policy:
    """The rules, with ids r0, r1, ... where they have none."""
    return Policy(
        rules=[
            RuleModel.model_validate({"id": f"r{number}", **rule}).to_rule(Defaults())
            for number, rule in enumerate(rules)
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
