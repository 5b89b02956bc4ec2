"""What agentd costs real work: an `npm install` and a C build, in wall time and CPU time.

Conditions, all of them in every round, in an order drawn anew for each:

    off         no daemon
    off again   the same once more: what the others are compared with must not differ from itself
    idle        the daemon runs, no session exists
    labelled    the work runs in a session
    unlabelled  the work runs outside, while a session exists that does nothing
    auditd      no daemon; auditd watches the same things of the work (see audit_peer)

Ratios are paired: condition over the two `off` of the same round (their geometric mean; for `off
again` over `off`), the median over rounds of that, and a bootstrap interval of the median. The
clock runs within the session, from the work's first process to its last: what the start of a
session takes, once, is printed by itself. No run is dropped; what the hypervisor took from this
machine meanwhile (steal) is printed. The work lies in memory where there is /dev/shm, so that the
disk is not what is measured. CPU time is that of the work alone (user and system, of all its
processes); agentd's own is beside it.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench import audit_peer, report
from tests.host.support import servers
from tests.host.support.daemon import ALLOW_ALL, Daemon, workload
from tests.host.support.processes import become_subreaper, end_tree, wait_until

# Runs what it is given, and writes wall and CPU seconds to a file.
_TIMED = """\
import json, os, sys, time
start = time.perf_counter()
process = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
wall = time.perf_counter() - start
with open(sys.argv[1], "w") as file:
    json.dump([wall, usage.ru_utime + usage.ru_stime], file)
sys.exit(os.waitstatus_to_exitcode(status))
"""
_STARTS = 30
CONDITIONS = ["idle", "labelled", "unlabelled", "auditd"]
TARGET_PERCENT = {"idle": 0.5, "labelled": 3.0, "unlabelled": 1.5}
_C_FILES = 96
_C_SOURCE = """\
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct item{n} {{ int key; char name[32]; struct item{n} *next; }};

static int compare{n}(const void *a, const void *b)
{{
	const struct item{n} *x = a, *y = b;
	return x->key == y->key ? strcmp(x->name, y->name) : x->key < y->key ? -1 : 1;
}}

int work{n}(int argc, char **argv)
{{
	struct item{n} *items = calloc(argc, sizeof(*items));
	for (int i = 0; items && i < argc; i++) {{
		items[i].key = atoi(argv[i]) * {n};
		snprintf(items[i].name, sizeof(items[i].name), "%s", argv[i]);
		items[i].next = i ? &items[i - 1] : NULL;
	}}
	qsort(items, argc, sizeof(*items), compare{n});
	int sum = 0;
	for (struct item{n} *at = items + argc - 1; items && at; at = at->next)
		sum += at->key ^ (int)strlen(at->name);
	free(items);
	return sum;
}}
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds: wall clock, user plus system of the command and all it waited for, of the daemon.

    `steal` is the share of the machine's time that the hypervisor gave to others, 0 to 1.
    """

    wall: float
    cpu: float
    steal: float
    daemon: float = 0.0


class NpmInstall:
    """`npm ci` of the tests' own package set out of a cache that is already warm."""

    name = "npm install"

    def __init__(self, root: Path) -> None:
        self._project = root / "npm"
        self._cache = root / "npm-cache"
        self._project.mkdir()
        for file in ("package.json", "package-lock.json"):
            shutil.copy(servers.REPOSITORY / "tests" / file, self._project)
        npm = servers.NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        self.command = [
            *(str(servers.NODE), str(npm), "ci", "--prefix", str(self._project)),
            *("--cache", str(self._cache), "--prefer-offline", "--ignore-scripts"),
            *("--no-audit", "--no-fund", "--loglevel=error"),
        ]

    def reset(self) -> None:
        shutil.rmtree(self._project / "node_modules", ignore_errors=True)


