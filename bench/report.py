"""Printing and keeping what a benchmark measured."""

import json
import os
import platform
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent / "out"


def disturb_less() -> None:
    """Raise this process and all it starts above other work on the machine (nice -15).

    It holds for every condition alike: client, server, agentd and its peer.
    """
    os.setpriority(os.PRIO_PROCESS, 0, -15)


def quantile(values: Sequence[float], percent: int) -> float:
    """The `percent`-th percentile (1 to 99), interpolated; needs two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def interval(values: Sequence[float], confidence: int = 95) -> tuple[float, float]:
    """A confidence interval (in per cent) of the median of a population, from a sample of it.

    By the bootstrap: percentiles of the medians of 4,000 samples drawn from the sample. The same
    values give the same interval.
    """
    draw = random.Random(len(values))
    medians = [statistics.median(draw.choices(values, k=len(values))) for _ in range(4000)]
    outside = (100 - confidence) / 200
    ordered = sorted(medians)
    last = len(ordered) - 1
    return ordered[round(outside * last)], ordered[round((1 - outside) * last)]


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a title and columns: the first flush left, the others flush right."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        first = row[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([first, *others]).rstrip())


def verdict(
    what: str,
    value: float,
    limit: float,
    unit: str,
    between: tuple[float, float] | None = None,
    *,
    at_least: bool = False,
    digits: int = 1,
) -> str:
    """One line that holds a measured value against its target, with `digits` decimals.

    `between` is the value's confidence interval; the line says so if the limit lies in it.
    """
    met = value >= limit if at_least else value <= limit
    sign = ">=" if at_least else "<="
    measured = f"{value:,.{digits}f} {unit}"
    line = f"{'ok  ' if met else 'MISS'} {what}: {measured} (target {sign} {limit:g} {unit})"
    if between is not None and between[0] <= limit <= between[1]:
        line += f"; not certain, 95 % interval {between[0]:+.1f} to {between[1]:+.1f} {unit}"
    return line


def save(name: str, result: dict[str, Any]) -> None:
    """Write `bench/out/NAME.json` with the machine it was measured on."""
    OUTPUT.mkdir(exist_ok=True)
    machine = {"kernel": platform.release(), "machine": platform.machine(), "cores": _cores()}
    text = json.dumps({"machine": machine, **result}, indent=2)
    (OUTPUT / f"{name}.json").write_text(text + "\n")


def _cores() -> int:
    return sum(line.startswith("processor") for line in _cpuinfo())


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
