"""What `agentd doctor` finds out: facts of the host, feature trials, and what follows for rules."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from agentd import __version__
from agentd.cli.client import ControlError
from agentd.cli.output import Settings
from agentd.errors import ConfigErrors
from agentd.kernel import host, tiers
from agentd.kernel.libbpf import KernelError, missing_hooks
from agentd.policy import loader
from agentd.policy.compiler import RuleNote, compile_plan
from agentd.policy.network_plan import compile_network
from agentd.policy.path_plan import compile_paths
from agentd.policy.side import HOOKS

BEFORE, AFTER, NOT = "before the effect", "after the effect", "not enforced"
_BTF = Path("/sys/kernel/btf/vmlinux")
_EPERM = 1
_ENFORCE = (tiers.ENFORCE_LSM, tiers.ENFORCE_FMODRET)


@dataclass(slots=True, frozen=True)
class RuleKind:
    """Rules of one kind, when they act in this tier, and how."""

    rules: str
    acts: str
    how: str


@dataclass(slots=True, frozen=True)
class Lsm:
    """Active security modules (None: cannot be seen) and where that is from, or why not."""

    active: list[str] | None
    source: str


@dataclass(slots=True, frozen=True)
class KernelConfig:
    """Build options of the kernel that matter here; `source` is "" where they cannot be read."""

    source: str
    options: dict[str, str]


@dataclass(slots=True, frozen=True)
class Privilege:
    """Capabilities in force, and those agentd needs and lacks (with their purpose)."""

    uid: int
    effective: list[str]
    missing: dict[str, str]


@dataclass(slots=True, frozen=True)
class Diagnosis:
    """The whole report; `dataclasses.asdict` of it is `agentd doctor --json`.

    `mounts` maps tracefs, bpf, securityfs and debugfs to a mount point or None; `daemon` is a
    running daemon's answer to a ping, or None. `rule_notes` are on the host's own rules that are
    not decided before the effect, `rule_problems` on why its rules cannot be read.
    """

    tier: str
    kernel_tier: str
    version: str
    release: str
    machine: str
    btf: bool
    libbpf: str
    lockdown: str
    lsm: Lsm
    config: KernelConfig
    privilege: Privilege
    cgroup_mode: str
    cgroup2: str
    mounts: dict[str, str | None]
    families: list[tiers.Family]
    rules: list[RuleKind]
    rule_notes: list[RuleNote]
    rule_problems: list[str]
    mends: list[str]
    daemon: dict[str, object] | None


def rule_kinds(found: tiers.Capabilities) -> list[RuleKind]:
    """Which rules act before the effect, after it, or not at all, in the tier agentd runs in."""
    if found.tier == tiers.NONE:
        return [RuleKind("all", NOT, "no program can be loaded")]
    blocks = found.works("cgroup_connect")
    mcp = RuleKind(
        "mcp.tool_call, mcp.request", BEFORE, "the server is held; the call is rewritten"
    )
    if found.tier != tiers.OBSERVE:
        return [
            mcp,
            RuleKind("mcp.response", BEFORE, "the server's write, or its client's read, is held"),
            RuleKind("file.*, process.exec by path", BEFORE, "refused in the kernel, EPERM"),
            RuleKind(
                "the same with `when` or hold", BEFORE, "the call is held, then goes on or fails"
            ),
            RuleKind("process.exec by argv", BEFORE, "held before the first instruction; killed"),
            RuleKind(
                "process.trace, process.signal, process.namespace, system.*",
                BEFORE,
                "refused or held at the call's entry",
            ),
            RuleKind("network.*", BEFORE, "refused in the kernel, EPERM; held with `when` or hold"),
            RuleKind("mcp.notification", NOT, "recorded"),
        ]
    return [
        mcp,
        RuleKind("file.open", BEFORE, "held as open returns; deny kills before the data is used"),
        RuleKind("process.exec", BEFORE, "held before the first instruction; deny kills there"),
        RuleKind(
            "network.connect without `when`",
            BEFORE if blocks else AFTER,
            "refused in the kernel in sessions of `agentd run`; killed after it elsewhere"
            if blocks
            else "the process is killed",
        ),
        RuleKind(
            "network.connect with `when`, network.bind", AFTER, "the process is killed after it"
        ),
        RuleKind("file.delete, file.rename", AFTER, "the process is killed after it"),
        RuleKind("mcp.response, mcp.notification", NOT, "recorded"),
        RuleKind(
            "process.trace, process.signal, process.namespace, system.*",
            NOT,
            "needs an enforce tier; not recorded either",
        ),
        RuleKind("hold on file.delete, file.rename, network.*", NOT, "needs an enforce tier"),
    ]


def find_mends(found: tiers.Capabilities, lsm: Lsm, missing: dict[str, str]) -> list[str]:
    """What a person can do, most useful first, without repeats."""
    steps = []
    if missing:
        steps.append("run this as root: without privilege the kernel refuses most trials")
    if not found.libbpf:
        steps.append("install libbpf (Debian, Ubuntu: apt-get install libbpf1)")
    by_mend: dict[str, list[str]] = {}
    for family in found.families.values():
        if family.mend and not (missing and family.errno == _EPERM):
            by_mend.setdefault(family.mend, []).append(family.name)
    steps += [f"{', '.join(names)}: {mend}" for mend, names in by_mend.items()]
    if lsm.active is None:
        steps.append(f"LSM list and lockdown: {lsm.source}")
    return steps


def examine(settings: Settings) -> Diagnosis:
    """Run every trial and read every fact (about 0.2 s). Changes nothing."""
    found = tiers.probe(thorough=True)
    points = host.mounts()
    lsm = Lsm(*host.lsm_list(points))
    effective = host.effective_capabilities()
    needed = host.NEEDED_CAPABILITIES.items()
    missing = {name: purpose for name, purpose in needed if name not in effective}
    kernel = os.uname()
    notes, problems = _own_rules(settings, found.tier)
    return Diagnosis(
        tier=found.tier,
        kernel_tier=found.kernel_tier,
        version=__version__,
        release=kernel.release,
        machine=kernel.machine,
        btf=_BTF.exists(),
        libbpf=found.libbpf,
        lockdown=host.lockdown(points),
        lsm=lsm,
        config=KernelConfig(*host.kernel_config()),
        privilege=Privilege(os.geteuid(), sorted(effective), missing),
        cgroup_mode=host.cgroup_mode(points),
        cgroup2=found.cgroup2,
        mounts={
            kind: next(iter(points.get(kind, [])), None)
            for kind in ("tracefs", "bpf", "securityfs", "debugfs")
        },
        families=list(found.families.values()),
        rules=rule_kinds(found),
        rule_notes=notes,
        rule_problems=problems,
        mends=find_mends(found, lsm, missing),
        daemon=_ping(settings),
    )


def _own_rules(settings: Settings, tier: str) -> tuple[list[RuleNote], list[str]]:
    """Notes on the rules that the daemon would load here, and what is wrong with them."""
    try:
        policy = loader.load(settings.rule_sources())
    except ConfigErrors as errors:
        return [], [str(problem) for problem in errors.errors]
    if tier not in _ENFORCE:
        return compile_plan(policy).notes, []
    hooks = set(HOOKS.values())
    try:
        hooks -= set(missing_hooks(hooks))
    except KernelError as error:
        return [], [str(error)]
    plan = compile_paths(policy, hooks=hooks, connects=True)
    enforced = plan.enforced | compile_network(policy, plan.enforced).enforced
    notes = compile_plan(policy, enforced, plan.left_out, results=True).notes
    return notes + [RuleNote(rule, text) for rule, text in plan.notes], []


def _ping(settings: Settings) -> dict[str, object] | None:
    try:
        if not stat.S_ISSOCK(Path(settings.socket_path()).stat().st_mode):
            return None
        answer = settings.client(2.0, 0.0).request("ping")
    except (OSError, ControlError):
        return None
    return {name: value for name, value in answer.items() if name != "ok"}
