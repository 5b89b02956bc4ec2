"""What the kernel decides alone on the enforce tiers: the rules on paths, by slot.

A rule of which the kernel knows all is refused there (deny, kill). One with a condition, one that
a person decides, and one whose globs the kernel cannot express exactly makes it ask user space,
before the effect as well.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agentd.policy.automaton import Automaton, SlotGlobs, compile_globs
from agentd.policy.globs import NameGlobs, split_negated
from agentd.policy.network_plan import socket_path_globs
from agentd.policy.own import SELF, own_globs, way_globs
from agentd.policy.rules import ACTION_RANK, SEVERITY_RANK, Policy, Rule
from agentd.policy.side import (
    HOOKS,
    SIDE_KINDS,
    SIGNALS,
    SideAct,
    side_acts,
    signals_of,
    waits_in_vain,
)

Act = Literal["read", "write", "delete", "rename", "exec", "connect"] | SideAct
Treatment = Literal["ask", "deny", "kill", "tell"]
ACT_ORDER: tuple[Act, ...] = (
    "read",
    "write",
    "delete",
    "rename",
    "exec",
    "connect",
    *HOOKS,
)
"""In the order of the kernel's ACT_ numbers."""
SIDE_ACTS: frozenset[Act] = frozenset(HOOKS)
BINDING = frozenset({"deny", "hold", "kill"})
MAX_RULES = 256
OWN_RULES = 3
_ANYTHING = ("**",)
_EVERY = ("*",)
_ALL_HOOKS = frozenset(HOOKS.values())
_OWN_ACTS: tuple[tuple[Act, ...], ...] = (
    ("write", "delete", "rename", "mount", "bind", "move", "umount"),
    ("delete", "rename", "mount", "bind", "move", "umount"),
    ("bpf",),
)
"""Of agentd's own rules: its places, the directories above them, whatever has no path."""


@dataclass(frozen=True, slots=True)
class SlotRule:
    """One rule in its slot; the higher the slot, the more severe."""

    id: str
    treatment: Treatment
    acts: tuple[Act, ...]
    workloads: tuple[str, ...]
    meaning: str
    """Equal for two rules that match the same paths: marks are carried over between them."""
    signals: int = 0
    """Bit n: it is about signal n; process.signal only."""
    lifts_bpf: bool = False
    """It allows its workloads bpf(), which agentd otherwise refuses."""


@dataclass(slots=True)
class PathPlan:
    """All rules on paths, compiled."""

    rules: list[SlotRule] = field(default_factory=list)
    automaton: Automaton = field(default_factory=Automaton)
    left_out: dict[str, str] = field(default_factory=dict)
    """Id -> why a rule stays with user space, after the effect."""
    own: int = 0
    """The slot of agentd's own rule on its files, as a bit set."""
    unnamed: int = 0
    """The slots of rules that name no path: they apply whatever it is."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Id -> what of a rule cannot be decided here, and how that is decided."""

    def slots(self, workload: str, *, observed: bool = False) -> dict[Act, int]:
        """The slots that bind a workload, by act, as bit sets.

        Of one that is only observed: agentd's own, and side doors, which are not seen otherwise.
        """
        sets: dict[Act, int] = dict.fromkeys(ACT_ORDER, 0)
        bound = [
            (slot, rule)
            for slot, rule in enumerate(self.rules)
            if NameGlobs(rule.workloads).match(workload)
        ]
        lifted = any(rule.lifts_bpf for _, rule in bound)
        for slot, rule in bound:
            for act in rule.acts:
                if observed and rule.id != SELF and act not in SIDE_ACTS:
                    continue
                if not (lifted and act == "bpf" and rule.id == SELF):
                    sets[act] |= 1 << slot
        return sets

    def signals(self) -> dict[int, int]:
        """Signal -> the slots of the rules about it, as a bit set."""
        return {
            number: sum(
                1 << slot for slot, rule in enumerate(self.rules) if rule.signals >> number & 1
            )
            for number in SIGNALS
        }

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


