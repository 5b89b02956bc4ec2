"""How fast the daemon starts and how much memory it takes: all its processes together.

The shipped rules are loaded, and events are streamed to a real NATS server. RSS is VmRSS, and its
sum counts a page that three processes share three times; PSS divides such a page among them, so
its sum is what the daemon takes from the machine. Both are measured idle and after a load of held
tool calls and of processes, files and connections in a labelled session.
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
from tests.host.support.nats import NatsServer
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


def memory(daemon: Daemon) -> dict[str, tuple[float, float]]:
    """RSS and PSS in MB by process, named by its Python module, and the sums."""
    found: dict[str, tuple[float, float]] = {}
    for process in daemon.processes():
        words = process.cmdline()
        sizes = process.memory_full_info()
        found[words[words.index("-m") + 1]] = (sizes.rss / 1e6, sizes.pss / 1e6)
    rss, pss = zip(*found.values(), strict=True)
    return {**found, "all processes": (sum(rss), sum(pss))}


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
    report.disturb_less()
    rules = {"workload.yaml": workload("loaded"), "allow.yaml": ALLOW_ALL}
    ready = []
    with tempfile.TemporaryDirectory() as root:
        for number in range(starts):
            with Daemon(Path(root, f"start{number}"), rules, shipped=True) as daemon:
                ready.append(daemon.ready_s)
        with (
            NatsServer(Path(root, "nats")) as nats,
            Daemon(
                Path(root, "memory"),
                rules,
                shipped=True,
                settings={"nats": {"servers": [nats.url]}},
            ) as daemon,
        ):
            time.sleep(2.0)
            idle = memory(daemon)
            load(daemon, Path(root))
            loaded = memory(daemon)
    median = statistics.median(ready)
    starting = [["median", f"{median:.2f}"], ["slowest", f"{max(ready):.2f}"]]
    report.table(f"Start to READY, {starts} times", ["", "seconds"], starting)
    rows = [
        [f"{when}: {name}", f"{rss:.1f}", f"{pss:.1f}"]
        for when, sizes in (("idle", idle), ("after load", loaded))
        for name, (rss, pss) in sizes.items()
    ]
    report.table("Memory", ["", "RSS MB", "PSS MB"], rows)
    print(report.verdict("start to READY", median, TARGET_READY_S, "s"))
    for when, sizes in (("idle", idle), ("after load", loaded)):
        print(report.verdict(f"RSS {when}", sizes["all processes"][0], TARGET_RSS_MB, "MB"))
    report.save("daemon", {"ready_s": ready, "idle_mb": idle, "loaded_mb": loaded})


if __name__ == "__main__":
    main()
