"""An agent: starts one MCP server and speaks a script to it. Run as a program in a session.

Arguments: a script (JSON file), and where to write the transcript. The script has `server` (its
argument vector), `transport` (pipe, socketpair: one for both directions, socketpairs: one each as
Node does) and `steps`: [{"send": text, "cut": bytes of each write or 0, "answers": how many lines
to wait for}]. The transcript has the two pids and every line that came back.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def _start(script: dict[str, Any]) -> tuple[subprocess.Popen[bytes], int, int]:
    command: list[str] = script["server"]
    if script["transport"] == "pipe":
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        return process, process.stdin.fileno(), process.stdout.fileno()
    ours, theirs = socket.socketpair()
    ours_out, theirs_out = (
        socket.socketpair() if script["transport"] == "socketpairs" else (ours.dup(), theirs.dup())
    )
    process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs_out.fileno())
    theirs.close()
    theirs_out.close()
    return process, ours.detach(), ours_out.detach()


def main() -> None:
    script = json.loads(Path(sys.argv[1]).read_bytes())
    process, to_server, from_server = _start(script)
    received: list[str] = []
    buffer = b""
    for step in script["steps"]:
        data = step["send"].encode("utf-8", "surrogateescape")
        cut = step.get("cut") or len(data)
        for at in range(0, len(data), cut):
            piece = memoryview(data[at : at + cut])
            while piece:
                piece = piece[os.write(to_server, piece) :]
        wanted = len(received) + step.get("answers", 0)
        while len(received) < wanted:
            chunk = os.read(from_server, 1 << 20)
            if not chunk:
                raise SystemExit("the server ended")
            *lines, buffer = (buffer + chunk).split(b"\n") if b"\n" in chunk else [buffer + chunk]
            received += [line.decode() for line in lines]
    transcript = {"client": os.getpid(), "server": process.pid, "received": received}
    Path(sys.argv[2]).write_text(json.dumps(transcript))
    if script["transport"] != "pipe":
        socket.socket(fileno=to_server).shutdown(socket.SHUT_WR)
    else:
        os.close(to_server)
    process.wait(10)


if __name__ == "__main__":
    main()
