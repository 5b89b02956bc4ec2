import fnmatch
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.workloads.identity import ProcessInfo, ProcessKey
from agentd.workloads.selectors import Selectors, units_of
from tests.unit.workloads.declared import workload


def process(**fields: Any) -> ProcessInfo:
    known: dict[str, Any] = {
        "key": ProcessKey(100, 1),
        "ppid": 1,
        "parent": None,
        "uid": 1000,
        "gid": 1000,
        "exe": "/usr/bin/node",
        "argv": ("node", "/opt/claude-code/cli.js"),
        "comm": "node",
        "cgroup": "/user.slice/user-1000.slice/claude@7.service/inner",
    }
    return ProcessInfo(**{**known, **fields})


def selectors(*selects: dict[str, Any]) -> Selectors:
    return Selectors(
        workload({"name": f"w{number}", "select": [select]})
        for number, select in enumerate(selects)
    )


def nothing(key: ProcessKey) -> Any:
    raise AssertionError("no selector needs it")


def match(
    chosen: Selectors,
    info: ProcessInfo,
    environ: dict[str, str] | None = None,
    ancestors: tuple[str, ...] = (),
) -> str | None:
    reader = nothing if environ is None else lambda _: environ
    return chosen.match(info, nothing, reader, lambda: ancestors)


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({"exe": "/usr/bin/node"}, True),
        ({"exe": "*/node"}, True),
        ({"exe": "/usr/bin/nod"}, False),
        ({"exe": "/usr/bin/NODE"}, False),
        ({"argv": ["node", "*/claude-code/*"]}, True),
        ({"argv": ["node", "*/codex/*"]}, False),
        ({"uid": 1000}, True),
        ({"uid": ["root", 1000]}, True),
        ({"uid": "root"}, False),
        ({"unit": "claude@*.service"}, True),
        ({"unit": "user-1000.slice"}, True),
        ({"unit": "inner*"}, False),
        ({"cgroup": "/user.slice/*"}, True),
        ({"cgroup": "/agents/*"}, False),
        ({"exe": "*/node", "uid": 0}, False),
    ],
)
def test_fields(select: dict[str, Any], expected: bool) -> None:
    assert match(selectors(select), process()) == ("w0" if expected else None)


def test_environment_is_read_only_when_all_else_matches() -> None:
    chosen = selectors({"exe": "*/python", "env": {"AGENT": "claude*"}})
    assert match(chosen, process()) is None  # `nothing` would have raised
    chosen = selectors({"exe": "*/node", "env": {"AGENT": "claude*", "MODE": "*"}})
    assert match(chosen, process(), {"AGENT": "claude-1", "MODE": ""}) == "w0"
    assert match(chosen, process(), {"AGENT": "claude-1"}) is None
    assert match(chosen, process(), {"AGENT": "x", "MODE": ""}) is None


def test_ancestors() -> None:
    chosen = selectors({"ancestor": "*/codex"})
    assert match(chosen, process(), ancestors=("/bin/sh", "/opt/codex", "/sbin/init")) == "w0"
    assert match(chosen, process(), ancestors=("/bin/sh", "/opt/codex (deleted)")) == "w0"
    assert match(chosen, process(), ancestors=()) is None


def test_the_first_declared_wins() -> None:
    assert match(selectors({"uid": 0}, {"exe": "*/node"}, {"uid": 1000}), process()) == "w1"


def test_an_agent_that_was_replaced_while_running_is_still_that_agent() -> None:
    assert (
        match(selectors({"exe": "/usr/bin/node"}), process(exe="/usr/bin/node (deleted)")) == "w0"
    )


def test_an_unknown_user_matches_nobody_and_is_reported() -> None:
    chosen = selectors({"uid": "no-such-user"})
    assert match(chosen, process()) is None
    assert match(chosen, process(uid=0)) is None
    assert "no-such-user" in chosen.problems[0]


def test_units() -> None:
    assert units_of(None) == []
    assert units_of("/a.slice/b/c.service") == ["a.slice", "c.service"]


PATHS = st.text(alphabet="/ab.*[]?!", min_size=1, max_size=8).map(lambda text: "/" + text)
PROCESSES = st.builds(
    process,
    exe=PATHS,
    argv=st.lists(PATHS, max_size=3).map(tuple),
    uid=st.integers(0, 2),
    cgroup=st.none() | PATHS,
)
SELECTS = st.fixed_dictionaries(
    {},
    optional={
        "exe": PATHS,
        "argv": st.lists(PATHS, min_size=1, max_size=2),
        "uid": st.lists(st.integers(0, 2), min_size=1, max_size=2),
        "cgroup": PATHS,
        "ancestor": PATHS,
        "env": st.dictionaries(st.sampled_from("AB"), PATHS, min_size=1),
    },
).filter(bool)


@given(
    st.lists(SELECTS, max_size=4),
    st.lists(PROCESSES, min_size=1, max_size=4),
    st.lists(PATHS, max_size=2),
    st.dictionaries(st.sampled_from("AB"), PATHS),
)
def test_compiled_selectors_decide_like_plain_ones(
    selects: list[dict[str, Any]],
    processes: list[ProcessInfo],
    ancestors: list[str],
    environ: dict[str, str],
) -> None:
    glob = fnmatch.fnmatchcase

    def plain(info: ProcessInfo, select: dict[str, Any]) -> bool:
        return (
            ("exe" not in select or glob(info.exe, select["exe"]))
            and all(any(glob(a, g) for a in info.argv) for g in select.get("argv", ()))
            and info.uid in select.get("uid", [info.uid])
            and ("cgroup" not in select or glob(info.cgroup or "", select["cgroup"]))
            and ("ancestor" not in select or any(glob(e, select["ancestor"]) for e in ancestors))
            and all(n in environ and glob(environ[n], g) for n, g in select.get("env", {}).items())
        )

    chosen = selectors(*selects)
    for info in processes:
        expected = next((f"w{n}" for n, s in enumerate(selects) if plain(info, s)), None)
        for _ in range(2):  # the second time from the cache
            assert match(chosen, info, environ, tuple(ancestors)) == expected
