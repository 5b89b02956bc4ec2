"""Latency of MCP tool calls: without agentd, observed, and held by it.

Two real servers, two clients: PyPI's `mcp` and a lean one that writes JSON-RPC lines to a pipe,
so that the client's own noise does not hide the figure. Every round starts each server afresh in
each condition, warms it up, and measures a block of calls; the order turns from round to round, so
that drift of the machine cancels, and the two that are compared follow each other. "Without" means
that no daemon runs at all. Blocks are long: one call in a hundred meets a garbage collection of the
server or the client, always the same ones, so that the p99 of a short block depends on where it
begins.

Each pair is measured in two placements: where the scheduler puts client and server ("spread"), and
with both on one CPU ("together"), as a pair that takes turns can be. It makes a difference: in a
virtual machine each wake-up of another CPU costs as much as a judgement (what it costs here is
printed), and with no more than two CPUs a client that works on while its server does has a rival in
the engine.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mcp
from mcp.client.stdio import StdioServerParameters, stdio_client

from bench import report
from tests.host.support import servers
from tests.host.support.daemon import ALLOW_ALL, Daemon, workload
from tests.host.support.processes import become_subreaper
from tests.host.support.stdio_client import StdioClient

CONDITIONS = ("without", "observed", "held")
ORDER = ("without", "held", "observed")
WARM_UP = 1000
BLOCK = 2000
HAND_OVERS = 2000
TARGET_P50_US = 150.0
TARGET_P99_US = 600.0

Samples = dict[str, list[list[int]]]
Client = Callable[[list[str], str, dict[str, Any]], list[int]]


def lean(command: list[str], tool: str, arguments: dict[str, Any]) -> list[int]:
    """Round trips in nanoseconds, by the lean client."""
    with StdioClient(command) as client:
        client.initialize()
        for _ in range(WARM_UP):
            client.call(tool, arguments)
        return [client.timed_call(tool, arguments) for _ in range(BLOCK)]


def library(command: list[str], tool: str, arguments: dict[str, Any]) -> list[int]:
    """Round trips in nanoseconds, by PyPI's mcp client."""
    return asyncio.run(_library(command, tool, arguments))


