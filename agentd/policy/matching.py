"""The `match:` part of rules, compiled: which rules can apply to an event.

What a rule says about names, paths and addresses is looked up for all rules at once (an index, or a
bounded cache by the names); what it says about arguments is tested rule by rule.
"""

import ipaddress
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from agentd.policy.arguments import Arguments, PathPatterns, ValuePattern
from agentd.policy.globs import NameGlobs, PathIndex, path_index
from agentd.policy.paths import canonical
from agentd.policy.regexes import Regex
from agentd.policy.rules import Match, TextTest
from agentd.policy.side import signal_number
from agentd.policy.socket_paths import names_abstract

Subject = dict[str, Any]
Test = Callable[[Subject], bool]
Address = tuple[int, int]  # version (4 or 6) and the address as a number

CACHE_ENTRIES = 4096


def server_name(subject: Subject) -> str:
    """The name of the MCP server: the subject may have the name or the event's server object."""
    server = subject.get("server")
    if isinstance(server, dict):
        server = server.get("name")
    return server if isinstance(server, str) else ""


def mcp_names(match: Match) -> Test:
    """The test of tool, server and method."""
    tool, server, method = _globs(match.tool), _globs(match.server), _globs(match.method)

    def test(subject: Subject) -> bool:
        if tool is not None:
            name = subject.get("tool")
            if not (isinstance(name, str) and name and tool.match(name)):
                return False
        if server is not None and not server.match(server_name(subject)):
            return False
        return method is None or method.match(str(subject.get("method") or ""))

    return test


def mcp_arguments(match: Match) -> Test | None:
    """The test of a tool's arguments; of a result; of anything else, of its params or arguments.

    Without a tool all of these are looked at: a request could carry an empty `arguments` to hide
    what its params say.
    """
    if not match.arguments:
        return None
    arguments = Arguments({path: _pattern(text) for path, text in match.arguments.items()})

    def test(subject: Subject) -> bool:
        if subject.get("result") is not None:
            return arguments.match(subject["result"])
        if subject.get("tool"):
            return arguments.match(subject.get("arguments"))
        return any(
            arguments.match(subject[name])
            for name in ("params", "arguments")
            if subject.get(name) is not None
        )

    return test


def exec_names(match: Match) -> Test:
    """The test of the executable: its resolved path, or the name given to exec."""
    exe = None if match.exe is None else PathPatterns(match.exe)

    def test(subject: Subject) -> bool:
        if exe is None:
            return True
        resolved = canonical(str(subject.get("exe") or ""))
        if exe.match(resolved):
            return True
        filename = subject.get("filename")
        return (
            bool(exe.positive)
            and isinstance(filename, str)
            and exe.allows(resolved)
            and exe.match(canonical(filename))
        )

    return test


def exec_argv(match: Match) -> Test | None:
    """The test of the command line."""
    if match.argv is None:
        return None
    wanted = [NameGlobs([glob]) for glob in match.argv.globs if not glob.startswith("!")]
    unwanted = [NameGlobs([glob[1:]]) for glob in match.argv.globs if glob.startswith("!")]
    regex = None if match.argv.regex is None else Regex(match.argv.regex)

    def test(subject: Subject) -> bool:
        argv = [str(argument) for argument in subject.get("argv") or ()]
        return (
            all(any(glob.match(argument) for argument in argv) for glob in wanted)
            and not any(glob.match(argument) for glob in unwanted for argument in argv)
            and (regex is None or regex.search(" ".join(argv)))
        )

    return test


def side_test(match: Match) -> Test | None:
    """The test of what the event's process does to another one, or to the system."""
    wanted: list[tuple[str, frozenset[str]]] = []
    if match.access is not None:
        wanted.append(("access", frozenset(match.access)))
    if match.kind is not None:
        wanted.append(("kind", frozenset(match.kind)))
    signals = None if match.signal is None else frozenset(match.signal)
    place = None if match.path is None and match.except_ is None else FileTest(match, access=False)
    if not wanted and signals is None and place is None:
        return None

    def test(subject: Subject) -> bool:
        for name, values in wanted:
            given = subject.get(name)  # one of them, or several: "mount|bind|move"
            if not isinstance(given, str) or values.isdisjoint(given.split("|")):
                return False
        if signals is not None and _signal(subject.get("signal")) not in signals:
            return False
        return place is None or place(subject)

    return test


