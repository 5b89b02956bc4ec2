"""sysdig's modern eBPF probe as the peer: the same calls watched, of programs of one name.

    make lab KERNEL=6.12 CMD='AGENTD_BENCH_SYSDIG=/usr/bin/sysdig python -m bench.kernel'

Measured is the sysdig that AGENTD_BENCH_SYSDIG names, or else the one on PATH. Debian builds its
own without that probe: take upstream's package (https://github.com/draios/sysdig/releases). Run it
in the lab only: the probe sees every task of the machine, the filter is sysdig's own.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.host.support.processes import wait_until

_VARIABLE: Final = "AGENTD_BENCH_SYSDIG"
_POWERLESS: Final = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
_LACKING: Final = ("engine is not supported in this build", "unrecognized option")
_MODERN: Final = ("--modern-bpf", "--cpus-for-each-buffer", "1")  # one for two needs two CPUs
_ASKED_S: Final = 60.0
_READY_S: Final = 600.0  # an emulated machine verifies its programs for minutes
_WATCHED: Final = "evt.type in (open, openat, openat2, creat, execve, execveat, connect)"


class NotStartedError(Exception):
    """It has the probe, and the probe does not run on this kernel."""


def why_unusable() -> str | None:
    """Why sysdig cannot be measured here, or None when it can.

    Asked is sysdig itself, by a capture without any capability: a build that has the engine is
    refused by the kernel, one that lacks it says so.
    """
    program = _program()
    if program is None:
        return f"{_VARIABLE} names none, and none is on PATH (upstream has packages)"
    said = subprocess.run(
        [*_POWERLESS, program, *_MODERN, "-n", "1"],
        capture_output=True, text=True, check=False, timeout=_ASKED_S,
    )  # fmt: skip
    if any(words in said.stderr for words in _LACKING):
        return f"{program} is built without the modern eBPF probe, upstream's package has it"
    return None


def _program() -> str | None:
    return shutil.which(os.environ.get(_VARIABLE, "sysdig"))


@contextmanager
def watching(directory: Path, name: str) -> Iterator[Path]:
    """Captures those calls of programs of this name into a file, which it yields.

    Raises NotStartedError when sysdig does not start, SystemExit when it has not captured each of
    the calls by the end.
    """
    program = _program()
    assert program is not None, why_unusable()
    directory.mkdir(parents=True, exist_ok=True)
    captured, log = directory / "sysdig.scap", directory / "sysdig.log"
    wanted = f"proc.name={name} and {_WATCHED}"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [program, *_MODERN, "-w", captured, wanted], stdout=sink, stderr=sink
        )
    try:
        wait_until(
            lambda: _attached(process, log), _READY_S, f"sysdig's probe, see {log}", interval=0.5
        )
        yield captured
    finally:
        process.terminate()
        process.wait(60)
    seen = subprocess.run(
        [program, "-r", captured, "-p", "%evt.type"], capture_output=True, text=True, check=False
    ).stdout
    if not {"openat", "execve", "connect"} <= {*seen.split()}:
        raise SystemExit(f"sysdig has not seen the calls: {seen[:300]!r}\n{log.read_text()}")


def _attached(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether it holds the attachments of its programs. Raises NotStartedError."""
    if process.poll() is not None:
        said = " ".join(log.read_text().split())
        raise NotStartedError(f"it ended with {process.returncode}: {said}")
    links = 0
    for fd in Path(f"/proc/{process.pid}/fdinfo").iterdir():
        try:
            links += fd.read_text().count("link_type")
        except OSError:
            continue
    return links > 1
