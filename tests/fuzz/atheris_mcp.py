"""Coverage-guided fuzzing of framing, JSON-RPC, conversations and rewriting.

    python -m tests.fuzz.atheris_mcp [-runs=N] [-max_total_time=SECONDS] [CORPUS_DIR]

The first byte chooses the oracle, the next two how the rest is cut; the rest is a byte stream.
"""

import sys

import atheris

with atheris.instrument_imports(include=["agentd"]):
    from agentd.enforce import rewrite, tail  # noqa: F401
    from agentd.mcp import connection, framing, jsonrpc, stream  # noqa: F401

from tests.fuzz import oracles


def one_input(data: bytes) -> None:
    """Check one input."""
    if len(data) < 4:
        return
    choice, step, at, body = data[0] % 3, data[1] + 1, data[2], data[3:]
    if choice == 0:
        chunks = [body[start : start + step] for start in range(0, len(body), step)]
        oracles.observed(oracles.any_cut(chunks))
    elif choice == 1:
        oracles.any_cut([body[: at % len(body)], body[at % len(body) :]])
    else:
        line = body.replace(b"\n", b" ")
        if jsonrpc.parse(line):
            oracles.refused(line, at * len(line) // 256)


def main() -> None:
    """Fuzz as the command line says."""
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
