"""Sessions that selectors make: of processes that exist, and of those that come to match later.

Every selector names something that only this test has, so that nothing else on the host matches.
"""

import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.host.support.control import Message
from tests.host.support.daemon import Daemon
from tests.host.support.labelled import PYTHON
from tests.host.support.processes import end_tree, wait_until

StartDaemon = Callable[..., Daemon]
Agent = Callable[..., "subprocess.Popen[bytes]"]
TOKEN = f"agentd-test-{uuid.uuid4().hex}"
READY = "import os, sys, time\nprint('ready', flush=True)\nsys.stdin.readline()\n"
ACT = "os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT))\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An interpreter with a path of its own."""
    copy = tmp_path / "bin" / "agent"
    copy.parent.mkdir()
    shutil.copy(PYTHON, copy)
    return copy


@pytest.fixture
def start() -> Iterator[Agent]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: object, **options: object) -> "subprocess.Popen[bytes]":
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **options,  # type: ignore[call-overload]
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield begin
    for process in started:
        end_tree(process)


def rules(**selector: object) -> dict[str, Message]:
    return {"w.yaml": {"workloads": [{"name": "chosen", "select": [selector]}]}}


def go_on(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def labelled_pids(daemon: Daemon) -> set[int]:
    sessions = daemon.request("ps")["workloads"][0]["sessions"]
    return {process["pid"] for session in sessions for process in session["processes"]}


def opened(daemon: Daemon, file: Path) -> Message:
    return daemon.wait_for(
        lambda e: e["class"] == "file.open" and e["file"]["path"] == str(file), what=f"open {file}"
    )


def test_executable_that_starts_later(
    start_daemon: StartDaemon, program: Path, start: Agent, tmp_path: Path
) -> None:
    daemon = start_daemon(rules=rules(exe=f"{program.parent}/a*"))
    file = tmp_path / "effect"
    agent = start(program, "-S", "-c", READY + ACT, file)
    daemon.wait_for(lambda e: e["class"] == "session.start")
    go_on(agent)
    agent.wait(10)
    assert opened(daemon, file)["workload"] == "chosen"
    daemon.wait_for(lambda e: e["class"] == "session.end")


def test_exec_of_a_match_takes_children_that_exist(
    start_daemon: StartDaemon, program: Path, start: Agent, tmp_path: Path
) -> None:
    """A process forks, then becomes the agent: the child is older than the label."""
    daemon = start_daemon(rules=rules(exe=str(program)))
    file = tmp_path / "effect"
    child = "import os, sys, time\ntime.sleep(0.5)\n" + ACT
    code = f"""
import os, subprocess, sys
subprocess.Popen([{PYTHON!r}, "-S", "-c", {child!r}, sys.argv[1]])
os.execv(sys.argv[2], [sys.argv[2], "-S", "-c", {READY!r}])
"""
    agent = start(PYTHON, "-c", code, file, program)
    event = opened(daemon, file)
    assert event["process"]["ppid"] == agent.pid
    assert len(daemon.events("session.start")) == 1


def test_processes_that_are_older_than_the_daemon(
    start_daemon: StartDaemon, program: Path, start: Agent, tmp_path: Path
) -> None:
    file = tmp_path / "effect"
    code = f"""
import os, sys
if os.fork() == 0:
    if os.fork() == 0:
        {READY.replace(chr(10), "; ")}
        {ACT.strip()}
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
"""
    agent = start(program, "-S", "-c", code, file)
    tree = {agent.pid, *(p.pid for p in psutil.Process(agent.pid).children(recursive=True))}
    assert len(tree) == 3
    daemon = start_daemon(rules=rules(exe=str(program)))
    assert labelled_pids(daemon) == tree
    sessions = daemon.request("ps")["workloads"][0]["sessions"]
    assert len(sessions) == 1
    assert [row["depth"] for row in sessions[0]["processes"]] == [0, 1, 2]
    go_on(agent)
    agent.wait(10)
    ancestry = [above["pid"] for above in opened(daemon, file)["process"]["ancestry"]]
    assert agent.pid in ancestry


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({"argv": ["*", f"--{TOKEN}=*"]}, True),
        ({"argv": [f"--{TOKEN}=7", "--absent"]}, False),
        ({"argv": [f"--{TOKEN}=*"], "uid": [os.getuid()]}, True),
        ({"argv": [f"--{TOKEN}=*"], "uid": "nobody"}, False),
        ({"env": {"AGENTD_TEST": f"{TOKEN}*"}}, True),
        ({"env": {"AGENTD_TEST": "other*"}, "argv": [f"--{TOKEN}=*"]}, False),
    ],
)
def test_arguments_user_and_environment(
    start_daemon: StartDaemon, start: Agent, selector: Message, matches: bool
) -> None:
    environment = {**os.environ, "AGENTD_TEST": f"{TOKEN}-x"}
    command = (PYTHON, "-S", "-c", READY, f"--{TOKEN}=7")
    before = start(*command, env=environment)
    daemon = start_daemon(rules=rules(**selector))
    after = start(*command, env=environment)
    if matches:
        wait_until(lambda: labelled_pids(daemon) == {before.pid, after.pid}, 5.0, "both labelled")
        wait_until(lambda: len(daemon.events("session.start")) == 2, 5.0, "two sessions")
    else:
        daemon.request("status")
        go_on(after)
        after.wait(5)
        assert labelled_pids(daemon) == set()


