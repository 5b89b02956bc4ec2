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
