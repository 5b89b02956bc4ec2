"""What the kernel filters and decides alone on the observe tier, from the rules in force.

The name filter lets through a superset of the opens that rules want (user space judges what comes
through); the network rules are final, so only those that mean exactly the same there are compiled.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agentd.policy.globs import (
    KeyKind,
    NameGlobs,
    PathGlob,
    expand_braces,
    path_glob,
    split_negated,
)
from agentd.policy.network_plan import BINDING, NetRule, connects_by_address
from agentd.policy.rules import Policy, Rule
from agentd.policy.side import SIDE_KINDS

WATCH = 1
HOLD = 2
WRITE_ONLY = 4


@dataclass(frozen=True, slots=True)
class NameKey:
    """A literal part of a path.

    flags: WATCH reports the open, HOLD stops it; WRITE_ONLY: not for an open that only reads.
    """

    kind: KeyKind
    text: bytes
    flags: int


@dataclass(frozen=True, slots=True)
class RuleNote:
    """Why this tier cannot decide a rule before the effect."""

    rule_id: str
    text: str


@dataclass(slots=True)
class KernelPlan:
    """The kernel's part of a policy."""

    names: list[NameKey] = field(default_factory=list)
    exec_all: bool = False
    """Every exec must be judged."""
    exec_names: set[bytes] = field(default_factory=set)
    """Last components of executables, or of scripts, whose exec must be judged."""
    net: list[NetRule] = field(default_factory=list)
    notes: list[RuleNote] = field(default_factory=list)
    holding: dict[str, list[NameGlobs]] = field(default_factory=dict)
    """"mcp", "result", "open", "write", "exec" -> the workloads whose such events are judged;
    "late", "late-move" -> those of which a process may be killed for what it has done."""

    def mcp_holds(self, workload: str) -> bool:
        """Whether requests of that workload must be judged before the server sees them."""
        return self._holds("mcp", workload)

    def result_holds(self, workload: str) -> bool:
        """Whether what its servers answer must be judged before the client sees it."""
        return self._holds("result", workload)

    def open_holds(self, workload: str) -> bool:
        """Whether some open may be refused."""
        return self._holds("open", workload)

    @property
    def holds_opens(self) -> bool:
        """Whether that may be so for any workload."""
        return bool(self.holding.get("open"))

    def judges_writes(self, workload: str) -> bool:
        """Whether opens for writing must all be told: no name says which of them a rule wants."""
        return self._holds("write", workload)

    def exec_holds(self, workload: str) -> bool:
        """Whether some exec may be refused."""
        return self._holds("exec", workload)

    def kills_late(self, workload: str) -> bool:
        """Whether some of its records, that wake nobody by themselves, may call for a kill."""
        moves_wake = self.open_holds(workload)  # `moves_watched` in changes.bpf.c
        return self._holds("late", workload) or (
            not moves_wake and self._holds("late-move", workload)
        )

    def _holds(self, what: str, workload: str) -> bool:
        return any(globs.match(workload) for globs in self.holding.get(what, ()))


def compile_plan(
    policy: Policy,
    enforced: Container[str] = (),
    left_out: Mapping[str, str] = MappingProxyType({}),
    *,
    results: bool = False,
) -> KernelPlan:
    """The part of a policy that the kernel filters for the observe tier.

    `enforced`: ids of rules that an enforce tier decides by itself; they need nothing here.
    `left_out`: why it does not decide others, by id. `results`: what servers send can be held, too.
    """
    plan = KernelPlan()
    names: dict[tuple[KeyKind, bytes], int] = {}
    for rule in policy.rules:
        if rule.id in enforced:
            continue
        binding = rule.action in BINDING
        match rule.on:
            case "mcp.tool_call" | "mcp.request":
                _holding(plan, "mcp", rule)
            case "mcp.response" if binding and results:
                _holding(plan, "result", rule)
            case "mcp.response" if binding:
                _note_result(plan, rule)
            case "file.open":
                _add_names(names, rule, plan)
                if binding:
                    _holding(plan, "open", rule)
            case "process.exec" if binding:
                _add_exec(plan, rule)
                _holding(plan, "exec", rule)
            case "network.connect" if binding:
                _add_network(plan, rule)
            case "network.bind" | "network.socket" | "file.delete" | "file.rename" if binding:
                _note(plan, rule, f"{rule.on} is seen here only after it happened")
            case on if on in SIDE_KINDS:
                text = f"{on} needs an enforce tier"
                text = f"{left_out.get(rule.id, text)}; here it is neither decided nor recorded"
                plan.notes.append(RuleNote(rule.id, text))
            case _:
                pass
    plan.names = [NameKey(kind, text, flags) for (kind, text), flags in names.items()]
    return plan


