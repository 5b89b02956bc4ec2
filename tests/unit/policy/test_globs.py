"""Globs mean what their documentation says, and the index finds exactly what they match."""

import contextlib
import fnmatch
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.policy.globs import GlobError, NameGlobs, PathGlob, PathIndex, expand_braces
from tests.unit.policy.strategies import ANY_PATH, glob_and_path


def matches(glob: str, path: str) -> bool:
    index = PathIndex()
    index.add(glob)
    return bool(index.owners(path))


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/etc/shadow", "/etc/shadow"),
        ("~/.ssh/id_*", "/root/.ssh/id_rsa"),
        ("~/.ssh/id_*", "/home/dev/.ssh/id_ed25519"),
        ("~/.gnupg/**", "/home/dev/.gnupg/a/b"),
        ("**/.env", "/.env"),
        ("**/.env", "/srv/a/b/.env"),
        ("**/*.pem", "/srv/x.pem"),
        ("/a/**/b", "/a/b"),
        ("/a/**/b", "/a/x/y/b"),
        ("/proc/*/environ", "/proc/12/environ"),
        ("~/.x/{Login Data,Cookies}", "/root/.x/Login Data"),
        ("/a/[a-c]?", "/a/b."),
        ("/a/[!a-c]", "/a/d"),
        (r"/a/\*", "/a/*"),
        (r"/a/\{b", "/a/{b"),
        ("/a/[]]", "/a/]"),
        ("/a/*", "/a/.hidden"),
        ("/a/*", "/a/line\nend"),
    ],
)
def test_matches(glob: str, path: str) -> None:
    assert matches(glob, path)


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/etc/shadow", "/etc/shadow-"),
        ("~/.ssh/id_*", "/home/dev/x/.ssh/id_rsa"),
        ("~/.ssh/id_*", "/home/dev/.ssh/id_rsa/x"),
        ("~/.gnupg/**", "/home/dev/.gnupg"),
        ("**/.env", "/srv/x.env"),
        ("**/*.pem", "/srv/x.pem.txt"),
        ("/a/*", "/a/b/c"),
        ("/a/?", "/a//"),
        ("/a[!b]c", "/a/c"),
        ("/a/[a-c]", "/a/d"),
        (r"/a/\*", "/a/b"),
    ],
)
def test_does_not_match(glob: str, path: str) -> None:
    assert not matches(glob, path)


@pytest.mark.parametrize(
    ("glob", "mend"),
    [
        ("*.pem", "**/.pem"),
        ("x/y", "**/x/y"),
        ("/a/{b", "close it"),
        ("/a/[b", "close it"),
        ("/a/b**", "'/**/'"),
        ("/a/", "'/a/**'"),
        ("/a\\", "backslash"),
        ("~dev/x", "~/..."),
        ("/" + "{a,b}" * 12, "several globs"),
    ],
)
def test_impossible_globs_are_refused_with_a_mend(glob: str, mend: str) -> None:
    with pytest.raises(GlobError) as caught:
        PathIndex().add(glob)
    assert mend in f"{caught.value} {caught.value.mend}"


def test_other_homes_count_as_homes() -> None:
    assert PathGlob("~/.pgpass", homes=("/var/lib/postgresql",)).matches(
        "/var/lib/postgresql/.pgpass"
    )
    assert not PathGlob("~/.pgpass", homes=()).matches("/var/lib/postgresql/.pgpass")


def test_braces_nest() -> None:
    assert expand_braces("a{b,c{d,e}}f") == ["abf", "acdf", "acef"]


@pytest.mark.parametrize(
    ("globs", "name", "expected"),
    [
        (["delete_*"], "delete_file", True),
        (["delete_*"], "undelete_file", False),
        (["*/x"], "a/b/x", True),
        (["a", "b*"], "b", True),
        (["*", "!secret*"], "secret_x", False),
        (["!secret*"], "other", True),
        (["!secret*"], "secret", False),
        ([""], "", False),
        (["*{run,exec}*"], "re-exec-it", True),
    ],
)
def test_names(globs: list[str], name: str, expected: bool) -> None:
    if globs == [""]:
        with pytest.raises(GlobError):
            NameGlobs(globs)
        return
    assert NameGlobs(globs).match(name) is expected


@given(glob_and_path())
def test_the_index_finds_every_path_that_a_glob_describes(pair: tuple[str, str]) -> None:
    glob, path = pair
    assert PathGlob(glob).matches(path)
    assert matches(glob, path)


@settings(max_examples=60)
@given(st.lists(glob_and_path(), min_size=1, max_size=6), st.lists(ANY_PATH, max_size=6))
def test_the_index_agrees_with_every_glob_on_its_own(
    pairs: list[tuple[str, str]], others: list[str]
) -> None:
    index = PathIndex()
    for owner, (glob, _) in enumerate(pairs):
        index.add(glob, owner)
    for path in [*(path for _, path in pairs), *others]:
        expected = {at for at, (glob, _) in enumerate(pairs) if PathGlob(glob).matches(path)}
        assert index.owners(path) == expected


@given(st.text(max_size=30))
def test_no_text_makes_a_glob_crash(text: str) -> None:
    with contextlib.suppress(GlobError):
        PathIndex().add("/" + text)
    with contextlib.suppress(GlobError):
        NameGlobs([text])


@given(st.text(alphabet=st.characters(), max_size=30))
def test_no_path_makes_the_index_crash(path: str) -> None:
    index = PathIndex()
    for glob in ("~/.ssh/id_*", "**/*.pem", "/etc/**", "**/abc*"):
        index.add(glob)
    index.owners(path)


@pytest.mark.parametrize(
    ("glob", "text"),
    [
        ("*ab*cd*ef", "ab" * 4000 + "cd" * 4000),
        ("*{delete,drop}*{volume,table}*", "delete" * 40_000),
        ("/tmp/*a*a*a*b", "/tmp/" + "a" * 2000),
        ("/**/x/**/y/**/z", "/x" * 1000 + "/y" * 1000),
    ],
)
def test_a_text_made_for_a_glob_takes_no_long_time(glob: str, text: str) -> None:
    started = time.process_time()
    matched = PathGlob(glob).matches(text) if glob[0] == "/" else NameGlobs([glob]).match(text)
    assert not matched
    assert time.process_time() - started < 1.0


# Built piece by piece, so that most globs match in more than one way.
PIECES = st.lists(st.sampled_from(["a", "b", "ab", "*", "?", "[ab]", "[!a]"]), max_size=7)


@given(PIECES, st.text("abc", max_size=10))
def test_stars_mean_the_same_as_in_fnmatch(pieces: list[str], text: str) -> None:
    glob = "".join(pieces) or "*"
    assert NameGlobs([glob]).match(text) == fnmatch.fnmatchcase(text, glob)


@given(
    st.lists(st.sampled_from(["**", "*", "a", "b", "a*", "*b", "*a*b"]), min_size=1, max_size=6),
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=7),
)
def test_double_stars_take_any_number_of_components(
    components: list[str], names: list[str]
) -> None:
    def fits(wanted: list[str], given: list[str]) -> bool:
        if not wanted or not given:
            return not wanted and not given
        if wanted[0] == "**":
            return len(wanted) == 1 or any(fits(wanted[1:], given[at:]) for at in range(len(given)))
        return fnmatch.fnmatchcase(given[0], wanted[0]) and fits(wanted[1:], given[1:])

    glob = PathGlob("/" + "/".join(components))
    assert glob.matches("/" + "/".join(names)) == fits(components, names)
