"""Random path globs, each with a path that it matches."""

from hypothesis import strategies as st

PIECE = st.text(alphabet="ab.é-", min_size=1, max_size=9).filter(
    lambda text: text not in {".", ".."}
)


@st.composite
def component(draw: st.DrawFn) -> tuple[str, str]:
    """One component of a glob, and a name it matches."""
    glob, name = "", ""
    for kind in draw(st.lists(st.sampled_from("lswc"), min_size=1, max_size=3)):
        if kind == "l":
            piece = draw(PIECE)
            glob, name = glob + piece, name + piece
        elif kind == "s" and not glob.endswith("*"):
            glob, name = glob + "*", name + draw(st.one_of(st.just(""), PIECE))
        elif kind == "w":
            glob, name = glob + "?", name + draw(st.sampled_from("ab.é"))
        elif kind == "c":
            glob, name = glob + "[!x-z]", name + draw(st.sampled_from("ab.é"))
    return (glob or "a"), (name or ("a" if not glob else name))


@st.composite
def glob_and_path(draw: st.DrawFn) -> tuple[str, str]:
    """A path glob and a path that it matches."""
    start, below = draw(
        st.sampled_from(
            [("", ""), ("~", "/root"), ("~", "/home/dev"), ("**", "/srv/x"), ("**", "")]
        )
    )
    globs, names = [start], [below]
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.integers(0, 5)) == 0 and globs[-1] != "**":
            globs.append("**")
            names.extend(draw(st.lists(PIECE, max_size=3)))
        else:
            glob, name = draw(component().filter(lambda pair: pair[1] not in {"", ".", ".."}))
            globs.append(glob)
            names.append(name)
    if globs[-1] == "**":
        names.append(draw(PIECE))
    return "/".join(globs), "/".join(names)


ANY_PATH = st.lists(PIECE, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))

# Few names, so that globs and paths drawn apart from each other meet often.
NAMES = ["a", "b", "ab", "ba", "aba", "abba", "é", "home", "root", "var", "lib"]
EXACT_COMPONENTS = [*NAMES, "*", "a*", "*a", "ab*", "*b", "a*b", "é*", "r*t", "**"]
VAGUE_COMPONENTS = ["?", "[ab]", "a?b", "*b*", "a*b*a", "ab*ba", "[!a]*", "?*t"]


def colliding_globs(*, exact: bool) -> st.SearchStrategy[str]:
    """Path globs that the kernel can be told exactly, or any, with braces in some."""
    components = st.sampled_from(EXACT_COMPONENTS + ([] if exact else VAGUE_COMPONENTS))
    braces = st.lists(st.sampled_from(NAMES), min_size=2, max_size=3).map(
        lambda names: "{" + ",".join(names) + "}"
    )
    body = st.lists(st.one_of(components, components, braces), min_size=1, max_size=4)
    heads = st.sampled_from(["", "~", "**"])
    whole = st.builds(lambda head, parts: "/".join([head, *parts]), heads, body)
    return st.one_of(whole, whole, whole, st.sampled_from(["~", "**"]))


COLLIDING_PATH = st.builds(
    lambda head, names: head + "/" + "/".join(names),
    st.sampled_from(["", "", "/root", "/home/a", "/home/root", "/var/lib/b"]),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=5),
)
