#!/usr/bin/python3
"""A scripted agent and its MCP server, both in this file, with the standard library alone.

The agent starts the server (`--server`) and makes three calls, which rules/demo.yaml of agentd
allows, refuses and holds for a person. It prints what it is answered. The server would do all three.
"""

import json
import subprocess
import sys
from pathlib import Path

PLACE = Path("/tmp/agentd-demo")
CALLS = [
    ("write_file", {"path": f"{PLACE}/notes.txt", "content": "hello\n"}),
    ("write_file", {"path": "/etc/issue.net", "content": "Pwned by an agent, nobody noticed.\n"}),
    ("move_file", {"source": f"{PLACE}/notes.txt", "destination": f"{PLACE}/old.txt"}),
]


def write_file(path, content):
    Path(path).write_text(content)
    return f"wrote {path}"


def move_file(source, destination):
    Path(source).rename(destination)
    return f"moved {source} to {destination}"


TOOLS = {"write_file": write_file, "move_file": move_file}


def call(name, arguments=None):
    """The result of tools/call. A refused call arrives as one of a tool that does not exist."""
    tool = TOOLS.get(name)
    try:
        text = tool(**arguments) if tool else f"unknown tool: {name}"
    except OSError as error:
        tool, text = None, str(error)
    return {"isError": tool is None, "content": [{"type": "text", "text": text}]}


def serve():
    """Answer requests, one a line, until the end of the input."""
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "id" not in request:
            continue
        answer = {"jsonrpc": "2.0", "id": request["id"]}
        match request["method"]:
            case "initialize":
                answer["result"] = {
                    "protocolVersion": request["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "sample-server", "version": "1"},
                }
            case "tools/call":
                answer["result"] = call(**request["params"])
            case method:
                answer["error"] = {"code": -32601, "message": f"no method {method}"}
        print(json.dumps(answer), flush=True)


def act():
    """Start the server, and make the calls one after the other."""
    PLACE.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "--server"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:

        def send(method, params, **number):
            message = {"jsonrpc": "2.0", **number, "method": method, "params": params}
            print(json.dumps(message), file=server.stdin, flush=True)

        client = {"name": "sample-agent", "version": "1"}
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        send("initialize", hello, id=0)
        server.stdout.readline()
        send("notifications/initialized", {})
        for number, (tool, arguments) in enumerate(CALLS, start=1):
            send("tools/call", {"name": tool, "arguments": arguments}, id=number)
            result = json.loads(server.stdout.readline())["result"]
            print("error:" if result["isError"] else "ok:", result["content"][0]["text"])
        server.stdin.close()


if __name__ == "__main__":
    serve() if "--server" in sys.argv else act()
