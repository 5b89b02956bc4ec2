"""A command on a terminal of its own, as a person would start it."""

import os
import pty
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

from tests.host.support.processes import end_tree

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """Runs `command` in `directory` on a new pseudo-terminal, in a session of its own."""

    def __init__(
        self, command: Sequence[str], directory: Path, environment: dict[str, str]
    ) -> None:
        master, slave = pty.openpty()
        self._master = master
        self._text = bytearray()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            cwd=directory,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """All that was shown so far, without colours."""
        shown = bytes(self._text).decode(errors="replace").replace("\r\n", "\n")
        return _COLOURS.sub("", shown)

    def processes(self) -> list[psutil.Process]:
        """The command and everything below it."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def press_ctrl_c(self, timeout: float) -> tuple[int, float]:
        """Type Ctrl-C; exit status and seconds until the end. TimeoutExpired if it goes on."""
        started = time.monotonic()
        os.write(self._master, b"\x03")
        status = self.process.wait(timeout)
        took = time.monotonic() - started
        self._reader.join(timeout)
        return status, took

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 1 << 16)
            except OSError:  # EIO: the last process has closed the terminal
                return
            if not part:
                return
            self._text += part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            end_tree(self.process)
        self._reader.join(5.0)
        os.close(self._master)
