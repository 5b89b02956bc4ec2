"""Arguments are found by path, and paths in them are read as they are meant."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.policy.arguments import Arguments, ValuePattern, parse_steps, values_at
from agentd.policy.globs import GlobError
from agentd.policy.paths import canonical, meant_by

TREE = {"a": {"b": [{"c": 1}, {"c": 2}]}, "x.y": {"z/": 3}, "l": [[4], 5]}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b.*.c", [1, 2]),
        ("a.b.1.c", [2]),
        ("a.b.7.c", []),
        ("a.nope.c", []),
        ("/x.y/z~1", [3]),
        ("l.*.0", [4]),
        ("a.**.c", [1, 2]),
        ("*.b.0.c", [1]),
    ],
)
def test_values_at(path: str, found: list[Any]) -> None:
    assert sorted(values_at(TREE, parse_steps(path))) == found


@pytest.mark.parametrize("path", ["a..b", "", "**.a.**"])
def test_bad_argument_paths(path: str) -> None:
    with pytest.raises(GlobError):
        parse_steps(path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/a/./b//c/../d", "/a/b/d"),
        ("/proc/self/root/etc/shadow", "/etc/shadow"),
        ("//proc//7/./root/proc/self/root/x", "/x"),
        ("/proc/self/task/9/root", "/"),
        ("/x/../proc/self/root/etc", "/etc"),
        ("/proc/1/environ", "/proc/1/environ"),
        ("/../../etc", "/etc"),
        ("file:///etc/%73hadow?x#y", "/etc/shadow"),
        ("FILE://localhost/etc/x", "/etc/x"),
        ("~/.ssh/id_rsa", "/root/.ssh/id_rsa"),
        ("${HOME}/.x", "/root/.x"),
        ("a/../../b", "../b"),
    ],
)
def test_what_a_path_means(written: str, meant: str) -> None:
    assert meant_by(written) == meant


@given(st.text(alphabet="/.ab~", max_size=40))
def test_tidying_is_idempotent(path: str) -> None:
    assert canonical(canonical(path)) == canonical(path)


@pytest.mark.parametrize(
    ("globs", "value", "expected"),
    [
        (["~/.ssh/id_*"], "~/.ssh/id_rsa", True),
        (["~/.ssh/id_*"], ["x", "/home/u/.ssh/id_rsa"], True),
        (["~/.ssh/id_*"], {"x": "/home/u/.ssh/id_rsa"}, False),
        (["!/tmp/demo/**"], "/tmp/demo/../x", True),
        (["!/tmp/demo/**"], "/tmp/demo/x", False),
        (["!/tmp/demo/**"], "file:///tmp/demo/x", False),
        (["!/tmp/demo/**"], "relative", True),
        (["rm *"], "rm -rf\n/", True),
        (["true"], True, True),
        (["5"], 5, True),
        (["null"], None, True),
        (["a*", "!ab*"], "abc", False),
    ],
)
def test_value_patterns(globs: list[str], value: Any, expected: bool) -> None:
    assert ValuePattern(globs).match(value) is expected


def test_a_long_argument_is_tidied_only_if_it_could_be_a_path() -> None:
    pattern = ValuePattern(["/etc/shadow"])
    assert pattern.match("/" + "a/../" * 50_000 + "etc/shadow")
    assert pattern.match("/" + "/" * 100_000 + "etc//./shadow")
    assert not pattern.match("/etc/shadow is a file\n" * 50_000)
    assert ValuePattern(["!/srv/**"]).match("/srv/x/y/z" * 5_000)


def deep(levels: int) -> Any:
    value: Any = "/etc/shadow"
    for _ in range(levels):
        value = [{"a": value}]
    return value


def test_nesting_does_not_exhaust_the_stack() -> None:
    shadow = ValuePattern(["/etc/shadow"])
    assert Arguments({"**": shadow}).match(deep(50_000))
    assert Arguments({"**.a": shadow}).match(deep(50_000))
    assert not Arguments({"x": shadow}).match(deep(50_000))


def test_regex_is_linear_and_sees_through_bytes_that_are_not_utf8() -> None:
    pattern = ValuePattern([], regex=r"(a+)+$")
    assert not pattern.match("a" * 100_000 + "b")
    assert ValuePattern([], regex=r"rm\s+-rf").match("\udcff rm -rf /")