def compile_paths(
    policy: Policy,
    own: Sequence[Path] = (),
    hooks: Container[str] = _ALL_HOOKS,
    *,
    connects: bool = False,
) -> PathPlan:
    """The plan for all workloads; which rules bind which is in `PathPlan.slots`.

    `own`: the places that agentd protects, if it is to protect itself. `hooks`: the LSM hooks that
    are in force; a rule that needs others is left out. `connects`: the kernel judges listeners of
    Unix sockets by their paths, too.
    """
    left_out: dict[str, str] = {}
    fitting = []
    for rule in policy.rules:
        missing = [HOOKS[act] for act in side_acts(rule) if HOOKS[act] not in hooks]
        if missing:
            names = ", ".join(dict.fromkeys(missing))
            left_out[rule.id] = f"this kernel has no hook for it ({names})"
        elif rule.on == "network.connect" and not connects:
            continue
        elif acts_of(rule) and (rule.action in BINDING or rule.on in SIDE_KINDS):
            fitting.append(rule)
    fitting.sort(key=_weight)
    room = MAX_RULES - OWN_RULES
    left_out |= {
        rule.id: f"the kernel side has room for {room} rules on paths" for rule in fitting[:-room]
    }
    fitting = fitting[-room:]
    globs = [
        SlotGlobs(slot, *_globs(rule)) for slot, rule in enumerate(fitting) if not _unnamed(rule)
    ]
    unnamed = sum(1 << slot for slot, rule in enumerate(fitting) if _unnamed(rule))
    at = len(fitting)
    if own:
        globs += [SlotGlobs(at, own_globs(own)), SlotGlobs(at + 1, way_globs(own))]
    # Homes outside /home are known to the kernel by inode.
    automaton = compile_globs(globs, homes=())
    rules = [
        SlotRule(
            rule.id,
            _treatment(rule, exact=slot not in automaton.inexact),
            acts_of(rule),
            rule.workloads,
            repr((rule.on, rule.match.path, rule.match.exe, rule.match.except_)),
            signals_of(rule) if rule.on == "process.signal" else 0,
            rule.on == "system.bpf" and rule.action == "allow" and rule.when is None,
        )
        for slot, rule in enumerate(fitting)
    ]
    if own:
        unnamed |= 1 << at + _OWN_ACTS.index(("bpf",))
        rules += [
            SlotRule(SELF, "deny", acts, _EVERY, repr((SELF, acts, [str(place) for place in own])))
            for acts in _OWN_ACTS
        ]
    left_out |= {rules[slot].id: "; ".join(globs) for slot, globs in automaton.missed.items()}
    notes = [(rule.id, why) for rule in fitting if (why := waits_in_vain(rule))]
    return PathPlan(rules, automaton, left_out, 1 << at if own else 0, unnamed, notes)


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
            return side_acts(rule)


def by_act(sets: Mapping[Act, int], count: int) -> list[int]:
    """Slots in the order of the kernel's ACT_ numbers, filled up to `count`."""
    ordered = [sets[act] for act in ACT_ORDER]
    return ordered + [0] * (count - len(ordered))


def _treatment(rule: Rule, *, exact: bool) -> Treatment:
    if rule.action not in BINDING:
        return "tell"
    if rule.action == "hold" or rule.when is not None or not exact:
        return "ask"
    return "kill" if rule.action == "kill" else "deny"


def _globs(rule: Rule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Positive globs, and those of exceptions."""
    of_program = rule.on.startswith("process.")
    given: Iterable[str] = (rule.match.exe if of_program else rule.match.path) or ()
    if rule.on == "network.connect":
        given = socket_path_globs(rule) or ()
    positive, negative = split_negated(given)
    excepted = rule.match.except_ or () if not of_program else ()
    return tuple(positive) or _ANYTHING, (*negative, *excepted)


def _unnamed(rule: Rule) -> bool:
    """Whether a rule on a side door is about every path, or about what has none.

    Were it a glob, every file that is opened would have to be marked with it.
    """
    return rule.on in SIDE_KINDS and _globs(rule) == (_ANYTHING, ())


def _weight(rule: Rule) -> tuple[int, bool, int]:
    """A static rule stands above one that has to be asked about, of the same action."""
    asks = rule.action == "hold" or rule.when is not None
    return ACTION_RANK[rule.action], not asks, SEVERITY_RANK[rule.severity]
