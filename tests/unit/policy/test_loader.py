"""Loading: every problem with its file, line and mend; the last good set; changes on disk."""

import os
import threading
from pathlib import Path

import pytest

from agentd.errors import ConfigErrors
from agentd.policy.files import fingerprint
from agentd.policy.loader import load
from agentd.policy.rules import Approve, Defaults

GOOD = "rules:\n  - {id: good, on: mcp.request, action: deny}\n"


def errors_of(directory: Path, text: str) -> list[str]:
    file = directory / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigErrors) as caught:
        load([directory])
    return [str(error).removeprefix(f"{directory}/") for error in caught.value.errors]


RULE = "rules:\n  - id: a\n    on: {on}\n    action: {action}\n    {more}\n"


@pytest.mark.parametrize(
    ("on", "action", "more", "expected"),
    [
        (
            "file.opn",
            "deny",
            "",
            "a.yaml:3: on: 'file.opn' is not one of the values it can",
        ),
        ("mcp.request", "deni", "", "a.yaml:4: action: 'deni' is not one"),
        (
            "mcp.request",
            "deny",
            "mtach: {}",
            "a.yaml:5: unknown field 'mtach'; did you",
        ),
        (
            "mcp.request",
            "deny",
            "match: {tol: x}",
            "a.yaml:5: unknown field 'tol'; did you mean 'too",
        ),
        (
            "mcp.request",
            "deny",
            "match: {cidr: 10.0.0.0/8}",
            "a.yaml:5: 'cidr' means nothing for mcp.request; mcp.request can match arguments,",
        ),
        (
            "mcp.request",
            "deny",
            'when: \'session.has("a", "b")\'',
            'a.yaml:5: when: \'session.has("a", "b")\': \'has("a", "b")\' at column 9 is not how',
        ),
        (
            "mcp.tool_call",
            "deny",
            "when: event.tol == 'x'",
            "a.yaml:5: when: the event of mcp.tool_call has no field 'tol'; did you mean 'tool'?",
        ),
        (
            "process.exec",
            "deny",
            "when: has(event.process . exec)",
            "a.yaml:5: when: the event of process.exec has no field 'process.exec'; did you",
        ),
        (
            "network.connect",
            "deny",
            "match: {cidr: 10.0.0.1/8}",
            "a.yaml:5: cidr: '10.0.0.1/8' is not a network; write 10.0.0.0/8",
        ),
        (
            "network.connect",
            "deny",
            "match: {except: [x]}",
            "a.yaml:5: except: 'x' is not a network;",
        ),
        ("network.connect", "deny", "match: {port: 70000}", "a.yaml:5: port: 70000 is not a port;"),
        ("file.open", "deny", "match: {path: '*.pem'}", "a.yaml:5: path: '*.pem' is not a pattern"),
        (
            "file.open",
            "deny",
            "match: {path: '/*/*'}",
            "a.yaml:5: path: '/*/*' has no literal part",
        ),
        ("file.open", "deny", "", "a.yaml:2: this rule would stop every open of every file; name"),
        (
            "mcp.request",
            "deny",
            "match: {tool: 'a['}",
            "a.yaml:5: tool: 'a[' has a '[' without ']';",
        ),
        (
            "mcp.request",
            "deny",
            "match: {arguments: {a: {regex: '('}}}",
            "a.yaml:5: regex: '(' is not a regular expression: unclosed group; see",
        ),
        (
            "mcp.request",
            "deny",
            "match: {arguments: {a..b: x}}",
            "a.yaml:5: a..b: 'a..b' has an empty step",
        ),
        (
            "mcp.request",
            "deny",
            "when: evnt.x == 1",
            "a.yaml:5: when: 'evnt.x == 1': unknown variable",
        ),
        ("mcp.request", "deny", "when: '1 +'", "a.yaml:5: when: '1 +' is not CEL: column 4"),
        (
            "mcp.request",
            "hold",
            "approve: {timeout: 5 min}",
            "a.yaml:5: timeout: '5 min' is not a dur",
        ),
        (
            "mcp.request",
            "deny",
            "approve: {timeout: 5m}",
            "a.yaml:5: 'approve' needs 'action: hold';",
        ),
        (
            "mcp.request",
            "deny",
            "kill: session",
            "a.yaml:5: 'kill' needs 'action: kill'; remove it",
        ),
        ("network.socket", "deny", "match: {}", "a.yaml:5: network.socket needs 'family'; name"),
        ("network.socket", "deny", "match: {port: 1, family: raw}", "a.yaml:5: 'port' means not"),
        ("network.socket", "deny", "match: {family: ipx}", "a.yaml:5: family: 'ipx' is not"),
        ("network.connect", "deny", "match: {family: raw}", "a.yaml:5: 'family' means nothing"),
        ("mcp.request", "deny", "tags: [x]", "a.yaml:5: tags: 'x' has characters"),
        ("mcp.request", "deny", "id: b", "a.yaml:5: 'id' is given twice, first on line 2; remove"),
    ],
)
def test_problems_name_line_and_mend(
    tmp_path: Path, on: str, action: str, more: str, expected: str
) -> None:
    (message,) = errors_of(tmp_path, RULE.format(on=on, action=action, more=more))
    assert message.startswith(expected)
    assert "; " in message


