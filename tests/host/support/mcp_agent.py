"""An agent: starts an MCP server with the PyPI client and makes the calls that it is told to.

`python mcp_agent.py PLAN`, where PLAN is JSON: {"server": [argument vector], "calls": [[tool,
arguments], ...]}. Prints one JSON line a call: {"error": whether it failed, "text": what the agent
was told}. A program of its own, so that it can be started by `agentd run`.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from mcp import ClientSession, MCPError, StdioServerParameters, stdio_client
from mcp.types import TextContent


async def main(plan: dict[str, Any]) -> None:
    command, *arguments = plan["server"]
    parameters = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
    with Path(os.devnull).open("w") as errors:
        server = stdio_client(parameters, errlog=errors)
        async with server as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            for tool, values in plan["calls"]:
                try:
                    answer = await session.call_tool(tool, values)
                    texts = [part.text for part in answer.content if isinstance(part, TextContent)]
                    told = {"error": bool(answer.is_error), "text": "\n".join(texts)}
                except MCPError as error:
                    told = {"error": True, "text": str(error)}
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
