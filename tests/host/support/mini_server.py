"""A small MCP server over stdio: run as a program, standard library only, ready in 20 ms.

It takes what a lenient server would: batches, a byte order mark, carriage returns, any member
order; a line that is not JSON is skipped. `--read` says by which system call it reads.

Tools: `write` (path, content), `remove` (path), `echo` (text, or size: that many bytes), `pid`.
"""

import argparse
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

_CHUNK = 65536


def _reader(how: str, size: int) -> Any:
    if how == "read":
        return lambda: os.read(0, size)
    if how in {"readv", "preadv2", "readv-bytes"}:
        pieces = [bytearray(7), bytearray(100), bytearray(size)]
        if how == "readv-bytes":
            pieces = [bytearray(0)] * 20 + [bytearray(1) for _ in range(1000)]

        def readv() -> bytes:
            got = os.preadv(0, pieces, -1) if how == "preadv2" else os.readv(0, pieces)
            return b"".join(pieces)[:got]

        return readv
    end = socket.socket(fileno=0)
    if how == "recvfrom":
        return lambda: end.recvfrom(size)[0]
    if how == "recvmsg":
        parts = [bytearray(16), bytearray(1), bytearray(size)]

        def recvmsg() -> bytes:
            got = end.recvmsg_into(parts)[0]
            return b"".join(parts)[:got]

        return recvmsg
    raise ValueError(how)


def _call(params: dict[str, Any]) -> dict[str, Any]:
    arguments = params.get("arguments") or {}
    match params.get("name"):
        case "write":
            Path(arguments["path"]).write_text(arguments.get("content", ""))
            text = "written"
        case "remove":
            Path(arguments["path"]).unlink()
            text = "removed"
        case "flood":
            for name in map(str, range(arguments["count"])):
                path = Path(arguments["path"], name)
                path.touch()
                path.unlink()
            text = "flooded"
        case "echo":
            text = arguments.get("text") or "x" * int(arguments.get("size", 0))
        case "pid":
            text = str(os.getpid())
        case unknown:
            return {"isError": True, "content": [{"type": "text", "text": f"no tool {unknown}"}]}
    return {"content": [{"type": "text", "text": text}]}


def _answer(message: Any) -> dict[str, Any] | None:
    if not isinstance(message, dict) or "method" not in message:
        return None
    if "id" not in message:
        return None
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    params = message.get("params") or {}
    match message["method"]:
        case "initialize":
            info = {"name": "mini", "version": "1"}
            version = params.get("protocolVersion")
            answer["result"] = {"protocolVersion": version, "capabilities": {}, "serverInfo": info}
        case "ping":
            answer["result"] = {}
        case "tools/list" | "server/discover":
            answer["result"] = {"tools": [{"name": "echo"}]}
        case "tools/call":
            answer["result"] = _call(params)
        case unknown:
            answer["error"] = {"code": -32601, "message": f"no method {unknown}"}
    return answer


def _handle(line: bytes) -> None:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except ValueError:
        return
    if isinstance(value, list):
        answers: Any = [each for each in map(_answer, value) if each is not None]
    else:
        answers = _answer(value)
    if answers:
        data = memoryview(json.dumps(answers).encode() + b"\n")
        while data:
            data = data[os.write(1, data) :]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--read", default="read")
    parser.add_argument("--chunk", type=int, default=_CHUNK)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    for _ in range(arguments.threads):
        threading.Thread(target=_idle, daemon=True).start()
    read = _reader(arguments.read, arguments.chunk)
    pending = b""
    while data := read():
        *lines, pending = (pending + data).split(b"\n") if b"\n" in data else [pending + data]
        for line in lines:
            if line.strip():
                _handle(line)
    sys.exit(0)


def _idle() -> None:
    while True:
        time.sleep(0.01)


if __name__ == "__main__":
    main()