class CBuild:
    """`make -j2` over 96 C files with the usual system headers, and the link."""

    name = "C build"

    def __init__(self, root: Path) -> None:
        self._tree = root / "c"
        self._tree.mkdir()
        for number in range(_C_FILES):
            (self._tree / f"work{number}.c").write_text(_C_SOURCE.format(n=number))
        names = range(_C_FILES)
        declarations = "".join(f"int work{n}(int, char **);\n" for n in names)
        calls = " + ".join(f"work{n}(argc, argv)" for n in names)
        main = f"{declarations}int main(int argc, char **argv)\n{{\n\treturn ({calls}) & 1;\n}}\n"
        (self._tree / "main.c").write_text(main)
        (self._tree / "Makefile").write_text(
            "CFLAGS = -O2 -g\n"
            "program: $(patsubst %.c,%.o,$(wildcard *.c))\n\t$(CC) -o $@ $^ -lpthread\n"
        )
        self.command = ["make", "-s", "-j2", "-C", str(self._tree)]

    def reset(self) -> None:
        for file in (*self._tree.glob("*.o"), self._tree / "program"):
            file.unlink(missing_ok=True)


Work = NpmInstall | CBuild


def run(work: Work, within: Callable[[list[str]], list[str]] = list) -> Cost:
    """Do `work` by the command that `within` makes of one, after undoing what the last left."""
    work.reset()
    os.sync()
    with tempfile.NamedTemporaryFile("r") as times:
        command = within([sys.executable, "-I", "-S", "-c", _TIMED, times.name, *work.command])
        stolen, total = _machine_ticks()
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        stolen_now, total_now = _machine_ticks()
        wall, cpu = json.load(times)
    return Cost(wall, cpu, (stolen_now - stolen) / max(total_now - total, 1))