def test_ancestor(start_daemon: StartDaemon, program: Path, start: Agent) -> None:
    """What the agent's shell starts; the agent itself is not chosen."""
    daemon = start_daemon(rules=rules(ancestor=str(program), argv=[f"--{TOKEN}=*"]))
    child = [PYTHON, "-S", "-c", "import time; time.sleep(60)", f"--{TOKEN}=1"]
    code = f"import subprocess\nchild = subprocess.Popen({child!r})\n" + READY
    agent = start(program, "-S", "-c", code)
    (below,) = psutil.Process(agent.pid).children()
    wait_until(lambda: labelled_pids(daemon) == {below.pid}, 5.0, "the child is labelled")


def test_ancestor_and_arguments_that_are_far_away(
    start_daemon: StartDaemon, program: Path, start: Agent, tmp_path: Path
) -> None:
    """Ten shells between them, and more arguments before it than events show."""
    daemon = start_daemon(rules=rules(ancestor=str(program), argv=[f"--{TOKEN}=*"]))
    leaf, nest = tmp_path / "leaf.sh", tmp_path / "nest.sh"
    ready = (PYTHON, "-S", "-c", READY, "x" * 2000, *"x" * 40, f"--{TOKEN}=1")
    leaf.write_text(f"exec {shlex.join(ready)}\n")
    nest.write_text(f'[ $1 = 0 ] && exec sh {leaf}\nsh "$0" $(($1 - 1)); exit\n')
    code = "import subprocess, sys\nsubprocess.run(sys.argv[1:])\n"
    agent = start(program, "-S", "-c", code, "/bin/sh", nest, 10)
    *shells, last = psutil.Process(agent.pid).children(recursive=True)
    assert len(shells) == 10
    wait_until(lambda: labelled_pids(daemon) == {last.pid}, 5.0, "labelled")


