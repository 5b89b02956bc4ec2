"""The policy in force: compiled for user space and for the kernel.

A set of rules that does not load changes nothing: the last good one stays, and says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agentd.daemon.log import log
from agentd.daemon.netrules import Numbers, socket_rules
from agentd.daemon.ownplaces import own_inodes
from agentd.daemon.report import Reporter
from agentd.daemon.watched import WatchedFiles
from agentd.kernel.decide_wire import (
    ACTION_ASK,
    ACTION_DENY,
    ACTION_KILL,
    ACTION_TELL,
    ACTS,
    SELF_RULE,
    SOCKET_RULE_BASE,
)
from agentd.kernel.decisions import Decisions, Tables, WorkloadRules
from agentd.kernel.inodes import Inode, InodeReader
from agentd.kernel.maps import KernelMaps, SocketRuleValue
from agentd.kernel.tier import WRITE_HOOKS
from agentd.kernel.wire import (
    HOLDS_CLIENT_REQUESTS,
    HOLDS_EXECS,
    HOLDS_FAIL_CLOSED,
    HOLDS_OPENS,
    HOLDS_REQUESTS,
    HOLDS_RESULTS,
    MASK_CANDIDATES,
    MASK_EXEC_ALL,
    MASK_OPENS_AT_ENTRY,
    NAME_BASE,
    NAME_DIR,
    NAME_EXEC,
    NAME_HOLD,
    NAME_PREFIX,
    NAME_SUFFIX,
    NAME_WATCH,
    NAME_WRITE_ONLY,
    TELLS_CHANGES,
    TELLS_OPENS,
    TELLS_SOCKETS,
)
from agentd.policy.compiler import HOLD, WATCH, WRITE_ONLY, KernelPlan, RuleNote, compile_plan
from agentd.policy.evaluator import Evaluator
from agentd.policy.globs import NameGlobs, home_directories
from agentd.policy.network_plan import NetworkPlan, compile_network
from agentd.policy.own import SELF
from agentd.policy.path_plan import PathPlan, by_act, compile_paths
from agentd.policy.rules import Policy
from agentd.workloads.selectors import Selectors
from agentd.workloads.sessions import SessionRegistry
from agentd.workloads.workload import Workload

_KINDS = {"base": NAME_BASE, "suffix": NAME_SUFFIX, "dir": NAME_DIR, "prefix": NAME_PREFIX}
_FLAGS = ((WATCH, NAME_WATCH), (HOLD, NAME_HOLD), (WRITE_ONLY, NAME_WRITE_ONLY))
_ACTIONS = {"ask": ACTION_ASK, "deny": ACTION_DENY, "kill": ACTION_KILL, "tell": ACTION_TELL}
_RESCAN_POLLS = 2


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy, and all that can be made of it before anything is told to the kernel."""

    policy: Policy
    evaluator: Evaluator
    selectors: Selectors


def compile_policy(policy: Policy) -> CompiledPolicy:
    """About 15 ms for the shipped rules."""
    return CompiledPolicy(policy, Evaluator(policy), Selectors(policy.workloads.values()))


class LookAtOpens(Protocol):
    """What has the calls that open files looked at when they return."""

    def __call__(self, *, at_return: bool) -> None:
        """Does so, or ends it."""