def _holding(plan: KernelPlan, what: str, rule: Rule) -> None:
    plan.holding.setdefault(what, []).append(NameGlobs(rule.workloads))


def _note(plan: KernelPlan, rule: Rule, why: str) -> None:
    effect = "it is not held"
    if rule.action in {"deny", "kill"}:
        effect = "the process is killed"
        _holding(plan, "late-move" if rule.on == "file.rename" else "late", rule)
    plan.notes.append(RuleNote(rule.id, f"{why}; {effect} afterwards"))


def _note_result(plan: KernelPlan, rule: Rule) -> None:
    effect = "it is only recorded"
    if rule.action == "kill":
        effect = "the client is killed"
        _holding(plan, "late", rule)
    text = f"a result is seen here only after its client has it, if that is labelled; {effect}"
    plan.notes.append(RuleNote(rule.id, text))


def _literal_globs(paths: Iterable[str]) -> list[PathGlob]:
    positive, _ = split_negated(paths)
    return [path_glob(text) for glob in positive for text in expand_braces(glob)]


def _add_names(names: dict[tuple[KeyKind, bytes], int], rule: Rule, plan: KernelPlan) -> None:
    write_only = rule.match.access == ("write",)
    flags = HOLD if rule.action in BINDING else WATCH
    globs = _literal_globs(rule.match.path or ())
    for glob in globs:
        if glob.key is not None:
            known = names.get((glob.key.kind, glob.key.text))
            keeps_write_only = write_only and (known is None or bool(known & WRITE_ONLY))
            merged = (flags | (known or 0)) & ~WRITE_ONLY
            names[glob.key.kind, glob.key.text] = merged | (WRITE_ONLY if keeps_write_only else 0)
    if rule.action in BINDING and "write" in (rule.match.access or ("write",)):
        text = "an open that truncates has emptied the file before it is judged here"
        plan.notes.append(RuleNote(rule.id, text))
    unfiltered = not globs or any(glob.key is None for glob in globs)
    if unfiltered and "write" in (rule.match.access or ("write",)):
        _holding(plan, "write", rule)
    if unfiltered and rule.action in BINDING:
        _note(plan, rule, "no name, extension or directory to stop opens for writing by")


def _add_exec(plan: KernelPlan, rule: Rule) -> None:
    globs = _literal_globs(rule.match.exe or ())
    names = {
        glob.key.text if glob.key is not None and glob.key.kind == "base" else None
        for glob in globs
    }
    plan.exec_names |= {name for name in names if name is not None}
    if not names or None in names:
        plan.exec_all = True


def _add_network(plan: KernelPlan, rule: Rule) -> None:
    protocols = rule.match.protocol or ()
    if rule.match.path is not None or "unix" in protocols:
        _note(plan, rule, "connects to Unix sockets are seen here only after they happened")
    if rule.match.path is not None or (protocols and set(protocols) == {"unix"}):
        return
    if rule.action == "hold" or rule.when is not None:
        what = "a connect" if rule.action == "hold" else "a condition ('when') of a connect"
        _note(plan, rule, f"{what} cannot be judged before it happens here")
        return
    plan.net += connects_by_address(rule)
