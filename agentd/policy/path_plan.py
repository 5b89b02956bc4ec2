"""What the kernel decides alone on the enforce tiers: the rules on paths, by slot.

A rule of which the kernel knows all is refused there (deny, kill). One with a condition, one that
a person decides, and one whose globs the kernel cannot express exactly makes it ask user space,
before the effect as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agentd.policy.automaton import Automaton, SlotGlobs, compile_globs
from agentd.policy.globs import NameGlobs, split_negated
from agentd.policy.network_plan import socket_path_globs
from agentd.policy.rules import ACTION_RANK, SEVERITY_RANK, Policy, Rule

Act = Literal["read", "write", "delete", "rename", "exec", "connect"]
Treatment = Literal["ask", "deny", "kill"]
ACT_ORDER: tuple[Act, ...] = ("read", "write", "delete", "rename", "exec", "connect")
BINDING = frozenset({"deny", "hold", "kill"})
MAX_RULES = 256
_ANYTHING = ("**",)


@dataclass(frozen=True, slots=True)
class SlotRule:
    """One rule in its slot; the higher the slot, the more severe."""

    id: str
    treatment: Treatment
    acts: tuple[Act, ...]
    workloads: tuple[str, ...]
    meaning: str
    """Equal for two rules that match the same paths: marks are carried over between them."""


@dataclass(slots=True)
class PathPlan:
    """All rules on paths, compiled."""

    rules: list[SlotRule] = field(default_factory=list)
    automaton: Automaton = field(default_factory=Automaton)
    left_out: dict[str, str] = field(default_factory=dict)
    """Id -> why a rule stays with user space, after the effect."""

    def slots(self, workload: str) -> dict[Act, int]:
        """The slots that bind a workload, by act, as bit sets."""
        sets: dict[Act, int] = dict.fromkeys(ACT_ORDER, 0)
        for slot, rule in enumerate(self.rules):
            if NameGlobs(rule.workloads).match(workload):
                for act in rule.acts:
                    sets[act] |= 1 << slot
        return sets

    @property
    def enforced(self) -> frozenset[str]:
        """Ids of the rules that the kernel decides, or asks about, before the effect."""
        return frozenset(rule.id for rule in self.rules) - self.left_out.keys()

    @property
    def meanings(self) -> list[str]:
        """By slot."""
        return [rule.meaning for rule in self.rules]

    def moves(self, before: Sequence[str]) -> dict[int, int]:
        """Slot of an earlier plan, given by its meanings -> slot here, where they are the same."""
        here = {meaning: slot for slot, meaning in enumerate(self.meanings)}
        return {slot: here[meaning] for slot, meaning in enumerate(before) if meaning in here}


def compile_paths(policy: Policy, *, connects: bool = False) -> PathPlan:
    """The plan for all workloads; which rules bind which is in `PathPlan.slots`.

    `connects`: the kernel judges listeners of Unix sockets by their paths, too.
    """
    fitting = [
        rule
        for rule in policy.rules
        if rule.action in BINDING and acts_of(rule) and (connects or rule.on != "network.connect")
    ]
    fitting.sort(key=_weight)
    left_out = {
        rule.id: f"the kernel side has room for {MAX_RULES} rules on paths"
        for rule in fitting[:-MAX_RULES]
    }
    fitting = fitting[-MAX_RULES:]
    # Homes outside /home are known to the kernel by inode.
    automaton = compile_globs(
        [SlotGlobs(slot, *_globs(rule)) for slot, rule in enumerate(fitting)], homes=()
    )
    rules = [
        SlotRule(
            rule.id,
            _treatment(rule, exact=slot not in automaton.inexact),
            acts_of(rule),
            rule.workloads,
            repr((rule.on, rule.match.path, rule.match.exe, rule.match.except_)),
        )
        for slot, rule in enumerate(fitting)
    ]
    left_out |= {fitting[slot].id: "; ".join(globs) for slot, globs in automaton.missed.items()}
    return PathPlan(rules, automaton, left_out)


def acts_of(rule: Rule) -> tuple[Act, ...]:
    """What a rule is about, in the kernel's words; () where a path does not say it."""
    match rule.on:
        case "file.open":
            return tuple(act for act in ("read", "write") if act in (rule.match.access or (act,)))
        case "file.delete":
            return ("delete",)
        case "file.rename":
            return ("rename",)
        case "process.exec" if rule.match.argv is None:
            return ("exec",)
        case "network.connect" if socket_path_globs(rule) is not None:
            return ("connect",)
        case _:
            return ()


def by_act(sets: Mapping[Act, int], count: int) -> list[int]:
    """Slots in the order of the kernel's ACT_ numbers, filled up to `count`."""
    ordered = [sets[act] for act in ACT_ORDER]
    return ordered + [0] * (count - len(ordered))


def _treatment(rule: Rule, *, exact: bool) -> Treatment:
    if rule.action == "hold" or rule.when is not None or not exact:
        return "ask"
    return "kill" if rule.action == "kill" else "deny"


def _globs(rule: Rule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Positive globs, and those of exceptions."""
    given: Iterable[str] = (rule.match.exe if rule.on == "process.exec" else rule.match.path) or ()
    if rule.on == "network.connect":
        given = socket_path_globs(rule) or ()
    positive, negative = split_negated(given)
    excepted = rule.match.except_ or () if rule.on != "process.exec" else ()
    return tuple(positive) or _ANYTHING, (*negative, *excepted)


def _weight(rule: Rule) -> tuple[int, bool, int]:
    """A static rule stands above one that has to be asked about, of the same action."""
    asks = rule.action == "hold" or rule.when is not None
    return ACTION_RANK[rule.action], not asks, SEVERITY_RANK[rule.severity]
