"""Paths as they are written in tool arguments and system calls -> the path that is meant.

Purely lexical: symbolic links are resolved by whoever opens the file, never here.
"""

import posixpath
import re
from urllib.parse import unquote

_UNTIDY = re.compile(r"//|/\.\.?(?:/|\Z)|\A\.\.?/|\A/proc/|.(?<=/)\Z", re.DOTALL).search
_REPEATED = re.compile(r"/(?:\.?/)+")
_ROOT_ALIAS = re.compile(r"\A/proc/(?:self|thread-self|[0-9]+)(?:/task/[0-9]+)?/root(?=/|\Z)")
_HOME = re.compile(r"\A(?:~|\$HOME|\$\{HOME\})(?=/)")
_FILE_URI = re.compile(r"\Afile:(?://[^/]*(?=/))?", re.IGNORECASE)

PATH_MAX = 4096  # bytes, Linux; also the most components that a path can have
LONG = 4 * PATH_MAX


def could_be_path(text: str) -> bool:
    """False only for a text that is still longer than any path when it has been tidied.

    Doubled slashes, `.` and `..` take at most two components each away; file contents, the usual
    long argument, are told apart without being tidied.
    """
    if len(text) <= LONG or text[:5].lower() == "file:":
        return True
    removable = text.count("//") + text.count("/./") + text.count("/..")
    return text.count("/") - 2 * removable <= PATH_MAX


def canonical(path: str) -> str:
    """Without `.`, `..`, doubled slashes and the alias `/proc/PID/root`."""
    if _UNTIDY(path) is None:
        return path
    while True:
        before = path
        path = _ROOT_ALIAS.sub("", _REPEATED.sub("/", path)) or "/"
        path = posixpath.normpath(path)
        if path == before:
            return path


def meant_by(text: str) -> str:
    """The path that a tool argument names: `file:` URIs are decoded, `~` and `$HOME` become /root.

    /root stands for "a home": path globs that begin with `~` match it.
    """
    if text[:5].lower() == "file:":
        text = _FILE_URI.sub("", text).partition("#")[0].partition("?")[0]
        text = unquote(text, errors="surrogateescape")
    if text.startswith(("~", "$")):
        text = _HOME.sub("/root", text)
    return canonical(text)
