"""What the engine is told about itself and its host, as plain data: pydantic stays outside."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.daemon.loading import LoadError
from agentd.policy.exchange import read_policy
from agentd.policy.files import Fingerprint
from agentd.policy.rules import Policy


@dataclass(frozen=True, slots=True)
class Settings:
    """The engine's part of the configuration (`agentd.config`), which is read at start."""

    host_name: str
    state_dir: Path
    journal_path: Path
    journal_budget: int
    """Bytes on disk."""
    flush_ms: int
    """Longest time an event stays in memory."""
    streams: bool
    """Whether there are NATS servers to publish to."""
    control_group: str
    """Its members may approve and deny."""
    hold_wait_us: int
    """How long a held task waits on its CPU before it is stopped; 0 where there is one CPU."""
    hold_linger_us: int
    """How long the engine polls for the next hold after one; 0 where there is one CPU."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `agentd.daemon.preload` has read: configuration and policy, without a mistake."""

    config: dict[str, Any]
    """`Config.to_json()`, as the supervisor and the publisher take it."""
    settings: Settings
    directories: list[Path]
    """Where the policy was read."""
    fingerprint: Fingerprint
    """Of the directories, from before they were read."""
    warnings: list[str]
    policy: Policy


def read_settings(config: dict[str, Any]) -> Settings:
    """The engine's settings in `Config.to_json()`. Raises KeyError, TypeError."""
    # On one CPU nobody could judge while the task waits, nor call while the engine polls.
    spare = (os.cpu_count() or 1) > 1
    return Settings(
        host_name=config["host"],
        state_dir=Path(config["state_dir"]),
        journal_path=Path(config["journal"]["path"]),
        journal_budget=config["journal"]["budget"],
        flush_ms=config["journal"]["flush_ms"],
        streams=bool(config["nats"]["servers"]),
        control_group=config["control"]["group"],
        hold_wait_us=config["hold_wait_us"] if spare else 0,
        hold_linger_us=config["hold_linger_us"] if spare else 0,
    )


def read_loaded(document: dict[str, Any]) -> Loaded:
    """What the document of `preload` says. Raises LoadError."""
    try:
        return Loaded(
            config=document["config"],
            settings=read_settings(document["config"]),
            directories=[Path(directory) for directory in document["directories"]],
            fingerprint=tuple(
                (name, inode, size, changed)
                for name, inode, size, changed in document["fingerprint"]
            ),
            warnings=document["warnings"],
            policy=read_policy(document["policy"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"the rules arrived as nonsense: {error!r}") from error