def test_all_problems_of_all_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("rules:\n  - id: x\n  - nonsense\nrulez: []\n")
    (tmp_path / "c.yaml").write_text("rules: [\n")
    (tmp_path / "d.yaml").write_bytes(b"rules: []\n# \xff\n")
    messages = errors_of(tmp_path, "- a list\n")
    assert [message.split(": ")[0] for message in messages] == [
        "a.yaml:1", "b.yaml:2", "b.yaml:2", "b.yaml:3", "b.yaml:4", "c.yaml:2", "d.yaml:2",
    ]  # fmt: skip


def test_two_rules_with_one_id_name_both_places(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("# shifted\n" + GOOD)
    (tmp_path / "c.yaml").write_text(GOOD)
    with pytest.raises(ConfigErrors) as caught:
        load([tmp_path])
    assert str(caught.value).startswith(f"{tmp_path}/c.yaml:2: the rule 'good' is also at ")
    assert f"{tmp_path}/b.yaml:3;" in str(caught.value)


def test_a_later_directory_replaces_a_workload_but_one_directory_has_it_once(
    tmp_path: Path,
) -> None:
    shipped, local = tmp_path / "shipped", tmp_path / "local"
    shipped.mkdir()
    local.mkdir()
    (shipped / "a.yaml").write_text("workloads:\n  - {name: x}\n")
    (local / "a.yaml").write_text("workloads:\n  - {name: x, posture: enforce}\n")
    assert load([shipped, local]).workloads["x"].posture == "enforce"
    (local / "b.yaml").write_text("workloads:\n  - {name: x}\n")
    with pytest.raises(ConfigErrors, match="the workload 'x' is also at"):
        load([shipped, local])


def test_missing_directories_hidden_files_and_empty_files_are_no_problem(tmp_path: Path) -> None:
    (tmp_path / ".hidden.yaml").write_text("nonsense")
    (tmp_path / "readme.md").write_text("nonsense")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "null.yml").write_text("rules:\n")
    assert load([tmp_path / "missing", tmp_path]).rules == []


def test_a_path_may_be_one_file_and_sources_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    policy = load([tmp_path / "a.yaml"])
    assert str(policy.sources["good"]) == f"{tmp_path}/a.yaml:2"


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_pipe_among_the_files_is_a_problem_and_is_not_read(
    tmp_path: Path, *, through_a_link: bool
) -> None:
    """Nobody writes to it: whoever opened it would wait for ever."""
    pipe = tmp_path / ("pipe" if through_a_link else "x.yaml")
    os.mkfifo(pipe)
    if through_a_link:
        (tmp_path / "x.yaml").symlink_to(pipe)
    (tmp_path / "device.yml").symlink_to("/dev/zero")
    expected = "not a regular file; remove it, or put a file of YAML in its place"
    with pytest.raises(ConfigErrors) as caught:
        load([tmp_path])
    assert [str(error) for error in caught.value.errors] == [
        f"{tmp_path}/device.yml: {expected}",
        f"{tmp_path}/x.yaml: {expected}",
    ]


def test_a_pipe_that_is_named_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "x"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(GOOD,), daemon=True)
    writer.start()
    assert [rule.id for rule in load([pipe]).rules] == ["good"]
    writer.join()


def test_a_device_that_never_ends_is_too_large() -> None:
    with pytest.raises(ConfigErrors, match="over 4 MiB"):
        load([Path("/dev/zero")])


