"""What one open, exec and connect cost on an enforce tier, as ratios to a kernel without agentd.

    make lab KERNEL=6.12 CMD='python -m bench.kernel'
    make lab KERNEL=6.12 COUNT=1 CMD='python -m bench.kernel --rounds 1'

The second way the clock of the machine counts instructions: what else the host does has no part in
the figures, and neither has that some instructions take longer than others.

Calls: `open` (and close; on ext4), `overlay` (the same on overlayfs, as in containers, which opens
each file twice), `exec` (and fork and exit), `connect` (TCP, to the same machine) and `associate`
(the same call on a UDP socket, where the kernel does next to nothing).

Conditions, in every round: `off` (twice), `empty` (no agentd, but a program that does nothing on
each of the hooks that decide on these calls: the floor), `idle` (agentd in force, no session),
`unlabelled` (a task outside, while a session exists), `allowed` (of the session, judged and let
go), `denied`, `held` (the engine judges the call before it goes on; fewer calls), and as peers
`auditd` and `sysdig` (its modern eBPF probe), watching the same calls of the measured process. A
ratio is that of a condition's time to the mean of both `off` of its round; the median over rounds
is printed. The calls are made by one static program (calls.c), so that an exec is as short as it
can be and the hooks show most.
"""

import argparse
import errno
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import audit_peer, empty_hooks, report, sysdig_peer
from tests.host.support.daemon import Daemon, Document, workload
from tests.host.support.processes import become_subreaper, wait_until
from tests.lab.support.disk import mounted_ext4
from tests.lab.support.hooks import hooked_functions

KINDS = ("open", "overlay", "exec", "connect", "associate")
COUNTS = {"open": 8_000, "overlay": 8_000, "exec": 200, "connect": 2_000, "associate": 8_000}
_TARGETED = frozenset({"open", "exec", "connect"})
HELD_COUNT = 40
SETTLE_S = 10.0  # in which the engine takes in the session's records; it has the same CPU
UNLOADED_S = 120.0
UNLABELLED_LIMIT = 1.03
EXPECTED = {"denied": errno.EPERM}
_FOLDERS = {"open": "files", "overlay": "files", "exec": "programs"}
_ADDRESS = {"plain": "127.0.0.1", "denied": "127.77.0.1", "held": "127.78.0.1"}


class SlowDaemon(Daemon):
    """Emulated machines are slow to start one."""

    READY_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """Files of each sort: `plain`, `denied`, `held`, and the programs of these names."""

    root: Path
    """On overlayfs, as all files of the machine."""
    disk: Path

    def path(self, kind: str, sort: str) -> str:
        return str((self.disk if kind == "open" else self.root) / _FOLDERS[kind] / sort)

    def fill(self) -> None:
        for kind in _FOLDERS:
            Path(self.path(kind, "")).mkdir()
        for sort in _ADDRESS:
            for kind in ("open", "overlay"):
                Path(self.path(kind, sort)).write_text(sort)
        source = Path(__file__).parent / "calls.c"
        program = self.path("exec", "plain")
        subprocess.run(["clang", "-O2", "-static", "-o", program, str(source)], check=True)
        for sort in ("denied", "held"):
            Path(self.path("exec", sort)).write_bytes(Path(program).read_bytes())
            Path(self.path("exec", sort)).chmod(0o755)

    def rules(self) -> dict[str, Document]:
        """`denied` is denied by the kernel alone; `held` by a condition that is never true."""
        never = "event.process.exe == '/nothing'"
        rules = []
        for sort, more in (("denied", {}), ("held", {"when": never})):
            matches = {
                "file.open": {"path": [self.path(kind, sort) for kind in ("open", "overlay")]},
                "process.exec": {"exe": self.path("exec", sort)},
                "network.connect": {"cidr": f"{_ADDRESS[sort]}/32"},
            }
            rules += [
                {"id": f"{sort}-{on.replace('.', '-')}", "on": on, "match": match,
                 "action": "deny", **more}
                for on, match in matches.items()
            ]  # fmt: skip
        return {"workload.yaml": workload("bench"), "rules.yaml": {"rules": rules}}


class Caller:
    """A running calls.c."""

    def __init__(self, command: list[str], place: Place) -> None:
        self._place = place
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def nanoseconds(self, kind: str, sort: str) -> float:
        """The median time of a call of this kind on what is of this sort."""
        count = HELD_COUNT if sort == "held" else COUNTS[kind]
        what = self._place.path(kind, sort) if kind in _FOLDERS else _ADDRESS[sort]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        call = "open" if kind == "overlay" else kind
        self._process.stdin.write(f"{call} {what} {count}\n")
        self._process.stdin.flush()
        words = self._process.stdout.readline().split()
        if len(words) != 2 or int(words[1]) != EXPECTED.get(sort, 0):
            raise SystemExit(f"{kind} of what is {sort}: {words}, and not as it should be")
        return float(words[0])

    def close(self) -> None:
        self._process.communicate()