def test_many_that_end_at_once(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Some are gone before they have their label; their sessions end all the same."""
    program = tmp_path / "short"
    shutil.copy("/bin/true", program)
    daemon = start_daemon(rules=rules(exe=str(program)))
    for _ in range(300):
        subprocess.run([program], check=True)
    assert daemon.wait_for(lambda e: e["class"] == "session.start")

    def none_is_left() -> bool:
        return not daemon.request("ps")["workloads"][0]["sessions"]

    wait_until(none_is_left, 10.0, "no session is left")
    ids = [{e["session"] for e in daemon.events(f"session.{what}")} for what in ("start", "end")]
    assert ids[0] == ids[1]


ONE_SESSION_EACH = """
import json, os, socket, sys
for number in range(int(sys.argv[2])):
    if os.fork() == 0:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(sys.argv[1])
            request = {"op": "run", "workload": f"w{number}"}
            control.sendall(json.dumps(request).encode() + b"\\n")
            os._exit(not json.loads(control.makefile().readline())["ok"])
    assert os.wait()[1] == 0
"""


def test_more_workloads_than_there_is_room_for(
    start_daemon: StartDaemon, program: Path, start: Agent
) -> None:
    """Those that came first stay; of the next one no process is labelled, and that is told."""
    workloads = [{"name": f"w{number}"} for number in range(255)]
    chosen = {"name": "chosen", "select": [{"exe": str(program)}]}
    daemon = start_daemon(rules={"w.yaml": {"workloads": [chosen, *workloads]}})
    engine = daemon.engine()
    subprocess.run([PYTHON, "-c", ONE_SESSION_EACH, daemon.socket, "255"], check=True)
    agent = start(program, "-S", "-c", READY)
    daemon.wait_for(
        lambda e: e["class"] == "daemon.warning" and f"process {agent.pid} gets" in e["text"]
    )
    subprocess.run([PYTHON, "-c", ONE_SESSION_EACH, daemon.socket, "1"], check=True)
    assert daemon.engine() == engine


def test_cgroup(start_daemon: StartDaemon, start: Agent) -> None:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    roots = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    if not roots:
        pytest.skip("no cgroup2")
    group = Path(roots[0]) / TOKEN
    group.mkdir()
    ended: list[subprocess.Popen[bytes]] = []
    try:
        inside = start(PYTHON, "-S", "-c", READY)
        ended.append(inside)
        (group / "cgroup.procs").write_text(str(inside.pid))
        daemon = start_daemon(rules=rules(cgroup=f"/{TOKEN}*"))
        assert labelled_pids(daemon) == {inside.pid}
        go_on(inside)
        inside.wait(5)
        code = f"import os\nopen('{group}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        code += f"os.execv({PYTHON!r}, ['x', '-S', '-c', {READY!r}])"
        later = start(PYTHON, "-S", "-c", code)
        ended.append(later)
        wait_until(lambda: labelled_pids(daemon) == {later.pid}, 5.0, "the later one is labelled")
    finally:
        for process in ended:
            end_tree(process)
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 5.0, "empty")
        group.rmdir()


def test_reload_changes_what_is_selected(
    start_daemon: StartDaemon, program: Path, start: Agent
) -> None:
    daemon = start_daemon(rules={"w.yaml": {"workloads": [{"name": "chosen"}]}})
    daemon.write_rules("w.yaml", rules(exe=str(program))["w.yaml"])
    daemon.wait_for(lambda e: e["class"] == "policy.loaded" and e["policy"]["generation"] > 1)
    agent = start(program, "-S", "-c", READY)
    wait_until(lambda: labelled_pids(daemon) == {agent.pid}, 5.0, "labelled")


def test_program_that_is_run_often_and_then_renamed(
    start_daemon: StartDaemon, program: Path, start: Agent
) -> None:
    """No selector wants it under its first name, so the kernel tells of it once; then one does."""
    daemon = start_daemon(rules=rules(exe=str(program)))
    other = program.with_name("other")
    program.rename(other)
    for _ in range(20):
        subprocess.run([other, "-S", "-c", ""], check=True)
    other.rename(program)
    agent = start(program, "-S", "-c", READY)
    wait_until(lambda: labelled_pids(daemon) == {agent.pid}, 5.0, "labelled")


def test_the_daemon_is_never_labelled(start_daemon: StartDaemon, start: Agent) -> None:
    """A selector that its own processes match, too."""
    environment = {**os.environ, "AGENTD_TEST": TOKEN}
    os.environ["AGENTD_TEST"] = TOKEN
    try:
        daemon = start_daemon(rules=rules(env={"AGENTD_TEST": TOKEN}))
    finally:
        del os.environ["AGENTD_TEST"]
    agent = start(PYTHON, "-S", "-c", READY, env=environment)
    wait_until(lambda: labelled_pids(daemon) == {agent.pid}, 5.0, "only the agent")
