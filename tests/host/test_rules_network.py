"""Connect rules: refused by the kernel in sessions with a cgroup, by kill in the others."""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.host.support.control import Message
from tests.host.support.daemon import Daemon, workload
from tests.host.support.labelled import PYTHON, Labelled, python, shell

V4, V6, MAPPED = "127.77.0.1", "::1", "::ffff:127.77.0.1"
FREE = "127.77.0.9"
"""An exception of the rule that forbids 127.77.0.0/24."""

CONNECT = """
import errno, socket, sys
address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
end = socket.socket(family)
try:
    end.connect((address, port))
    end.sendall(b"arrived")
    print("connected")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
SEND = """
import errno, socket, sys
address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
end = socket.socket(family, socket.SOCK_DGRAM)
try:
    if len(sys.argv) < 4:
        end.sendto(b"arrived", (address, port))
    else:
        end.sendmsg([b"arrived"], [], 0, (address, port))
    print("sent")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@dataclass
class Listener:
    """Takes what arrives on one port, TCP and UDP, IPv4 and IPv6."""

    port: int = 0
    got: list[bytes] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def start(self) -> None:
        for family, kind in (
            (socket.AF_INET, socket.SOCK_STREAM),
            (socket.AF_INET6, socket.SOCK_STREAM),
            (socket.AF_INET, socket.SOCK_DGRAM),
            (socket.AF_INET6, socket.SOCK_DGRAM),
        ):
            end = socket.socket(family, kind)
            if family == socket.AF_INET6:
                end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            end.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", self.port))
            self.port = end.getsockname()[1]
            self.sockets.append(end)
            if kind == socket.SOCK_STREAM:
                end.listen(16)
            threading.Thread(target=self._serve, args=(end, kind), daemon=True).start()

    def _serve(self, end: socket.socket, kind: socket.SocketKind) -> None:
        while True:
            try:
                if kind == socket.SOCK_DGRAM:
                    self.got.append(end.recv(100))
                else:
                    connection, _ = end.accept()
                    with connection:
                        self.got.append(connection.recv(100))
            except OSError:
                return

    def close(self) -> None:
        for end in self.sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@dataclass
class Place:
    daemon: Daemon
    base: Path
    closed: Listener
    """Only its port is forbidden, and only over 127.77/24 and ::1."""
    marker: Path

    def selected(self, code: str, *arguments: object) -> Labelled:
        """A session that a selector makes, which has no cgroup of its own."""
        command = [str(self.base / "agent-python"), "-S", "-E", "-c", code, *map(str, arguments)]
        return Selected(self.daemon, command)


