"""A publisher of our own, a journal that grows, and what arrived in the stream."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import nats
import orjson

from agentd import paths
from agentd.config import Config
from agentd.events.journal import FlushStatus, Journal
from agentd.stream import state
from tests.host.support.processes import stop

BOOT = "6b1c2f3e-1111-2222-3333-444455556666"
HOST = "web-1"
REPOSITORY = Path(__file__).parents[3]


class Pipeline:
    """A journal and a publisher process that carries it to a NATS server.

    `settings` are keys of the configuration's `nats` section.
    """

    def __init__(
        self,
        directory: Path,
        servers: list[str],
        *,
        budget: int = 64 << 20,
        host: str = HOST,
        **settings: Any,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.config = Config.model_validate(
            {
                "host": host,
                "state_dir": directory / "state",
                "log_level": "debug",
                "nats": {"servers": servers, **settings},
            }
        )
        self.state_dir = paths.publisher_state_dir(self.config.state_dir)
        self.journal = Journal(
            self.config.journal_path,
            budget,
            host,
            BOOT,
            sent_floor=lambda journal: state.sent_floor(self.state_dir, journal),
        )
        self.log = directory / "publisher.log"
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the publisher; its configuration goes through a pipe, as the supervisor's does."""
        read, write = os.pipe()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agentd.stream", "--config-json", str(read),
                 "--wake-fd", str(self._wake_read)],
                cwd=REPOSITORY, pass_fds=[read, self._wake_read],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        os.close(read)
        with os.fdopen(write, "wb") as file:
            file.write(json.dumps(self.config.to_json()).encode())
        return self.process

    def kill(self) -> None:
        """kill -9 the publisher."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        return stop(self.process)

    def add(self, count: int, pad: int = 300) -> None:
        """Append and flush that many events, and wake the publisher."""
        for number in range(count):
            self.journal.append(
                ("file.open", "mcp.request")[number % 2],
                time.time_ns(),
                ("ci-bot", None)[number % 7 == 0],
                "s-1",
                {"pad": "x" * pad},
            )
        assert self.journal.flush() is FlushStatus.OK
        self.wake()

    def wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            return

    @property
    def seq(self) -> int:
        return self.journal.stats().seq

    def delivered(self) -> bool:
        """Whether the saved state covers the whole journal (ids are numbers in a first boot)."""
        return state.sent_floor(self.state_dir, self.journal.journal_id) >= self.seq

    def descriptors(self) -> int:
        """How many files and sockets the publisher has open."""
        assert self.process is not None
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def said(self) -> str:
        return self.log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.journal.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


class Producer(threading.Thread):
    """Nothing but a clock: calls `Pipeline.add` in small steps until told to stop."""

    def __init__(self, pipeline: Pipeline, per_second: int) -> None:
        super().__init__(daemon=True)
        self._pipeline = pipeline
        self._step = max(1, per_second // 50)
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.02):
            self._pipeline.add(self._step)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def stored(url: str, stream: str = "AGENTD", **options: Any) -> list[tuple[str, dict[str, Any]]]:
    """Subject and event of everything in the stream, in its order, as a consumer gets it."""
    return asyncio.run(_stored(url, stream, options))


async def _stored(
    url: str, stream: str, options: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    client = await nats.connect(url, **options)
    try:
        context = client.jetstream()
        count = (await context.stream_info(stream)).state.messages
        found: list[tuple[str, dict[str, Any]]] = []
        if count:
            subscription = await context.subscribe(
                "agentd.v1.>", stream=stream, ordered_consumer=True
            )
            while len(found) < count:
                message = await subscription.next_msg(10)
                found.append((message.subject, orjson.loads(message.data)))
        return found
    finally:
        await client.close()


def change_stream(url: str, **changes: Any) -> None:
    """Make the stream, or change its configuration (JetStream API fields, ns for durations)."""

    async def change() -> None:
        client = await nats.connect(url)
        config = {"name": "AGENTD", "subjects": ["agentd.v1.>"], "storage": "file", **changes}
        for verb in ("CREATE", "UPDATE"):
            subject = f"$JS.API.STREAM.{verb}.AGENTD"
            answer = await client.request(subject, orjson.dumps(config), timeout=5)
            error = orjson.loads(answer.data).get("error")
            if not error:
                break
        await client.close()
        assert not error, error

    asyncio.run(change())


def assert_exactly_once(found: list[tuple[str, dict[str, Any]]], last: int) -> None:
    """Every number from 1 to `last`, once, in order."""
    numbers = [event["seq"] for _, event in found]
    wrong = [pair for pair in zip(numbers, range(1, last + 1), strict=False) if pair[0] != pair[1]]
    summary = f"{len(numbers)} stored, {len(set(numbers))} different, {last} written: {wrong[:3]}"
    assert not wrong, summary
    assert len(numbers) == last, summary


def delete_stream(url: str) -> None:
    """Delete the stream, as an operator might."""

    async def delete() -> None:
        client = await nats.connect(url)
        await client.jetstream().delete_stream("AGENTD")
        await client.close()

    asyncio.run(delete())