def _signal(value: Any) -> int:
    try:
        return signal_number(value)
    except ValueError:
        return 0


class FileTest:
    """The test of a path (for a rename: of both paths) and of the access."""

    __slots__ = ("_access", "_excepted", "paths")

    def __init__(self, match: Match, *, access: bool = True) -> None:
        self.paths = PathPatterns(match.path or ())
        self._excepted: PathIndex | None = path_index(match.except_ or ())
        tested = match.access if access else None
        self._access = None if tested is None else frozenset(tested)

    def __call__(self, subject: Subject) -> bool:
        """Whether the subject matches."""
        if self._access is not None:
            access = subject.get("access") or ()  # "read", "write" or both: "read|write"
            if not any(kind in access for kind in self._access):
                return False
        return any(
            (not self.paths.positive or self.paths.match(path))
            and self.paths.allows(path)
            and (self._excepted is None or not self._excepted.owners(path))
            for path in file_paths(subject)
        )


def file_paths(subject: Subject) -> list[str]:
    """The canonical paths of a file event: the file, and where it is renamed to."""
    return [
        canonical(path)
        for path in (subject.get("path"), subject.get("to"))
        if isinstance(path, str) and path
    ]


def socket_test(match: Match) -> Test:
    """The test of the kind of a socket that is made."""
    families = None if match.family is None else frozenset(match.family)

    def test(subject: Subject) -> bool:
        return families is None or subject.get("family") in families

    return test


def network_test(match: Match) -> Test:
    """The test of address, port, protocol and Unix socket path.

    A glob that has a path in it means no abstract name (`@...`).
    """
    networks = [_range(text) for text in match.cidr or ()]
    excepted = [_range(text) for text in match.except_ or ()]
    ports = match.port
    protocols = None if match.protocol is None else frozenset(match.protocol)
    path = _globs(match.path)
    internet = bool(networks or excepted or ports)
    abstract = match.path is None or names_abstract(match.path)

    def test_internet(subject: Subject) -> bool:
        if path is not None:
            return False
        port = subject.get("port")
        if ports is not None and not (
            isinstance(port, int) and any(low <= port <= high for low, high in ports)
        ):
            return False
        if not networks and not excepted:
            return True
        address = parse_address(str(subject.get("address") or ""))
        return (
            address is not None
            and (not networks or _inside(address, networks))
            and not _inside(address, excepted)
        )

    def test_path(text: str) -> bool:
        return path is not None and (abstract or not text.startswith("@")) and path.match(text)

    def test(subject: Subject) -> bool:
        if subject.get("family") == "unix":
            return (
                not internet
                and (protocols is None or "unix" in protocols)
                and (path is None or test_path(str(subject.get("path") or "")))
            )
        return (protocols is None or subject.get("protocol") in protocols) and test_internet(
            subject
        )

    return test


@lru_cache(maxsize=CACHE_ENTRIES)
def parse_address(text: str) -> Address | None:
    """An address as a number; an IPv4 address written as IPv6 (`::ffff:1.2.3.4`) is IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return (4, int(mapped)) if mapped is not None else (address.version, int(address))


def _range(text: str) -> tuple[int, int, int]:
    network = ipaddress.ip_network(text)
    return network.version, int(network.network_address), int(network.broadcast_address)


def _inside(address: Address, ranges: Iterable[tuple[int, int, int]]) -> bool:
    version, number = address
    return any(version == kind and low <= number <= high for kind, low, high in ranges)


def _globs(globs: tuple[str, ...] | None) -> NameGlobs | None:
    return None if globs is None else NameGlobs(globs)


def _pattern(text: TextTest) -> ValuePattern:
    return ValuePattern(text.globs, text.regex)
