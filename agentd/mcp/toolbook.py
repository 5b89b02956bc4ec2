"""What a server said its tools are, and whether it still says so (rug pull, standards: MCP03)."""

from typing import Any

import orjson

_MOST_TOOLS = 4096


class Toolbook:
    """Digests of one server's tool definitions, first seen first kept, at most 4096.

    `digests` maps tool name to the keyed hash (SipHash; the key is this process's own, so no server
    can aim at it) of its definition without `_meta` and `icons`: description, schemas, annotations
    and title all count.
    """

    __slots__ = ("digests",)

    def __init__(self) -> None:
        self.digests: dict[str, int] = {}

    def compare(self, tools: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Take the `tools` of a tools/list result; returns names (changed, listed twice).

        A changed definition replaces the old one, so that each change is told once.
        """
        if type(tools) is not list:
            return (), ()
        changed: list[str] = []
        doubled: list[str] = []
        seen: set[str] = set()
        for tool in tools:
            name = tool.get("name") if type(tool) is dict else None
            if type(name) is not str:
                continue
            if name in seen:
                doubled.append(name)
            seen.add(name)
            digest = _digest(tool)
            known = self.digests.get(name)
            if known is None:
                if len(self.digests) < _MOST_TOOLS:
                    self.digests[name] = digest
            elif known != digest:
                changed.append(name)
                self.digests[name] = digest
        return tuple(changed), tuple(doubled)


def _digest(tool: dict[str, Any]) -> int:
    stable = {key: value for key, value in tool.items() if key not in ("_meta", "icons")}
    try:
        text = orjson.dumps(stable, option=orjson.OPT_SORT_KEYS)
    except (TypeError, orjson.JSONEncodeError):
        text = repr(stable).encode("utf-8", "surrogatepass")
    return hash(text)
