"""The tables for the kernel find what the globs mean, or more, and say where they find more."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.policy.automaton import (
    EDGE_LEN,
    MAX_HOMES,
    MAX_POSITIONS,
    WORD_LEN,
    Automaton,
    SlotGlobs,
    compile_globs,
)
from agentd.policy.globs import GlobError, PathGlob, expand_braces, split_negated
from agentd.policy.loader import load
from agentd.policy.matching import file_paths
from agentd.policy.rule_tests import MAIN_FIELD
from agentd.policy.rules import Rule
from tests.unit.policy.strategies import (
    ANY_PATH,
    COLLIDING_PATH,
    colliding_globs,
    glob_and_path,
)

RULES = Path(__file__).parents[3] / "rules"
HOMES = ("/var/lib/b", "/srv/*[x]", "/ab")
DEBIAN_HOMES = (
    "/run/ircd",
    "/usr/games",
    "/var/backups",
    "/var/cache/man",
    "/var/lib/postgresql",
    "/var/list",
    "/var/mail",
    "/var/spool/lpd",
    "/var/spool/news",
    "/var/spool/uucp",
    "/var/www",
)


def one(*globs: str, excepted: Sequence[str] = (), homes: Sequence[str] = ()) -> Automaton:
    return compile_globs([SlotGlobs(0, globs, excepted)], homes)


def any_matches(globs: Sequence[str], path: str, homes: tuple[str, ...]) -> bool:
    return any(
        PathGlob(text, homes).matches(path) for glob in globs for text in expand_braces(glob)
    )


def meant(rule: SlotGlobs, path: str, homes: tuple[str, ...]) -> bool:
    return any_matches(rule.globs, path, homes) and not any_matches(rule.excepted, path, homes)


def rules_of(globs: st.SearchStrategy[str]) -> st.SearchStrategy[list[SlotGlobs]]:
    some = st.lists(globs, min_size=1, max_size=4)
    pairs = st.lists(st.tuples(some, st.lists(globs, max_size=2)), min_size=1, max_size=3)
    return pairs.map(lambda pairs: [SlotGlobs(n, *pair) for n, pair in enumerate(pairs)])


PATHS = st.lists(st.one_of(COLLIDING_PATH, COLLIDING_PATH, ANY_PATH), min_size=1, max_size=12)
SOME_HOMES = st.sampled_from([(), HOMES])


@settings(max_examples=400, deadline=None)
@given(rules_of(colliding_globs(exact=True)), PATHS, SOME_HOMES)
def test_exact_globs_are_found_where_they_match_and_nowhere_else(
    rules: list[SlotGlobs], paths: list[str], homes: tuple[str, ...]
) -> None:
    automaton = compile_globs(rules, homes)
    assert automaton.inexact == automaton.missed == {}
    for path in paths:
        assert automaton.match(path) == {rule.slot for rule in rules if meant(rule, path, homes)}


@settings(max_examples=400, deadline=None)
@given(rules_of(colliding_globs(exact=False)), PATHS, SOME_HOMES)
def test_no_path_is_missed_and_only_inexact_rules_find_too_much(
    rules: list[SlotGlobs], paths: list[str], homes: tuple[str, ...]
) -> None:
    automaton = compile_globs(rules, homes)
    assert automaton.missed == {}
    for path in paths:
        expected = {rule.slot for rule in rules if meant(rule, path, homes)}
        assert expected <= automaton.match(path) <= expected | automaton.inexact.keys()


@settings(max_examples=200, deadline=None)
@given(glob_and_path(), ANY_PATH)
def test_any_glob_is_found_in_the_paths_it_describes(pair: tuple[str, str], other: str) -> None:
    glob, path = pair
    automaton = one(glob)
    assert automaton.match(path) == {0}
    if not automaton.inexact:
        assert bool(automaton.match(other)) == PathGlob(glob, ()).matches(other)


@pytest.mark.parametrize(
    ("glob", "found", "left"),
    [
        ("/a", ["/a"], ["/a/a", "/b", "/"]),
        ("/**", ["/a", "/a/b/c"], []),
        ("**", ["/a", "/a/b/c"], []),
        ("**/**", ["/a", "/a/b/c"], []),
        ("/a/**", ["/a/b", "/a/b/c", "/a/a"], ["/a", "/b/a", "/b/a/c"]),
        ("/a/**/b", ["/a/b", "/a/x/b", "/a/x/y/b", "/a/b/b"], ["/b", "/x/a/b", "/a/b/x", "/a"]),
        ("/a/**/**/b", ["/a/b", "/a/x/b"], ["/x/a/b"]),
        ("/**/b", ["/b", "/a/b", "/b/b"], ["/b/a"]),
        ("/a/**/b/**", ["/a/b/c", "/a/x/b/c/d"], ["/a/b", "/a/c", "/x/a/b/c"]),
        ("**/x/**", ["/x/a", "/b/x/a/b"], ["/x", "/b/x", "/a/b"]),
        ("**/a/**/b", ["/a/b", "/x/a/x/b"], ["/b", "/x/b"]),
        ("**/**/b", ["/b", "/a/x/b"], ["/b/a"]),
        ("**/*/b", ["/b", "/a/b"], ["/b/a"]),
        ("**/**/*/*/b", ["/a/b", "/x/a/b"], ["/b", "/b/a"]),
        ("**/a/b", ["/a/b", "/x/a/b"], ["/a/x/b"]),
        ("~", ["/root", "/home/u"], ["/home", "/root/a", "/home/u/a", "/x/root"]),
        ("~/**", ["/root/a", "/home/u/a/b"], ["/root", "/home/u", "/home", "/x/home/u/a"]),
        ("~/a", ["/root/a", "/home/root/a"], ["/root/x/a", "/home/a", "/a", "/home/u/x/a"]),
        ("~/**/a", ["/root/a", "/root/x/a", "/home/u/x/y/a"], ["/home/a", "/x/root/a"]),
        ("~/home/a", ["/root/home/a", "/home/home/home/a"], ["/home/home/a", "/home/a"]),
        ("~/root", ["/root/root", "/home/root/root"], ["/root", "/home/root"]),
        ("**/*.pem", ["/a/.pem", "/x.pem"], ["/x.pem.b", "/x.pem/b", "/pem"]),
        ("/a*b/*", ["/ab/x", "/axb/x"], ["/a/x", "/b/x", "/axbx/x"]),
        ("/a/{b,c*}", ["/a/b", "/a/c", "/a/cc"], ["/a/bb"]),
        (r"/a/\*", ["/a/*"], ["/a/b"]),
        ("/é/*é", ["/é/é", "/é/xé"], ["/é/x"]),
    ],
)
def test_what_exact_globs_match(glob: str, found: list[str], left: list[str]) -> None:
    automaton = one(glob)
    assert automaton.inexact == {}
    assert [path for path in [*found, *left] if automaton.match(path)] == found


def test_a_glob_is_a_row_from_the_leaf_up() -> None:
    automaton = one("**/x/y*z/**", excepted=["~/q", "/q/r"])
    assert automaton.positions == 6
    assert automaton.any == automaton.repeat == 0b000001
    assert automaton.first == 0b011001
    assert (automaton.anywhere, automaton.home, automaton.root) == (0b000100, 0b001000, 0b100000)
    assert automaton.words == {b"x": 0b000100, b"q": 0b101000, b"r": 0b010000}
    assert automaton.starts == {b"": 0, b"y": 0b10}
    assert automaton.ends == {b"": 0, b"z": 0b10}
    assert automaton.accepts == {2: (0, False), 3: (0, True), 5: (0, True)}


def test_each_beginning_and_end_has_what_its_own_beginnings_have() -> None:
    automaton = compile_globs(
        [SlotGlobs(3, ["/ab*xy"]), SlotGlobs(2, ["/a*y"]), SlotGlobs(1, ["/abc*"])], ()
    )
    assert automaton.starts == {b"": 0, b"a": 0b010, b"ab": 0b011, b"abc": 0b111}
    assert automaton.ends == {b"": 0b100, b"y": 0b110, b"yx": 0b111}
    assert automaton.match("/abcxy") == {1, 2, 3}
    assert automaton.match("/abxy") == {2, 3}
    assert automaton.match("/ay") == {2}


def test_globs_that_differ_in_one_component_share_a_row() -> None:
    assert one("/etc/cron.{d,daily,weekly}/*").positions == 3
    assert one("**/*.{pem,key}", "**/*.key").positions == 1
    assert one("/a/*", "/a/b").positions == 2
    apart = one("/a*b", "/c*d", "/x")
    assert apart.positions == 2
    assert [path for path in ("/a1b", "/c1d", "/x", "/a1d") if apart.match(path)] == [
        "/a1b",
        "/c1d",
        "/x",
    ]
    assert one("/a", excepted=["/b"]).positions == 2
    assert compile_globs([SlotGlobs(0, ["/a"]), SlotGlobs(1, ["/a"])], ()).positions == 2


@pytest.mark.parametrize(
    ("glob", "found", "left", "reason"),
    [
        ("/*foo*bar*", ["/foobar", "/x"], ["/a/foobar"], "more than one '*'"),
        ("/a*b*c", ["/abc", "/ac"], ["/ab", "/bc"], "more than one '*'"),
        ("/a?", ["/ab", "/abc"], ["/b"], "'?' or a class"),
        ("/a[]x]b", ["/a]b", "/azb"], ["/a]"], "'?' or a class"),
        ("/[!]-]b", ["/xb"], ["/x]"], "'?' or a class"),
        ("/ab*ba", ["/abba", "/aba"], ["/ab"], "overlap"),
        ("/" + "n" * 63, ["/" + "n" * 63, "/" + "n" * 64], ["/" + "n" * 62], "longer than 62"),
        ("/" + "n" * 24 + "*", ["/" + "n" * 24, "/" + "n" * 23], ["/" + "n" * 22], "23 bytes"),
        ("/*" + "é" * 12, ["/" + "é" * 12], ["/" + "é" * 11], "23 bytes"),
        ("/\udca9*/a", ["/\udca9/a", "/b/a"], ["/\udca9"], "not UTF-8"),
    ],
)
def test_what_cannot_be_said_exactly_finds_more_and_is_listed(
    glob: str, found: list[str], left: list[str], reason: str
) -> None:
    automaton = one(glob)
    assert [path for path in [*found, *left] if automaton.match(path)] == found
    [note] = automaton.inexact[0]
    assert note.startswith(f"{glob}: ")
    assert reason in note
    excepted = one("**", excepted=[glob, "/left/alone"])
    assert all(excepted.match(path) for path in [*found, *left])
    assert not excepted.match("/left/alone")
    assert excepted.inexact == automaton.inexact


def test_the_longest_parts_that_are_exact() -> None:
    word, start, end = "w" * (WORD_LEN - 1), "s" * EDGE_LEN, "e" * EDGE_LEN
    automaton = one(f"/{word}", f"/a/{start}*{end}")
    assert automaton.inexact == {}
    assert automaton.match(f"/{word}")
    assert not automaton.match(f"/{word}w")
    assert automaton.match(f"/a/{start}{end}")
    assert not automaton.match(f"/a/{start}{end[1:]}")


def test_a_name_that_no_file_has_is_left_out() -> None:
    automaton = one("/a/{b,}/c", "/d\0e", "/x/f\0*")
    assert automaton.match("/a/c") == set()
    assert automaton.match("/a/b/c") == {0}
    assert automaton.match("/d") == set()
    assert automaton.positions == 3
    assert automaton.inexact == {}


def test_a_bad_glob_is_refused() -> None:
    with pytest.raises(GlobError):
        one("/a/[b")


def test_other_homes_are_homes() -> None:
    automaton = one("~/.x", "~", homes=HOMES)
    for home in ("/root", "/home/u", *HOMES):
        assert automaton.match(home) == {0}
        assert automaton.match(f"{home}/.x") == {0}
        assert automaton.match(f"{home}/y/.x") == set()
    assert automaton.match("/srv/1x/.x") == set()


def test_homes_beyond_the_cap_are_missed_and_listed() -> None:
    homes = [f"/srv/{number}" for number in range(MAX_HOMES + 2)]
    automaton = one("~/.x", "**/*.pem", excepted=["~/x.pem"], homes=homes)
    assert automaton.match("/srv/7/.x")
    assert automaton.match("/srv/8/.x") == set()
    assert automaton.missed == {0: ["~/.x: left out for /srv/8, /srv/9"]}
    assert automaton.match("/srv/7/x.pem") == set()
    assert automaton.match("/srv/8/x.pem") == {0}
    assert automaton.inexact == {0: ["~/x.pem: left out for /srv/8, /srv/9"]}


def test_the_least_severe_rules_go_first_when_there_is_no_room() -> None:
    long = "/" + "/".join("abcd" * 100)
    rules = [SlotGlobs(slot, [f"{long}/{slot}"], ["/x"]) for slot in range(3)]
    automaton = compile_globs([*rules, SlotGlobs(3, ["~/.x"])], ["/srv" + "/h" * 250])
    assert automaton.positions <= MAX_POSITIONS
    assert [slot for slot in range(3) if automaton.match(f"{long}/{slot}")] == [1, 2]
    assert automaton.missed == {
        0: [f"{long}/0: more than 1024 positions"],
        3: ["~/.x: left out for /srv" + "/h" * 250],
    }
    assert automaton.match("/root/.x") == {3}


def test_no_rules_and_rules_without_globs_match_nothing() -> None:
    assert compile_globs([], ()) == Automaton()
    assert compile_globs([SlotGlobs(0, [], ["/a"])], ()).match("/a") == set()


@pytest.fixture(scope="module")
def shipped() -> dict[int, Rule]:
    return dict(enumerate(rule for rule in load([RULES]).rules if rule.family == "file"))


def globs_of(slot: int, rule: Rule) -> SlotGlobs:
    positive, negative = split_negated(rule.match.path or ())
    return SlotGlobs(slot, positive or ["**"], [*negative, *(rule.match.except_ or ())])


def test_the_shipped_rules_agree_on_all_their_examples(shipped: dict[int, Rule]) -> None:
    rules = [globs_of(*entry) for entry in shipped.items()]
    automaton = compile_globs(rules, ())
    subjects = [
        {MAIN_FIELD["file"]: example} if isinstance(example, str) else dict(example)
        for rule in shipped.values()
        for example in (*rule.tests.match, *rule.tests.pass_)
    ]
    paths = {path for subject in subjects for path in file_paths(subject)}
    assert len(paths) > 150
    for path in paths:
        assert automaton.match(path) == {rule.slot for rule in rules if meant(rule, path, ())}
    for slot, rule in shipped.items():
        for example in rule.tests.match:
            subject = {"path": example} if isinstance(example, str) else dict(example)
            assert any(slot in automaton.match(path) for path in file_paths(subject)), example


def test_the_shipped_rules_fit_with_room_to_spare(shipped: dict[int, Rule]) -> None:
    automaton = compile_globs([globs_of(*entry) for entry in shipped.items()], ())
    assert automaton.positions < MAX_POSITIONS / 2
    assert automaton.missed == {}
    inexact = {shipped[slot].id: notes for slot, notes in automaton.inexact.items()}
    assert inexact == {
        "secret-ssh-key": [
            "/etc/ssh/ssh_host_*_key: what is before '*' may overlap what is after it"
        ]
    }


def test_the_homes_of_services_displace_no_rule(shipped: dict[int, Rule]) -> None:
    rules = [globs_of(*entry) for entry in shipped.items()]
    automaton = compile_globs(rules, DEBIAN_HOMES)
    assert automaton.positions <= MAX_POSITIONS
    assert all("left out for" in note for notes in automaton.missed.values() for note in notes)
    for slot, rule in shipped.items():
        for example in rule.tests.match:
            subject = {"path": example} if isinstance(example, str) else dict(example)
            assert any(slot in automaton.match(path) for path in file_paths(subject)), example