@contextmanager
def caller(command: list[str], place: Place) -> Iterator[Caller]:
    made = Caller(command, place)
    try:
        yield made
    finally:
        made.close()


Times = dict[str, dict[str, list[float]]]


def one_round(place: Place, directory: Path, times: Times, unusable: dict[str, str | None]) -> None:
    """Every condition once, each with a caller of its own.

    `unusable`: why a peer cannot be measured, by its name; it learns of one that does not start.
    """
    plain = [place.path("exec", "plain")]

    def measure(condition: str, command: list[str], sort: str = "plain") -> None:
        with caller(command, place) as made:
            for kind in KINDS:
                times[kind][condition].append(made.nanoseconds(kind, sort))
                print(condition, kind, times[kind][condition][-1], file=sys.stderr, flush=True)

    measure("off", plain)
    hooked = hooked_functions()
    directory.mkdir()
    with empty_hooks.attached(directory):
        measure("empty", plain)
    with SlowDaemon(directory, place.rules()) as daemon:
        measure("idle", plain)
        labelled = daemon.run("bench", plain)
        with ExitStack() as stack:
            stack.enter_context(caller(labelled, place)).nanoseconds("open", "plain")
            time.sleep(SETTLE_S)
            measure("unlabelled", plain)
        for condition, sort in (("allowed", "plain"), ("held", "held"), ("denied", "denied")):
            measure(condition, labelled, sort)
    subprocess.run([Path(sys.executable).with_name("agentd"), "unload"], check=True)
    # The second `off` is one only if nothing of agentd is left.
    wait_until(lambda: hooked_functions() == hooked, UNLOADED_S, "agentd's programs are off")
    measure("off again", plain)
    if unusable["sysdig"] is None:
        try:
            with sysdig_peer.watching(directory / "sysdig", Path(plain[0]).name):
                measure("sysdig", plain)
        except sysdig_peer.NotStartedError as error:
            unusable["sysdig"] = str(error)
    if unusable["auditd"] is None:
        with audit_peer.watching(directory / "audit"):
            measure("auditd", audit_peer.in_audited_login(plain))


def summarise(times: Times) -> dict[str, dict[str, float]]:
    """Median nanoseconds and median ratio by kind and condition."""
    summary = {}
    for kind, conditions in times.items():
        base = [
            (a + b) / 2 for a, b in zip(conditions["off"], conditions["off again"], strict=True)
        ]
        for condition, taken in conditions.items():
            ratios = [each / mean for each, mean in zip(taken, base, strict=True)]
            summary[f"{kind}: {condition}"] = {
                "ns": statistics.median(taken),
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    become_subreaper()
    conditions = ["off", "off again", "empty", "idle", "unlabelled", "allowed", "denied", "held"]
    unusable = {"sysdig": sysdig_peer.why_unusable(), "auditd": audit_peer.why_unusable()}
    if unusable["auditd"] is None:
        audit_peer.spare_new_tasks()
    times: Times = {
        kind: {condition: [] for condition in (*conditions, *unusable)} for kind in KINDS
    }
    with tempfile.TemporaryDirectory() as directory, mounted_ext4(Path(directory)) as disk:
        place = Place(Path(directory), disk)
        place.fill()
        for number in range(rounds):
            one_round(place, Path(directory, f"round{number}"), times, unusable)
    for peer, why in unusable.items():
        if why is not None:
            for taken in times.values():
                del taken[peer]
    summary = summarise(times)
    rows = [
        [name, f"{each['ns']:,.0f}", f"{each['ratio']:.3f}",
         f"{each['lowest']:.3f} .. {each['highest']:.3f}"]
        for name, each in summary.items()
    ]  # fmt: skip
    report.table(
        f"Calls on Linux {os.uname().release}, medians of {rounds} rounds",
        ["call", "ns", "over off", "all rounds"],
        rows,
    )
    for kind in KINDS:
        ratio, floor = (summary[f"{kind}: {of}"]["ratio"] for of in ("unlabelled", "empty"))
        said = f"{kind}, unlabelled: {ratio:.3f} times"
        if kind in _TARGETED:
            name = f"{kind}, unlabelled"
            said = report.verdict(name, ratio, UNLABELLED_LIMIT, "times", digits=3)
        print(f"{said}; an empty program alone: {floor:.3f}")
    for peer, why in unusable.items():
        if why is not None:
            print(f"{peer} was not measured: {why}", file=sys.stderr)
    report.save(f"kernel-{os.uname().release}", {"rounds": rounds, **summary})


if __name__ == "__main__":
    main()
