"""Name globs on the paths of Unix sockets -> path globs, by which the kernel matches listeners.

In a name glob `*` stands for anything, slashes included; in a path glob it stays in its component.
What stands for a slash, too, is spelled out in several path globs.
"""

from collections.abc import Iterable, Iterator
from itertools import product

from agentd.policy.globs import expand_braces, split_negated

MAX_SPELLED = 16
_WILD = ("?", "[", "\\")


def path_globs(globs: Iterable[str]) -> list[str] | None:
    """Path globs that match the same absolute paths, `!` kept; None if there are none such."""
    spelled: list[str] = []
    positive, negative = split_negated(globs)
    for sign, texts in (("", positive), ("!", negative)):
        for text in (one for glob in texts for one in expand_braces(glob)):
            found = _spelled(text)
            if found is None:
                return None
            spelled += [sign + one for one in found]
    return spelled


def names_abstract(globs: Iterable[str]) -> bool:
    """Whether some abstract name (`@...`) may match: a glob with a path in it means a path."""
    positive, _ = split_negated(globs)
    texts = [one for glob in positive for one in expand_braces(glob)]
    return not positive or any(not text.startswith(("/", "*/", "**/")) for text in texts)


def _spelled(text: str) -> list[str] | None:
    """One glob without braces; [] if it matches no absolute path."""
    if any(wild in text for wild in _WILD):
        return None
    while "**" in text:
        text = text.replace("**", "*")
    if not text.startswith(("/", "*")):
        return []
    if text.endswith("/"):
        return []
    head, *components = text.split("/")
    if any(one.count("*") > 1 for one in (head, *components)):
        return None  # the kernel compares how a name begins and how it ends
    if head:  # begins with `*`: in any directory
        components = [head, *components] if head != "*" else components or ["*"]
    last = len(components) - 1
    pieces = [list(_within(one, last=index == last)) for index, one in enumerate(components)]
    spelled = ["/".join(chosen) for chosen in product(*pieces)]
    # `**/*/a` would match `/a` as well, which has one slash less.
    start = "/" if not head else "/**/" if spelled[0].startswith("*") else "**/"
    return [start + one for one in spelled] if len(spelled) <= MAX_SPELLED else None


def _within(component: str, *, last: bool = True) -> Iterator[str]:
    """A component whose `*` may stand for slashes as well."""
    runs = component.split("*")
    for chosen in product(("*", "*/**/*"), repeat=len(runs) - 1):
        text = "".join(run + star for run, star in zip(runs, (*chosen, ""), strict=True))
        if not last or not text.endswith("/**/*"):
            yield text
        else:
            yield text.removesuffix("/*")
