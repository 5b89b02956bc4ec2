"""How fast the daemon starts and how much memory it takes: all its processes together.

The shipped rules are loaded. Memory is the sum of VmRSS over supervisor, engine and publisher
(pages that they share are counted once for each), idle and after a load of held tool calls and
of processes, files and connections in a labelled session.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import report
from tests.host.support import servers
from tests.host.support.daemon import ALLOW_ALL, Daemon, workload
from tests.host.support.processes import become_subreaper
from tests.host.support.stdio_client import StdioClient

TARGET_READY_S = 1.5
TARGET_RSS_MB = 90.0
HELD_CALLS = 2000
_ACTIVITY = """
import os, socket, subprocess, sys
for number in range(300):
    subprocess.run(["/bin/true"])
for number in range(3000):
    path = os.path.join(sys.argv[1], f"file{number}")
    open(path, "w").close()
    os.unlink(path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", 10000 + number))
"""


def memory(daemon: Daemon) -> dict[str, float]:
    """VmRSS in MB by process, named after its role on its command line, and the sum."""
    by_process: dict[str, float] = {}
    for process in daemon.processes():
        name = f"{process.pid} {' '.join(process.cmdline())[-60:]}"
        by_process[name] = process.memory_info().rss / 1e6
    return {**by_process, "sum": sum(by_process.values())}


def load(daemon: Daemon, directory: Path) -> None:
    """Hold 2,000 tool calls and make some thousand host events."""
    with StdioClient(daemon.run("loaded", servers.everything())) as client:
        client.initialize()
        for _ in range(HELD_CALLS):
            client.call("echo", {"message": "x" * 200})
    command = [sys.executable, "-c", _ACTIVITY, str(directory)]
    subprocess.run(daemon.run("loaded", command), check=True)
    time.sleep(2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=10)
    starts = parser.parse_args().starts
    become_subreaper()
    rules = {"workload.yaml": workload("loaded"), "allow.yaml": ALLOW_ALL}
    ready = []
    with tempfile.TemporaryDirectory() as root:
        for number in range(starts):
            with Daemon(Path(root, f"start{number}"), rules, shipped=True) as daemon:
                ready.append(daemon.ready_s)
        with Daemon(Path(root, "memory"), rules, shipped=True) as daemon:
            time.sleep(2.0)
            idle = memory(daemon)
            load(daemon, Path(root))
            loaded = memory(daemon)
    median = statistics.median(ready)
    rows = [
        *([f"start to READY, {what} of {starts}", f"{value:.2f} s"]
          for what, value in (("median", median), ("slowest", max(ready)))),
        *([f"RSS idle: {name}", f"{value:.1f} MB"] for name, value in idle.items()),
        *([f"RSS after load: {name}", f"{value:.1f} MB"] for name, value in loaded.items()),
    ]  # fmt: skip
    report.table("The daemon", ["what", "value"], rows)
    print(report.verdict("start to READY", median, TARGET_READY_S, "s"))
    print(report.verdict("RSS idle", idle["sum"], TARGET_RSS_MB, "MB"))
    print(report.verdict("RSS after load", loaded["sum"], TARGET_RSS_MB, "MB"))
    report.save("daemon", {"ready_s": ready, "rss_idle_mb": idle, "rss_loaded_mb": loaded})


if __name__ == "__main__":
    main()
