"""The main job, once and whole: real client, real servers, decisions before their effect.

Agents with the PyPI client run at the same time, one for each of five servers, Node and Python;
each makes a call that is allowed, one that is refused, one that a person approves and one that
nobody does. Two more processes read credentials. The same events must then be in the journal, in
the stream of a real nats-server, on `agentd watch --json` and on the daemon's terminal.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentd.events.envelope import Event
from agentd.ui import live
from tests.host.support import servers
from tests.host.support.daemon import Daemon, Document, workload
from tests.host.support.nats import NatsServer
from tests.host.support.processes import end_tree, wait_until
from tests.host.support.streaming import stored

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

Message = dict[str, Any]
AGENT = Path(__file__).parent / "support" / "mcp_agent.py"
WORKLOAD = "tested"
HOST = "host-7"
CREDENTIALS = Path.home() / ".aws" / "credentials"
SECRET = "aws_secret_access_key = of-no-use"
NAMES = ("filesystem", "everything", "git", "time", "fetch")
KINDS = ("allow", "deny", "ask", "wait")
REASON = "Not in this test."


@dataclass(frozen=True, slots=True)
class Case:
    """A server and the four calls, in the order of KINDS, with what tells them apart for a rule."""

    server: list[str]
    calls: list[tuple[str, Message]]
    told_apart_by: str

    def rules(self, name: str) -> Document:
        """One rule for each call but the first: NAME-deny, NAME-ask, NAME-wait."""
        acts: list[Document] = [
            {"action": "deny"},
            {"action": "hold", "approve": {"timeout": "60s", "on_timeout": "deny"}},
            {"action": "hold", "approve": {"timeout": "1s", "on_timeout": "deny"}},
        ]
        rules = []
        for kind, (tool, arguments), act in zip(KINDS[1:], self.calls[1:], acts, strict=True):
            match = {"tool": tool, "arguments": {self.told_apart_by: arguments[self.told_apart_by]}}
            rule = {"id": f"{name}-{kind}", "on": "mcp.tool_call", "match": match}
            rules.append(rule | act | {"reason": REASON})
        return {"rules": rules}


@dataclass(slots=True)
class Story:
    """What happened, as it was to be seen from everywhere."""

    directory: Path
    told: dict[str, list[Message]] = field(default_factory=dict)
    killed: dict[str, tuple[int, str]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    journal: list[Message] = field(default_factory=list)
    watched: list[Message] = field(default_factory=list)
    streamed: list[tuple[str, Message]] = field(default_factory=list)
    terminal: list[str] = field(default_factory=list)

    def of(self, name: str) -> list[Message]:
        """The events of the session with that task."""
        return [event for event in self.journal if event.get("task") == {"objective": name}]

    def calls(self, name: str) -> list[Message]:
        """The decided tools/call events of that session, in order."""
        return [
            event
            for event in self.of(name)
            if event["class"] == "mcp.request" and event["mcp"]["method"] == "tools/call"
        ]


class ForegroundDaemon(Daemon):
    """Its log is what a terminal would show."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--foreground"]