def _machine_ticks() -> tuple[int, int]:
    """Clock ticks of all CPUs that were stolen, and in all (proc_stat(5))."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)


@contextmanager
def daemon_running(directory: Path) -> Iterator[Daemon]:
    rules = {"workload.yaml": workload("bench"), "allow.yaml": ALLOW_ALL}
    with Daemon(directory, rules, shipped=True) as daemon:
        yield daemon


@contextmanager
def other_session(daemon: Daemon) -> Iterator[None]:
    """A session that exists and does nothing."""
    process = subprocess.Popen(daemon.run("bench", ["sleep", "3600"]))
    try:
        wait_until(lambda: _sessions(daemon) > 0, 10.0, "session")
        yield
    finally:
        end_tree(process)
        wait_until(lambda: _sessions(daemon) == 0, 10.0, "end of session")


def _sessions(daemon: Daemon) -> int:
    return sum(len(found["sessions"]) for found in daemon.request("ps")["workloads"])


def measure(condition: str, work: Work, directory: Path) -> Cost:
    """One run of `work` in one condition."""
    if condition in {"off", "off again"}:
        return run(work)
    if condition == "auditd":
        with audit_peer.watching(directory):
            return run(work, audit_peer.in_audited_login)
    with daemon_running(directory) as daemon:
        if condition == "unlabelled":
            with other_session(daemon):
                return _beside(daemon, work)
        if condition == "labelled":
            return _beside(daemon, work, lambda command: daemon.run("bench", command))
        return _beside(daemon, work)


def _beside(daemon: Daemon, work: Work, within: Callable[[list[str]], list[str]] = list) -> Cost:
    before = _daemon_seconds(daemon)
    cost = run(work, within)
    return replace(cost, daemon=_daemon_seconds(daemon) - before)


def _daemon_seconds(daemon: Daemon) -> float:
    times = [process.cpu_times() for process in daemon.processes()]
    return sum(each.user + each.system for each in times)


def rounds_of(conditions: list[str], work: Work, rounds: int, root: Path) -> dict[str, list[Cost]]:
    """Every condition once a round; the first run of all warms caches and is not counted."""
    run(work)
    order = random.Random(rounds)
    costs: dict[str, list[Cost]] = {condition: [] for condition in conditions}
    for number in range(rounds):
        for condition in order.sample(conditions, len(conditions)):
            directory = root / f"{work.name}-{condition}-{number}".replace(" ", "-")
            costs[condition].append(measure(condition, work, directory))
            shutil.rmtree(directory, ignore_errors=True)
    return costs


def session_start(directory: Path) -> float:
    """Median seconds that a command takes longer for being started by `agentd run`."""
    directory.mkdir()
    command = ["/bin/true"]
    with daemon_running(directory) as daemon, other_session(daemon):
        plain = [_seconds(command) for _ in range(_STARTS)]
        started = [_seconds(daemon.run("bench", command)) for _ in range(_STARTS)]
    return statistics.median(started) - statistics.median(plain)


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def summarise(costs: dict[str, list[Cost]]) -> dict[str, dict[str, float]]:
    """Medians in seconds, paired overheads over `off` in per cent with the wall's interval."""
    summary = {}
    for condition, runs in costs.items():
        others = costs["off"] if condition.startswith("off") else costs["off again"]
        pairs = list(zip(runs, costs["off"], others, strict=True))
        wall = [100 * (a.wall / math.sqrt(b.wall * c.wall) - 1) for a, b, c in pairs]
        cpu = [100 * (a.cpu / math.sqrt(b.cpu * c.cpu) - 1) for a, b, c in pairs]
        low, high = report.interval(wall)
        summary[condition] = {
            "wall_s": statistics.median(cost.wall for cost in runs),
            "cpu_s": statistics.median(cost.cpu for cost in runs),
            "daemon_cpu_s": statistics.median(cost.daemon for cost in runs),
            "wall_percent": statistics.median(wall),
            "wall_percent_low": low,
            "wall_percent_high": high,
            "cpu_percent": statistics.median(cpu),
            "steal_percent": 100 * statistics.mean(cost.steal for cost in runs),
        }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--work", choices=["npm", "c"], help="one of the two only")
    parser.add_argument(
        "--conditions",
        nargs="+",
        choices=CONDITIONS,
        default=CONDITIONS,
        help="these only, beside `off` and `off again`",
    )
    options = parser.parse_args()
    become_subreaper()
    report.disturb_less()
    conditions = ["off", "off again", *(each for each in CONDITIONS if each in options.conditions)]
    unusable = audit_peer.why_unusable() if "auditd" in conditions else "not asked for"
    if unusable is None:
        audit_peer.spare_new_tasks()
    else:
        conditions = [each for each in conditions if each != "auditd"]
    works: dict[str, type[Work]] = {"npm": NpmInstall, "c": CBuild}
    chosen = [options.work] if options.work else list(works)
    memory = Path("/dev/shm")
    results: dict[str, dict[str, dict[str, float]]] = {}
    every_run = {}
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        root = Path(directory)
        for work in [works[name](root) for name in chosen]:
            costs = rounds_of(conditions, work, options.rounds, root)
            results[work.name] = summarise(costs)
            every_run[work.name] = {
                condition: [asdict(cost) for cost in runs] for condition, runs in costs.items()
            }
        start_s = session_start(root / "start")
    _print(results, options.rounds)
    print(f"start of a session, once, by `agentd run`: {1e3 * start_s:.0f} ms")
    if unusable is None:
        print("audit: a rule `-a never,task` stays; see bench/audit_peer.py for why")
    else:
        print(f"auditd was not measured: {unusable}", file=sys.stderr)
    name = f"overhead-{options.work}" if options.work else "overhead"
    kept = {
        "rounds": options.rounds,
        "session_start_s": start_s,
        "auditd": unusable or "measured",
        "runs": every_run,
    }
    report.save(name, {**kept, **results})


def _print(results: dict[str, dict[str, dict[str, float]]], rounds: int) -> None:
    rows = [
        [f"{name}: {condition}", f"{cost['wall_s']:.2f}", f"{cost['cpu_s']:.2f}",
         f"{cost['daemon_cpu_s']:.2f}", f"{cost['wall_percent']:+.1f} %",
         f"{cost['wall_percent_low']:+.1f} .. {cost['wall_percent_high']:+.1f}",
         f"{cost['cpu_percent']:+.1f} %", f"{cost['steal_percent']:.1f} %"]
        for name, summary in results.items()
        for condition, cost in summary.items()
    ]  # fmt: skip
    header = ["work", "wall s", "CPU s", "agentd CPU s", "wall over off", "95 % interval",
              "CPU over off", "steal"]  # fmt: skip
    report.table(f"Overhead on real work, medians of {rounds} rounds", header, rows)
    for name, summary in results.items():
        for condition in filter(TARGET_PERCENT.__contains__, summary):
            limit, cost = TARGET_PERCENT[condition], summary[condition]
            between = cost["wall_percent_low"], cost["wall_percent_high"]
            value = cost["wall_percent"]
            print(report.verdict(f"{name}, {condition}, wall", value, limit, "%", between))


if __name__ == "__main__":
    main()