def test_fingerprint_changes_with_every_edit(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(GOOD)
    seen = {fingerprint([tmp_path])}
    file.write_text(GOOD + "# longer\n")
    seen.add(fingerprint([tmp_path]))
    os.utime(file, ns=(1, 1))
    seen.add(fingerprint([tmp_path]))
    (tmp_path / "b.yaml").write_text("")
    seen.add(fingerprint([tmp_path]))
    file.unlink()
    seen.add(fingerprint([tmp_path]))
    assert len(seen) == 5
    assert fingerprint([tmp_path]) in seen


SHIPPED = """
rules:
  - {id: exec-a, on: process.exec, action: deny, match: {exe: "**/a"}}
  - {id: exec-b, on: process.exec, action: deny, match: {exe: "**/b"}}
  - {id: other, on: mcp.request, action: deny}
"""


@pytest.fixture
def directories(tmp_path: Path) -> list[Path]:
    """A directory with shipped rules, and one of the host's own that is empty yet."""
    shipped, local = tmp_path / "shipped", tmp_path / "local"
    shipped.mkdir()
    local.mkdir()
    (shipped / "a.yaml").write_text(SHIPPED)
    return [shipped, local]


@pytest.mark.parametrize(
    ("disable", "left"),
    [
        ("[exec-a]", ["exec-b", "other"]),
        ("['exec-*']", ["other"]),
        ("[exec-a, '*-b', other]", []),
        ("[]", ["exec-a", "exec-b", "other"]),
    ],
)
def test_a_later_file_switches_rules_off(
    directories: list[Path], disable: str, left: list[str]
) -> None:
    (directories[1] / "a.yaml").write_text(f"disable: {disable}\n")
    policy = load(directories)
    assert [rule.id for rule in policy.rules] == left == list(policy.sources)
    assert set(policy.disabled) == {"exec-a", "exec-b", "other"} - set(left)
    assert all(source.file.parent == directories[1] for source in policy.disabled.values())


def test_a_rule_may_take_the_place_of_one_that_its_file_switches_off(
    directories: list[Path],
) -> None:
    own = "rules:\n  - {id: exec-a, on: process.exec, action: audit}\ndisable: [exec-a]\n"
    (directories[1] / "a.yaml").write_text(own)
    actions = {rule.id: rule.action for rule in load(directories).rules}
    assert actions == {"exec-b": "deny", "other": "deny", "exec-a": "audit"}


def test_two_files_may_switch_off_the_same_rule(directories: list[Path]) -> None:
    (directories[1] / "a.yaml").write_text("disable: [other]\n")
    (directories[1] / "b.yaml").write_text("disable: [other]\n")
    assert str(load(directories).disabled["other"]) == f"{directories[1]}/a.yaml:1"


@pytest.mark.parametrize(
    ("disable", "expected"),
    [
        ("[exec-aa]", "no rule read before this file has the id 'exec-aa'; did you mean 'exec-a'?"),
        ("['zzz-*']", "no rule read before this file has the id 'zzz-*'; `agentd rules list`"),
        ("['!exec-a']", "'!exec-a': '!' means nothing here; name the rules"),
        ("[1]", "1 is not the id of a rule; write an id"),
        ("['a[']", "'a[' has a '[' without ']'; close it"),
        ("[late]", "no rule read before this file has the id 'late'"),
    ],
)
def test_what_cannot_be_switched_off_is_an_error(
    directories: list[Path], disable: str, expected: str
) -> None:
    (directories[1] / "b.yaml").write_text(f"# host\ndisable: {disable}\n")
    (directories[1] / "c.yaml").write_text("rules:\n  - {id: late, on: mcp.request, action: deny}")
    with pytest.raises(ConfigErrors) as caught:
        load(directories)
    assert str(caught.value).startswith(f"{directories[1]}/b.yaml:2: disable: {expected}")


def test_files_checked_alone_may_switch_off_what_lies_beside_them(directories: list[Path]) -> None:
    shipped, local = directories
    (local / "a.yaml").write_text("disable: ['exec-*', other]\n")
    policy = load([local], beside=[shipped])
    assert (policy.rules, policy.disabled) == ([], {})
    with pytest.raises(ConfigErrors, match="no rule read before"):
        load([local])


def test_disable_is_a_list(directories: list[Path]) -> None:
    (directories[1] / "a.yaml").write_text("disable: exec-a\n")
    with pytest.raises(ConfigErrors, match="'disable' is not a list; put '- ' before each"):
        load(directories)


def test_defaults_fill_in_what_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "rules:\n"
        "  - {id: a, on: mcp.request, action: hold}\n"
        "  - {id: b, on: mcp.request, action: hold, approve: {on_timeout: kill}}\n"
        "  - {id: c, on: mcp.request, action: hold, approve: {timeout: 120s}}\n"
        "  - {id: d, on: mcp.request, action: deny}\n"
        "workloads:\n  - {name: x}\n  - {name: y, on_failure: deny}\n"
    )
    policy = load([tmp_path], Defaults(hold_timeout=7.0, on_failure="allow"))
    approvals = [rule.approve for rule in policy.rules]
    assert approvals == [Approve(7.0, "deny"), Approve(7.0, "kill"), Approve(120.0, "deny"), None]
    on_failure = {name: workload.on_failure for name, workload in policy.workloads.items()}
    assert on_failure == {"x": "allow", "y": "deny"}
    assert load([tmp_path]).rules[0].approve == Approve(120.0, "deny")
