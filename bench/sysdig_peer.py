"""sysdig's modern eBPF probe as the peer: the same calls watched, of programs of one name.

    python -m bench.sysdig_peer       # once, where there is a network: fetches it into the cache

Debian 12 has a sysdig without that probe, so it is taken from Debian's newest suite, with all that
it needs, unpacked and run by its own loader: nothing is installed. Run it in the lab only: the
probe sees every task of the machine, the filter is sysdig's own.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.host.support.processes import wait_until
from tests.lab.support.debian import Apt

_CACHE: Final = Path(os.environ.get("AGENTD_BENCH_CACHE", "/var/cache/agentd-bench"))
_ROOT: Final = _CACHE / "sysdig"
_SUITES: Final = ("sid", "forky")
_READY_S: Final = 600.0  # an emulated machine verifies its programs for minutes
_WATCHED: Final = "evt.type in (open, openat, openat2, creat, execve, execveat, connect)"


def why_unusable() -> str | None:
    """Why sysdig cannot be measured here, or None when it can."""
    if not _ROOT.is_dir():
        return "it is not in the cache (python -m bench.sysdig_peer, where there is a network)"
    return None


def fetch() -> str:
    """Brings sysdig into the cache, if it is not there; returns its version."""
    if not _ROOT.is_dir():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=_CACHE) as name:
            apt = Apt(Path(name), _SUITES)
            apt.set_up()
            apt.unpack(apt.needed_by("sysdig")).rename(_ROOT)
    said = subprocess.run(_sysdig("--version"), check=True, capture_output=True, text=True)
    return said.stdout.strip()


@contextmanager
def watching(directory: Path, program: str) -> Iterator[Path]:
    """Captures those calls of programs of this name into a file, which it yields.

    Raises SystemExit when nothing has been captured by the end.
    """
    directory.mkdir(parents=True, exist_ok=True)
    captured, log = directory / "sysdig.scap", directory / "sysdig.log"
    wanted = f"proc.name={program} and {_WATCHED}"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            _sysdig("--modern-bpf", "-w", str(captured), wanted), stdout=sink, stderr=sink
        )
    try:
        wait_until(lambda: _attached(process), _READY_S, f"sysdig's probe, see {log}", interval=0.5)
        yield captured
    finally:
        process.terminate()
        process.wait(60)
    seen = subprocess.run(
        _sysdig("-r", str(captured), "-p", "%evt.type"), capture_output=True, text=True, check=False
    ).stdout
    if not {"openat", "execve", "connect"} <= {*seen.split()}:
        raise SystemExit(f"sysdig has not seen the calls: {seen[:300]!r}\n{log.read_text()}")


def _attached(process: subprocess.Popen[bytes]) -> bool:
    """Whether it holds the attachments of its programs. Raises SystemExit if it has ended."""
    if process.poll() is not None:
        raise SystemExit(f"sysdig ended with {process.returncode}")
    links = 0
    for fd in Path(f"/proc/{process.pid}/fdinfo").iterdir():
        try:
            links += fd.read_text().count("link_type")
        except OSError:
            continue
    return links > 1


def _sysdig(*words: str) -> list[str]:
    libraries = _ROOT / "usr/lib/x86_64-linux-gnu"
    loader = _ROOT / "usr/lib64/ld-linux-x86-64.so.2"
    return [str(loader), "--library-path", str(libraries), str(_ROOT / "usr/bin/sysdig"), *words]


if __name__ == "__main__":
    print(fetch(), file=sys.stderr)
