"""`make lab`: one command, or a shell, on a lab kernel.

    python -m tests.lab.run [--append "lsm=lockdown,yama"] [--count] [--timeout S] 6.12 [COMMAND]

COMMAND is bash, run as root in the checkout with its virtual environment on PATH; without one, a
terminal gets a shell and anything else `agentd doctor`. The exit code is the command's; 125 if the
machine ended without one, with the end of what its kernel said.
"""

import argparse
import os
import shlex
import sys
import tempfile
import threading
from pathlib import Path

from tests.lab.support.kernels import SERIES, KernelUnavailableError, fetch
from tests.lab.support.vm import Machine

_NO_EXIT_CODE = 125


def main() -> int:
    """Boot, run, and return the exit code."""
    asked = _arguments()
    terminal = not asked.command and os.isatty(0) and os.isatty(1)
    command = asked.command or "agentd doctor"
    if terminal:
        size = os.get_terminal_size()
        prompt = shlex.quote(f"[{asked.kernel}] \\w# ")
        # Not root's bashrc, which may put another Python in front of PATH.
        shell = f"PS1={prompt} exec bash --norc -i"
        command = f"stty rows {size.lines} cols {size.columns}; {shell}"
    try:
        kernel = fetch(asked.kernel)
    except KernelUnavailableError as error:
        print(error, file=sys.stderr)
        return _NO_EXIT_CODE
    with tempfile.TemporaryDirectory(prefix="agentd-lab-") as share:
        cpus = 1 if asked.count else asked.cpus
        machine = Machine(kernel, Path(share), asked.append, cpus, asked.memory)
        machine.counted = asked.count
        process = machine.start(command, terminal=terminal)
        deadline = threading.Timer(asked.timeout, process.kill)
        deadline.start()
        try:
            if (output := process.stdout) is not None:
                while chunk := output.read(65536):
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()
            process.wait()
        finally:
            deadline.cancel()
            process.kill()
            process.wait()
        code = machine.exit_code()
        if code is None:
            print(
                f"the machine ended without an exit code:\n{machine.last_words()}", file=sys.stderr
            )
    return _NO_EXIT_CODE if code is None else code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make lab")
    parser.add_argument("kernel", help=f"a series: {', '.join(SERIES)}")
    parser.add_argument("command", nargs="?", default="", help="bash; default: a shell")
    parser.add_argument("--append", default="", help="kernel parameters")
    parser.add_argument(
        "--count", action="store_true", help="one CPU, whose clock counts instructions"
    )
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory", type=int, default=2048, help="MiB")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds it may run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