class Website(BaseHTTPRequestHandler):
    """Answers everything, and remembers what it was asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = f"This is {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def website() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on loopback, and the paths it was asked for."""
    asked: list[str] = []
    handler = type("Handler", (Website,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def cases(directory: Path, site: str) -> dict[str, Case]:
    files, repository = str(directory / "files"), str(directory / "repository")
    hours = {"time": "10:00", "target_timezone": "Asia/Tokyo"}
    zones = ("UTC", "Europe/Paris", "Asia/Seoul", "Africa/Nairobi")
    return {
        "filesystem": Case(
            servers.filesystem(directory / "files"),
            [
                ("write_file", {"path": f"{files}/allow.txt", "content": "allowed"}),
                ("write_file", {"path": f"{files}/deny.txt", "content": "denied"}),
                ("write_file", {"path": f"{files}/ask.txt", "content": "approved"}),
                ("create_directory", {"path": f"{files}/wait"}),
            ],
            "path",
        ),
        "everything": Case(
            servers.everything(),
            [("echo", {"message": f"{kind}: {'a longer message ' * 3}"}) for kind in KINDS],
            "message",
        ),
        "git": Case(
            servers.git(directory / "repository"),
            [
                ("git_status", {"repo_path": repository}),
                ("git_commit", {"repo_path": repository, "message": "denied"}),
                ("git_add", {"repo_path": repository, "files": ["new.txt"]}),
                ("git_create_branch", {"repo_path": repository, "branch_name": "late"}),
            ],
            "repo_path",
        ),
        "time": Case(
            servers.time_server(),
            [("convert_time", {"source_timezone": zone, **hours}) for zone in zones],
            "source_timezone",
        ),
        "fetch": Case(
            [*servers.fetch(), "--allow-private-ips"],
            [("fetch", {"url": f"{site}/{kind}/{'page' * 8}"}) for kind in KINDS],
            "url",
        ),
    }


def lay_out(directory: Path) -> None:
    """What the servers work on."""
    (directory / "files").mkdir()
    (directory / "credentials").write_text(SECRET)
    repository = directory / "repository"
    git(directory, "init", "-q", "-b", "main", str(repository))
    git(repository, "-c", "user.name=t", "-c", "user.email=t@localhost",
        "commit", "-q", "--allow-empty", "-m", "first")  # fmt: skip
    (repository / "new.txt").write_text("new")


def git(directory: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=directory, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def aws_credentials() -> Iterator[Path]:
    """The host's own file if there is one (it is never read), else one that goes away again."""
    made_directory = not CREDENTIALS.parent.exists()
    CREDENTIALS.parent.mkdir(exist_ok=True)
    made = not CREDENTIALS.exists()
    if made:
        CREDENTIALS.write_text(SECRET)
    yield CREDENTIALS
    if made:
        CREDENTIALS.unlink(missing_ok=True)
    if made_directory:
        CREDENTIALS.parent.rmdir()


def run_agents(daemon: Daemon, work: dict[str, Case]) -> dict[str, list[Message]]:
    """All agents at once, with a person who approves what the NAME-ask rules hold."""
    with ExitStack() as stack:
        agents = {}
        for name, case in work.items():
            plan = json.dumps({"server": case.server, "calls": case.calls})
            command = [str(servers.VENV_BIN / "python"), str(AGENT), plan]
            words = ["run", "--workload", WORKLOAD, "--task", name, "--", *command]
            process = subprocess.Popen(
                daemon.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            stack.callback(end_tree, process)
            agents[name] = process
        approved: set[str] = set()
        deadline = time.monotonic() + 90
        while any(agent.poll() is None for agent in agents.values()):
            assert time.monotonic() < deadline, daemon.tail()
            for hold in daemon.request("holds")["holds"]:
                if hold["rule"].endswith("-ask") and hold["id"] not in approved:
                    approved.add(hold["id"])
                    subprocess.run(daemon.command("approve", hold["id"]), check=True,
                                   capture_output=True)  # fmt: skip
            time.sleep(0.05)
        told = {}
        for name, agent in agents.items():
            out, errors = agent.communicate()
            assert agent.returncode == 0, errors.decode()[-2000:]
            told[name] = [json.loads(line) for line in out.splitlines()]
        return told


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory,
    website: tuple[str, list[str]],
    aws_credentials: Path,
) -> Story:
    directory = tmp_path_factory.mktemp("story")
    lay_out(directory)
    site, asked = website
    work = cases(directory, site)
    rules = {f"{name}.yaml": case.rules(name) for name, case in work.items()}
    rules["workload.yaml"] = workload(WORKLOAD)
    rules["credentials.yaml"] = {
        "rules": [
            {
                "id": "credentials",
                "on": "file.open",
                "match": {"path": str(directory / "credentials"), "access": ["read"]},
                "action": "kill",
            }
        ]
    }
    told = Story(directory)
    with ExitStack() as stack:
        nats = stack.enter_context(NatsServer(directory / "nats"))
        settings = {"host": HOST, "nats": {"servers": [nats.url]}}
        daemon = ForegroundDaemon(directory / "agentd", rules, shipped=True, settings=settings)
        stack.enter_context(daemon)
        seen = directory / "watch.jsonl"
        with seen.open("wb") as sink:
            watch = subprocess.Popen(daemon.command("watch", "--json"), stdout=sink)
        stack.callback(end_tree, watch)

        def watching() -> bool:
            daemon.request("reload")  # makes an event
            return seen.stat().st_size > 0

        wait_until(watching, 15.0, "the first event on `agentd watch`", interval=0.3)
        told.told = run_agents(daemon, work)
        told.fetched = list(asked)
        for name, path in (
            ("credentials", directory / "credentials"),
            ("secret-cloud", aws_credentials),
        ):
            done = subprocess.run(
                daemon.run(WORKLOAD, ["cat", str(path)]),
                capture_output=True,
                text=True,
                check=False,
            )
            told.killed[name] = done.returncode, done.stdout
        wait_until(
            lambda: sum(event["class"] == "session.end" for event in daemon.events()) >= 7,
            10.0,
            "the end of every session",
        )
        time.sleep(0.3)
        journal = ["--config", str(daemon.configuration), "query", "--json", "--limit", "0"]
        query = subprocess.run(
            [str(servers.AGENTD), *journal], capture_output=True, text=True, check=True
        )
        told.journal = [json.loads(line) for line in query.stdout.splitlines()]
        last = told.journal[-1]["seq"]
        wait_until(lambda: len(stored(nats.url)) >= last, 15.0, "the whole journal in the stream",
                   interval=0.3)  # fmt: skip
        told.streamed = stored(nats.url)[:last]
        told.watched = [json.loads(line) for line in seen.read_text().splitlines()]
        told.terminal = daemon.log.read_text().splitlines()
    return told


@pytest.mark.parametrize("name", NAMES)
def test_the_agent_is_answered_told_or_waits(name: str, story: Story) -> None:
    allowed, denied, asked, unanswered = story.told[name]
    assert not allowed["error"], allowed
    assert not asked["error"], asked
    for answer, rule in ((denied, f"{name}-deny"), (unanswered, f"{name}-wait")):
        assert answer["error"]
        assert f"denied-by-agentd: {rule}: {REASON}" in answer["text"]


def test_refused_calls_have_no_effect_and_others_have(story: Story) -> None:
    files = story.directory / "files"
    contents = {path.name: path.read_text() for path in files.iterdir()}
    assert contents == {"allow.txt": "allowed", "ask.txt": "approved"}
    repository = story.directory / "repository"
    assert git(repository, "log", "--format=%s").split() == ["first"]
    assert git(repository, "branch", "--format=%(refname:short)").split() == ["main"]
    assert git(repository, "status", "--porcelain") == "A  new.txt\n"
    assert [path.split("/")[1] for path in story.fetched] == ["allow", "ask"]


@pytest.mark.parametrize("name", ["credentials", "secret-cloud"])
def test_who_reads_credentials_is_killed_with_nothing_read(name: str, story: Story) -> None:
    assert story.killed[name] == (-9, "")
    (killed,) = [event for event in story.journal if _rules(event) == [name]]
    assert killed["class"] == "file.open"
    assert killed["workload"] == WORKLOAD
    assert killed["process"]["exe"].endswith("/cat")
    assert killed["decision"]["verdict"] == "kill"
    assert killed["decision"]["outcome"] == "killed"
    assert killed["decision"]["before_effect"] is True


@pytest.mark.parametrize("name", NAMES)
def test_the_record_says_who_decided_what(name: str, story: Story) -> None:
    allowed, denied, asked, unanswered = story.calls(name)
    assert "decision" not in allowed
    for event, rule, verdict, outcome in (
        (denied, "deny", "deny", "denied"),
        (asked, "ask", "hold", "allowed"),
        (unanswered, "wait", "hold", "timeout"),
    ):
        decision = event["decision"]
        assert decision["rules"] == [f"{name}-{rule}"]
        assert (decision["verdict"], decision["outcome"]) == (verdict, outcome)
        assert decision["reason"] == REASON
        assert decision["before_effect"] is True
        assert "would" not in decision
    assert asked["decision"]["approver"] == "uid 0"
    assert unanswered["decision"]["on_timeout"] == "deny"
    assert 1_000_000 <= unanswered["decision"]["hold_us"] < 10_000_000
    opened = [event for event in story.of(name) if event["class"] == "hold.open"]
    assert [event["decision"]["hold_id"] for event in opened] == [
        event["decision"]["hold_id"] for event in (asked, unanswered)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_call_is_attributed(name: str, story: Story) -> None:
    events = story.of(name)
    assert {event["workload"] for event in events} == {WORKLOAD}
    assert {event["posture"] for event in events} == {"enforce"}
    (session,) = {event["session"] for event in events}
    assert session.startswith("s-")
    interpreter = "node" if name in {"filesystem", "everything"} else "python"
    for event in story.calls(name):
        assert event["mcp"]["server"]["exe"].rsplit("/", 1)[-1].startswith(interpreter)
        assert event["mcp"]["server"]["pid"] == event["process"]["pid"]
        assert event["mcp"]["client"]["exe"].rsplit("/", 1)[-1].startswith("python")
        assert event["mcp"]["server"]["name"]
    answers = [event for event in events if event["class"] == "mcp.response"]
    answered = {event["mcp"]["id"] for event in answers if event["mcp"].get("tool")}
    assert {event["mcp"]["id"] for event in story.calls(name)} <= answered


def test_journal_stream_and_watch_agree(story: Story) -> None:
    journal = {event["id"]: event for event in story.journal}
    assert len(journal) == len(story.journal)
    assert [event["seq"] for event in story.journal] == list(range(1, len(journal) + 1))
    assert [event for _, event in story.streamed] == story.journal
    first = story.watched[0]["seq"]
    assert story.watched[: len(journal) - first + 1] == story.journal[first - 1 :]
    assert first < min(event["seq"] for event in story.journal if event.get("session"))


def test_subjects_name_host_workload_and_class(story: Story) -> None:
    for subject, event in story.streamed:
        owner = event.get("workload") or "_"
        assert subject == f"agentd.v1.{HOST}.{owner}.{event['class']}"


def test_events_are_what_the_schema_says(story: Story) -> None:
    for event in story.journal:
        Event.model_validate(event)
    assert not [event for event in story.journal if event["class"] in {"loss", "tamper"}]


def test_the_daemons_terminal_shows_every_decision(story: Story) -> None:
    decided = [event for event in story.journal if "decision" in event]
    assert len(decided) >= len(NAMES) * 5 + 2
    for event in decided:
        assert live.render(event, colour=False) in story.terminal


def _rules(event: Message) -> list[str]:
    rules: list[str] = event.get("decision", {}).get("rules", [])
    return rules