async def _library(command: list[str], tool: str, arguments: dict[str, Any]) -> list[int]:
    parameters = StdioServerParameters(command=command[0], args=command[1:])
    samples = []
    with Path("/dev/null").open("w") as discarded:
        async with (
            stdio_client(parameters, errlog=discarded) as (read, write),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            for index in range(WARM_UP + BLOCK):
                start = time.perf_counter_ns()
                await session.call_tool(tool, arguments)
                if index >= WARM_UP:
                    samples.append(time.perf_counter_ns() - start)
    return samples


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """This process, and what it starts meanwhile, stay on the first of its CPUs."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def together(client: Client) -> Client:
    """The client, which then runs on one CPU together with its server."""

    def placed(command: list[str], tool: str, arguments: dict[str, Any]) -> list[int]:
        with on_one_cpu():
            return client(command, tool, arguments)

    return placed


def hand_over_us(cpu: int) -> float:
    """Median microseconds in which a byte comes back that a process on `cpu` is sent."""
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(there[1])
        os.sched_setaffinity(0, {cpu})
        while os.read(there[0], 1):
            os.write(back[1], b".")
        os._exit(0)
    taken = []
    with on_one_cpu():
        for _ in range(HAND_OVERS):
            start = time.perf_counter_ns()
            os.write(there[1], b".")
            os.read(back[0], 1)
            taken.append((time.perf_counter_ns() - start) / 1e3)
    for end in (*there, *back):
        os.close(end)
    os.waitpid(child, 0)
    return statistics.median(taken)


def measure(
    client: Client, command: list[str], tool: str, arguments: dict[str, Any], rounds: int
) -> Samples:
    """Blocks of round trips by condition."""
    samples: Samples = {condition: [] for condition in CONDITIONS}
    for number in range(rounds):
        order = ORDER if number % 2 == 0 else ORDER[::-1]
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            daemon: Daemon | None = None
            for condition in order:
                if condition == "without":
                    stack.pop_all().close()
                    daemon = None
                    samples[condition].append(client(command, tool, arguments))
                    continue
                if daemon is None:
                    daemon = stack.enter_context(_daemon(Path(directory)))
                samples[condition].append(client(daemon.run(condition, command), tool, arguments))
    return samples


def _daemon(directory: Path) -> Daemon:
    rules = {
        "observed.yaml": workload("observed", "observe"),
        "held.yaml": workload("held", "enforce"),
        "allow.yaml": ALLOW_ALL,
    }
    return Daemon(directory, rules)


def summarise(samples: Samples) -> dict[str, dict[str, float]]:
    """p50 and p99 in microseconds over all calls, by condition, and minus those without.

    "By round" is the median over rounds of the differences within a round, which neither drift of
    the machine nor one burst of foreign load can move, with its interval; the plain differences are
    kept beside it.
    """
    summary: dict[str, dict[str, float]] = {}
    base = [value / 1e3 for block in samples["without"] for value in block]
    for condition, blocks in samples.items():
        calls = [value / 1e3 for block in blocks for value in block]
        pairs = list(zip(blocks, samples["without"], strict=True))
        summary[condition] = {
            "calls": len(calls),
            "p50_us": report.quantile(calls, 50),
            "p99_us": report.quantile(calls, 99),
            "p50_minus_us": report.quantile(calls, 50) - report.quantile(base, 50),
            "p99_minus_us": report.quantile(calls, 99) - report.quantile(base, 99),
        }
        for percent in (50, 99):
            differences = [
                (report.quantile(block, percent) - report.quantile(without, percent)) / 1e3
                for block, without in pairs
            ]
            name = f"p{percent}_by_round_us"
            low, high = report.interval(differences)
            summary[condition] |= {
                name: statistics.median(differences),
                f"{name}_low": low,
                f"{name}_high": high,
            }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help=f"of {BLOCK} calls per condition")
    options = parser.parse_args()
    become_subreaper()
    report.disturb_less()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        file = Path(root, "note.txt")
        file.write_text("A short file.\n")
        calls: dict[str, tuple[list[str], str, dict[str, Any]]] = {
            "filesystem read_text_file": (
                servers.filesystem(Path(root)),
                "read_text_file",
                {"path": str(file)},
            ),
            "everything echo": (servers.everything(), "echo", {"message": "hello"}),
        }
        clients: dict[str, Client] = {
            "lean client, spread": lean,
            "lean client, together": together(lean),
            "mcp client, spread": library,
            "mcp client, together": together(library),
        }
        for name, call in calls.items():
            for client_name, client in clients.items():
                samples = measure(client, *call, options.rounds)
                results[f"{name}, {client_name}"] = summarise(samples)
    _print(results)
    for cpu in sorted(os.sched_getaffinity(0)):
        print(f"a byte to CPU {cpu} and back: {hand_over_us(cpu):.1f} us")
    report.save("tool_calls", results)


def _print(results: dict[str, dict[str, dict[str, float]]]) -> None:
    columns = (
        *("p50_us", "p99_us", "p50_minus_us", "p99_minus_us"),
        *("p50_by_round_us", "p99_by_round_us"),
    )
    rows = [
        [f"{name}: {condition}", f"{figures['calls']:.0f}"]
        + [f"{figures[column]:.0f}" for column in columns]
        for name, conditions in results.items()
        for condition, figures in conditions.items()
    ]
    header = ["tool call", "calls", "p50 us", "p99 us", "p50 minus", "p99 minus",
              "p50 by round", "p99 by round"]  # fmt: skip
    report.table("Tool-call latency (minus: over without agentd)", header, rows)
    for name, conditions in results.items():
        held = conditions["held"]
        for percent, target in ((50, TARGET_P50_US), (99, TARGET_P99_US)):
            figure = f"p{percent}_by_round_us"
            between = held[f"{figure}_low"], held[f"{figure}_high"]
            what = f"{name}, held, p{percent}"
            print(report.verdict(what, held[figure], target, "us", between))


if __name__ == "__main__":
    main()
