"""A labelled process that does what a test says, one act in a child each.

Started once (an interpreter takes seconds to start under emulation), it reads acts from its
standard input: a line of base64 each, Python source that may set `result`. Every act runs in a
child of its own, so that one that is killed is only reported. The answer is a line of base64, too:
JSON with `result`, `error` (an errno) and the signal that ended the child.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PYTHON = "/usr/bin/python3"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an act: its result, the errno it failed with, the signal that killed it."""

    result: Any
    error: int
    signal: int


class Puppet:
    """`command` is what starts it, such as `daemon.run(WORKLOAD, Puppet.ARGV)`."""

    ARGV = (PYTHON, "-u", str(Path(__file__)))

    def __init__(self, command: Sequence[str], **popen: Any) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **popen
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)

    @property
    def pid(self) -> int:
        """Of the wrapper, where there is one."""
        return self._process.pid

    def start(self, source: str) -> None:
        """Begin an act; `finish` gives what became of it."""
        assert self._process.stdin
        self._process.stdin.write(base64.b64encode(source.encode()) + b"\n")
        self._process.stdin.flush()

    def finish(self) -> Outcome:
        """The outcome of the act that was started."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the puppet is gone: {self._process.wait(10)}"
        answer = json.loads(base64.b64decode(line))
        return Outcome(answer["result"], answer["error"], answer["signal"])

    def act(self, source: str) -> Outcome:
        """Do it, and wait for what becomes of it."""
        self.start(source)
        return self.finish()


def _perform(source: str, channel: int) -> None:
    names: dict[str, Any] = {"result": None}
    error = 0
    try:
        exec(source, names)
    except OSError as failure:
        error = failure.errno or -1
    answer = {"result": names["result"], "error": error}
    os.write(channel, json.dumps(answer, default=repr).encode())


def main() -> None:
    """Serve until the end of the input."""
    for line in sys.stdin.buffer:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                _perform(base64.b64decode(line).decode(), writing)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answers:
            text = answers.read()
        _, status = os.waitpid(child, 0)
        answer = json.loads(text) if text else {"result": None, "error": 0}
        answer["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        sys.stdout.buffer.write(base64.b64encode(json.dumps(answer).encode()) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