class Selected(Labelled):
    """Told by its root process, as a selector knows of no task."""

    def __init__(self, daemon: Daemon, command: list[str]) -> None:
        self.daemon = daemon
        self.task = ""
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.output = self.errors = b""
        started = daemon.wait_for(
            lambda event: (
                event["class"] == "session.start" and event["process"]["pid"] == self.process.pid
            )
        )
        self.session = started["session"]

    def events(self, event_class: str | None = None) -> list[Message]:
        return self.daemon.events(event_class, session=self.session)

    def wait_for(self, predicate: object, timeout: float = 5.0) -> Message:
        assert callable(predicate)
        return self.daemon.wait_for(
            lambda event: event.get("session") == self.session and predicate(event), timeout
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("network")
    closed = Listener()
    closed.start()
    subprocess.run(["cp", PYTHON, base / "agent-python"], check=True)
    marker = base / "marker"
    marker.write_text("x")
    rules = [
        {
            "id": "no-connect",
            "on": "network.connect",
            "match": {
                "cidr": ["127.77.0.0/24", "::1/128"],
                "except": [f"{FREE}/32"],
                "port": closed.port,
            },
            "action": "deny",
        },
        {
            "id": "marks",
            "on": "file.open",
            "match": {"path": str(marker), "access": ["read"]},
            "action": "audit",
            "mark": ["read:secret"],
        },
        {
            "id": "after-secret",
            "on": "network.connect",
            "match": {"cidr": "127.88.0.0/16"},
            "when": 'session.has("read:secret")',
            "action": "kill",
        },
        {
            "id": "no-container-socket",
            "on": "network.connect",
            "match": {"path": f"{base}/container.sock"},
            "action": "deny",
        },
    ]
    chosen = {
        "workloads": [
            {
                "name": "selected",
                "posture": "enforce",
                "select": [{"exe": f"{base}/agent-python"}],
            }
        ]
    }
    files = {
        "workloads.yaml": workload("tested"),
        "selected.yaml": chosen,
        "rules.yaml": {"rules": rules},
    }
    with Daemon(base / "agentd", files) as daemon:
        yield Place(daemon, base, closed, marker)
    closed.close()


@pytest.mark.parametrize("address", [V4, V6, MAPPED])
def test_connect_is_refused(place: Place, address: str) -> None:
    labelled = python(place.daemon, CONNECT, address, place.closed.port)
    assert labelled.finish() == 0
    assert labelled.output == b"EPERM\n"
    assert place.closed.got == []
    (event,) = labelled.decisions("network.connect")
    assert event["network"]["port"] == place.closed.port
    assert event["network"]["address"] == (V6 if address == V6 else V4)
    decision = event["decision"]
    assert decision["rules"] == ["no-connect"]
    assert decision["outcome"] == "blocked"
    assert decision["before_effect"] is True


@pytest.mark.parametrize("address", [V4, V6, MAPPED])
@pytest.mark.parametrize("how", [[], ["sendmsg"]])
def test_send_without_connect_is_refused(place: Place, address: str, how: list[str]) -> None:
    labelled = python(place.daemon, SEND, address, place.closed.port, *how)
    assert labelled.finish() == 0
    assert labelled.output == b"EPERM\n"
    assert place.closed.got == []
    assert labelled.decisions("network.connect")[0]["decision"]["outcome"] == "blocked"


def test_exception_and_other_ports(place: Place) -> None:
    other = Listener()
    other.start()
    try:
        labelled = python(place.daemon, CONNECT, FREE, place.closed.port)
        assert labelled.finish() == 0
        assert labelled.output == b"connected\n"
        assert labelled.decisions("network.connect") == []
        labelled = python(place.daemon, CONNECT, V4, other.port)
        assert labelled.finish() == 0
        assert labelled.output == b"connected\n"
    finally:
        other.close()
        place.closed.got.clear()


def test_many_refusals_are_folded(place: Place) -> None:
    code = (
        f"for each in range(300):\n  sys.argv = ['x', '{V4}', '{place.closed.port}']\n"
        + "".join(f"  {line}\n" for line in CONNECT.strip().splitlines()[1:])
    )
    labelled = python(place.daemon, "import errno, socket, sys\n" + code)
    assert labelled.finish() == 0
    assert labelled.output.count(b"EPERM") == 300
    events = labelled.events("network.connect")
    assert len(events) < 20
    assert events[-1]["count"] == 256
    assert labelled.events("session.end")[0]["totals"]["network"] >= 300


def test_what_is_allowed_is_folded_by_endpoint_though_rules_see_each(place: Place) -> None:
    """An endpoint of IPv4 is one, whatever the family of the socket."""
    code = """
import socket, sys
for each in range(128):
    for family, host in (socket.AF_INET, ""), (socket.AF_INET6, "::ffff:"):
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            end.connect((host + sys.argv[1], int(sys.argv[2])))
"""
    labelled = python(place.daemon, code, FREE, place.closed.port)
    assert labelled.finish() == 0, labelled.errors
    events = labelled.events("network.connect")
    assert [event.get("count", 1) for event in events] == [2**n for n in range(9)]
    assert {event["network"]["family"] for event in events} == {"ipv4"}
    assert labelled.events("session.end")[0]["totals"]["network"] == 256


def test_session_without_cgroup_is_killed(place: Place) -> None:
    code = "import sys\nsys.stdin.readline()\n" + CONNECT + "sys.stdin.readline()\n"
    labelled = place.selected(code, V4, place.closed.port)
    assert labelled.process.stdin is not None
    labelled.process.stdin.write(b"\n")
    labelled.process.stdin.flush()
    assert labelled.process.wait(10) == -9
    labelled.finish()
    place.closed.got.clear()
    decision = labelled.decisions("network.connect")[0]["decision"]
    assert decision["outcome"] == "killed"
    assert decision["before_effect"] is False


def test_datagram_of_a_session_without_cgroup(place: Place) -> None:
    code = "import sys\nsys.stdin.readline()\n" + SEND + "sys.stdin.readline()\n"
    labelled = place.selected(code, V4, place.closed.port)
    labelled.process.stdin.write(b"\n")  # type: ignore[union-attr]
    labelled.process.stdin.flush()  # type: ignore[union-attr]
    assert labelled.process.wait(10) == -9
    labelled.finish()
    place.closed.got.clear()
    assert labelled.decisions("network.connect")[0]["decision"]["outcome"] == "killed"


def test_connect_after_a_secret_was_read(place: Place) -> None:
    """Connects before are let through, the next one afterwards ends the process."""
    code = f"""
import socket, sys
def connect():
    with socket.socket() as end:
        end.connect_ex(("127.88.0.1", {place.closed.port}))
for each in range(6):
    connect()
print("before", flush=True)
open("{place.marker}").read()
connect()
sys.stdin.readline()
print("after")
"""
    labelled = python(place.daemon, code)
    assert labelled.process.wait(10) == -9
    labelled.finish()
    place.closed.got.clear()
    assert labelled.output == b"before\n"
    decided = labelled.decisions("network.connect")
    assert len(decided) == 1
    assert decided[0]["decision"]["rules"] == ["after-secret"]
    assert decided[0]["decision"]["before_effect"] is False
    assert labelled.decisions("file.open")[0]["decision"]["marks"] == ["read:secret"]


@pytest.mark.parametrize("how", ["absolute", "relative", "directory-link"])
def test_unix_socket_by_its_true_path(place: Place, how: str) -> None:
    path = place.base / "container.sock"
    path.unlink(missing_ok=True)
    link = place.base / "linked"
    if not link.is_symlink():
        link.symlink_to(place.base)
    given = {"absolute": path, "relative": "container.sock", "directory-link": link / path.name}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        code = """
import os, socket, sys
os.chdir(sys.argv[1])
end = socket.socket(socket.AF_UNIX)
end.connect(sys.argv[2])
sys.stdin.readline()
"""
        labelled = python(place.daemon, code, place.base, given[how])
        assert labelled.process.wait(10) == -9
        labelled.finish()
    event = labelled.decisions("network.connect")[0]
    assert event["network"]["path"] == str(path)
    assert event["decision"]["before_effect"] is False


def test_unlabelled_processes_connect(place: Place) -> None:
    done = subprocess.run(
        [PYTHON, "-c", CONNECT, V4, str(place.closed.port)], capture_output=True, check=True
    )
    assert done.stdout == b"connected\n"
    place.closed.got.clear()


def test_what_acts_late_is_said_at_load(place: Place) -> None:
    loaded = place.daemon.events("policy.loaded")[0]["policy"]["notes"]
    noted = {note["rule"] for note in loaded}
    assert {"after-secret", "no-container-socket"} <= noted
    assert "no-connect" not in noted
    assert "agentd: rule after-secret: " in place.daemon.log.read_text()


def test_moving_to_another_cgroup_keeps_the_label(place: Place) -> None:
    """Root can leave the session's cgroup; then the rule acts by kill."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    roots = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    if not roots:
        pytest.skip("no cgroup2")
    procs = f"{roots[0]}/cgroup.procs"
    labelled = shell(
        place.daemon,
        f"echo $$ > {procs}; {PYTHON} -S -E -c '{CONNECT}' {V4} {place.closed.port}; read line",
    )
    event = labelled.wait_for(lambda e: e["class"] == "network.connect" and "decision" in e)
    os.kill(labelled.process.pid, 0)
    labelled.finish(b"\n")
    place.closed.got.clear()
    assert event["decision"]["outcome"] == "killed"
