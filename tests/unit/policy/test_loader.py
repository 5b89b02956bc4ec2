"""Loading: every problem with its file, line and mend; the last good set; changes on disk."""

import os
from pathlib import Path

import pytest

from agentd.errors import ConfigErrors
from agentd.policy.files import fingerprint
from agentd.policy.loader import load

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
