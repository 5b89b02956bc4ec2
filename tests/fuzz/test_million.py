"""One million inputs through framing, JSON-RPC, conversations and rewriting."""

import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import pytest

from agentd.mcp.jsonrpc import parse
from tests.fuzz import oracles
from tests.fuzz.generate import Conversations, Mutations, transcript_lines

REPOSITORY = Path(__file__).parents[2]
SEED = 20261123

INTERLEAVED, DAMAGED, REFUSED, GUIDED = 350_000, 250_000, 150_000, 250_000


def interleaved(count: int, seed: int) -> int:
    """Run pairs of well-formed conversations with clashing ids, cut and interleaved."""
    make, rng = Conversations(seed), Random(seed)
    for _ in range(count):
        oracles.interleaved(make.script("left"), make.script("right"), rng.getrandbits(40))
    return count


def damaged(count: int, seed: int) -> int:
    """Run damaged streams, whole and cut."""
    make = Mutations(seed)
    done = 0
    while done < count:
        chunks = make.cuts(make.stream())
        if chunks:
            oracles.observed(oracles.any_cut(chunks))
            done += 1
    return count


def refused(count: int, seed: int) -> int:
    """Refuse damaged messages that can still be read, whole and from a split on."""
    make = Mutations(seed)
    done = 0
    while done < count:
        line = make.stream().replace(b"\n", b" ")
        if parse(line):
            oracles.refused(line + b"\n", make.split(len(line)))
            done += 1
    return count


def guided(count: int, seed: int, work: Path) -> int:
    """Run the atheris harness in a process of its own; returns the runs it says it did."""
    corpus = work / "corpus"
    corpus.mkdir()
    for number, (_, line) in enumerate(transcript_lines()):
        if len(line) < 600:
            (corpus / f"{number:03}").write_bytes(bytes((number, number * 7 % 256, number)) + line)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fuzz.atheris_mcp",
            f"-runs={count}",
            f"-seed={seed}",
            "-max_len=700",
            f"-artifact_prefix={work}/",
            str(corpus),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    said = re.search(r"Done (\d+) runs", done.stderr)
    assert said, done.stderr[-2000:]
    return int(said[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_million_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ProcessPoolExecutor() as pool:
        runs = {
            "interleaved conversations": pool.submit(interleaved, INTERLEAVED, SEED),
            "atheris": pool.submit(guided, GUIDED, SEED + 3, tmp_path),
            "refused messages": pool.submit(refused, REFUSED, SEED + 2),
            "damaged streams": pool.submit(damaged, DAMAGED, SEED + 1),
        }
        counts = {name: run.result() for name, run in runs.items()}
    total = sum(counts.values())
    with capsys.disabled():
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        print(f"\nfuzz: {total:,} inputs ({parts})")
    assert total >= 1_000_000