class PolicyInForce:
    """Rules and workloads, and what the kernel has been told of them."""

    def __init__(  # noqa: PLR0917 (what it tells, and what that depends on)
        self,
        kernel: KernelMaps,
        registry: SessionRegistry,
        reporter: Reporter,
        hold_wait_us: int,
        decisions: Decisions | None,
        own: Sequence[Path] = (),
        hooks: frozenset[str] = frozenset(),
        *,
        sockets: bool = False,
    ) -> None:
        """`decisions` is None where the kernel takes none: the observe tier.

        `own`: the places that agentd protects. `hooks`: the LSM hooks that are in force.
        `sockets`: the kernel decides about sockets, too.
        """
        self._own = own
        self._hooks = hooks
        self._sockets = sockets and decisions is not None
        self._results = hooks >= WRITE_HOOKS
        self._network = NetworkPlan()
        self._kernel = kernel
        self._decisions = decisions
        self._paths = PathPlan()
        self._moves: dict[int, int] = {}
        self.meanings: list[list[str]] = [[], []]
        """Of the path rules, by version; who takes over has to know those that are in force."""
        self.persist: Callable[[], None] = lambda: None
        """Keeps `meanings` on disk."""
        self.look_at_opens: LookAtOpens = lambda *, at_return: None  # noqa: ARG005
        self._path_plans: dict[int, PathPlan] = {}
        self.version = 0
        self.enforced: frozenset[str] = frozenset()
        self._registry = registry
        self._reporter = reporter
        self._patience_us = hold_wait_us
        self._policy = Policy()
        self._plan = KernelPlan()
        self._numbers = Numbers()
        # Of a daemon that takes over: no session may be without its rules until it is found again.
        self._prepared = {session.workload for session in registry}
        self.evaluator = Evaluator(self._policy)
        self.selectors = Selectors(())
        self.kills_late = False
        """Whether what is only told may call for a kill, so that it should not wait for long."""
        self.watched = WatchedFiles(kernel)
        self._polls = 0
        self._generation = 0

    @property
    def workloads(self) -> dict[str, Workload]:
        """The workloads of the policy, by name."""
        return self._policy.workloads

    def use(self, compiled: CompiledPolicy) -> None:
        """Puts a policy in force."""
        policy = compiled.policy
        paths, network = PathPlan(), NetworkPlan()
        if self._decisions is not None:
            paths = compile_paths(policy, self._own, self._hooks, connects=self._sockets)
        self.enforced = paths.enforced
        if self._sockets:
            network = compile_network(policy, self.enforced)
            self.enforced |= network.enforced
        plan = compile_plan(policy, self.enforced, paths.left_out, results=self._results)
        self._policy, self._plan, self._network = policy, plan, network
        if self._decisions is not None:
            self._moves = paths.moves(self.meanings[self._decisions.version])
            self.meanings[self._decisions.next_version] = paths.meanings
            self.persist()  # before they are in force: the next engine must know them
        self._paths = paths
        self.evaluator, self.selectors = compiled.evaluator, compiled.selectors
        self.kills_late = any(
            plan.kills_late(workload.name)
            for workload in policy.workloads.values()
            if workload.posture == "enforce"
        )
        plan.notes += [RuleNote(rule, text) for rule, text in paths.notes]
        # Where the end of a call is looked at, it begins before the hook leaves it to that.
        if self._opens_at_return:
            self.look_at_opens(at_return=True)
        self._tell_kernel()
        if not self._opens_at_return:
            self.look_at_opens(at_return=False)
        for note in plan.notes:
            log(f"rule {note.rule_id}: {note.text}")
        for text in self.selectors.problems:
            log(text)
        problems = [{"rule": note.rule_id, "text": note.text} for note in plan.notes]
        problems += [{"text": text} for text in self.selectors.problems]
        self._generation += 1
        loaded = {
            "rules": len(policy.rules),
            "workloads": len(policy.workloads),
            "generation": self._generation,
            "notes": problems,
        }
        if policy.disabled:
            loaded["disabled"] = sorted(policy.disabled)
        self._reporter.daemon_event("policy.loaded", {"policy": loaded})

    def reload(self, compiled: CompiledPolicy) -> dict[str, Any]:
        """Puts other rules in force, for the sessions there are too; the answer to `reload`."""
        self.use(compiled)
        for session in self._registry:
            workload = self.workloads.get(session.workload)
            if workload is not None:
                session.posture = workload.posture
                session.on_failure = workload.on_failure
        return self._answer([])

    def reject(self, problems: list[str]) -> dict[str, Any]:
        """Reports what is wrong with the rules that were read; the answer to `reload`."""
        for text in problems:
            log(text)
        log("these rules are rejected; the last good ones stay in force")
        self._reporter.daemon_event("policy.rejected", {"policy": {"problems": problems}})
        return self._answer(problems)

    def rescan(self) -> None:
        """Looks for files that have appeared under watched names, every other call."""
        self._polls += 1
        if self._polls % _RESCAN_POLLS == 0 and len(self._registry):
            self.watched.rescan()

    def prepare(self, name: str) -> Workload | None:
        """Makes the kernel ready for sessions of a workload; None if there is no such workload."""
        workload = self._policy.workloads.get(name)
        if workload is not None:
            number = self._registry.workload_number(name)
            self._kernel.set_workload(number, self._flags(workload), self._net_rules(name))
            if self._decisions is not None:
                self._decisions.set_workload(number, self._bound_by(workload), self.version)
            self._prepared.add(name)
        return workload

    def path_rule(self, version: int, number: int) -> str:
        """The id of the rule in a slot of a version of the path rules."""
        if number == SELF_RULE:
            return SELF
        plan = self._path_plans.get(version)
        return plan.rules[number].id if plan and number < len(plan.rules) else "unknown"

    def net_rule(self, number: int) -> str:
        """The id of the network rule that the kernel knows by this number."""
        return self._numbers.name(number)

    def socket_rule(self, version: int, number: int) -> str:
        """The id of a rule on sockets: of that table, or of one on the paths of listeners."""
        if number < SOCKET_RULE_BASE:
            return self.path_rule(version, number)
        return self.net_rule(number - SOCKET_RULE_BASE)

    @property
    def _opens_at_return(self) -> bool:
        """Whether no hook sees opens, or some rule has to stop them after the effect."""
        return "file_open" not in self._hooks or self._plan.holds_opens

    def _flags(self, workload: Workload) -> int:
        flags = HOLDS_FAIL_CLOSED if workload.on_failure == "deny" else 0
        if any(self.evaluator.wants(on, workload.name) for on in ("file.delete", "file.rename")):
            flags |= TELLS_CHANGES
        if any(
            self.evaluator.wants(on, workload.name)
            for on in ("network.connect", "network.bind", "network.socket")
        ):
            flags |= TELLS_SOCKETS
        if self._plan.judges_writes(workload.name):
            flags |= TELLS_OPENS
        if workload.posture != "enforce":
            return flags
        if self._plan.mcp_holds(workload.name):
            flags |= HOLDS_REQUESTS
        if self.evaluator.wants("mcp.request", workload.name):
            flags |= HOLDS_CLIENT_REQUESTS
        if self._plan.result_holds(workload.name):
            flags |= HOLDS_RESULTS
        if self._plan.open_holds(workload.name):
            flags |= HOLDS_OPENS
        if self._plan.exec_holds(workload.name):
            flags |= HOLDS_EXECS
        return flags

    def _bound_by(self, workload: Workload) -> WorkloadRules:
        observed = workload.posture != "enforce"
        slots = self._paths.slots(workload.name, observed=observed)
        return WorkloadRules(by_act(slots, ACTS), self._paths.own, self._paths.unnamed, observed)

    def _install_paths(self) -> None:
        """Puts the path rules in force in the kernel, for the workloads that have sessions."""
        if self._decisions is None:
            return
        automaton = self._paths.automaton
        tables = Tables(
            automaton.words,
            automaton.starts,
            automaton.ends,
            (
                automaton.any,
                automaton.repeat,
                automaton.first,
                automaton.anywhere,
                automaton.home,
                automaton.root,
            ),
            automaton.accepts,
            [
                (_ACTIONS[rule.treatment], slot, rule.id == SELF)
                for slot, rule in enumerate(self._paths.rules)
            ],
            self._paths.signals(),
        )
        self._decisions.set_own_places(own_inodes(self._own))
        workloads = {
            self._registry.workload_number(name): self._bound_by(self._policy.workloads[name])
            for name in self._prepared & self._policy.workloads.keys()
        }
        self._decisions.set_homes(map(InodeReader().read_directory, home_directories()))
        self.version = self._decisions.install(tables, workloads, self._moves)
        self._path_plans[self.version] = self._paths
        self.watched.mark = self._mark

    def _mark(self, inode: Inode, path: str, place: str) -> None:
        """Keeps a file known to the kernel under this path, whatever it is called later.

        One that is no more at `place` may be gone, and the mark would be that of its heir.
        """
        if self._decisions is None:
            return
        slots = sum(1 << slot for slot in self._paths.automaton.match(path))
        if not slots & ~self._decisions.marked(inode):
            return
        with InodeReader().held(place) as found:
            if found is not None and found.inode == inode:
                self._decisions.mark(inode, slots)

    def _net_rules(self, workload: str) -> list[SocketRuleValue]:
        if self._policy.workloads[workload].posture != "enforce":
            return []
        rules = self._network.rules if self._sockets else self._plan.net
        found = socket_rules(
            [rule for rule in rules if NameGlobs(rule.workloads).match(workload)],
            self._numbers,
            asks=self._sockets,
        )
        if found.left_out:
            log(f"workload {workload}: {found.left_out}")
        return found.rules

    def _answer(self, problems: list[str]) -> dict[str, Any]:
        return {
            "rules": len(self._policy.rules),
            "workloads": len(self._policy.workloads),
            "problems": problems,
        }

    def _tell_kernel(self) -> None:
        names: dict[tuple[int, bytes], int] = {}
        for key in self._plan.names:
            flags = sum(theirs for ours, theirs in _FLAGS if key.flags & ours)
            names[_KINDS[key.kind], key.text] = flags
        for name in self._plan.exec_names:
            names[NAME_EXEC, name] = NAME_HOLD
        self._kernel.set_names(names)
        self._install_paths()
        self.watched.load(self._policy)
        flags = MASK_CANDIDATES if len(self.selectors) else 0
        flags |= MASK_EXEC_ALL if self._plan.exec_all else 0
        flags |= 0 if self._opens_at_return else MASK_OPENS_AT_ENTRY
        # Not the policy's own number: that starts anew with every engine, the map does not.
        self._kernel.set_settings(flags, self._kernel.generation() + 1, self._patience_us)
        for workload in self._prepared & self._policy.workloads.keys():
            self.prepare(workload)
