"""The daemon's configuration: /etc/agentd/agentd.yaml.

The commands read it here, with pydantic, and so does `agentd.daemon.preload`. Engine, supervisor
and publisher are handed `to_json()`, so that none of them has to import pydantic.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agentd import paths, yamldoc
from agentd.errors import ConfigError, ConfigErrors
from agentd.units import parse_duration, parse_size

ENVIRONMENT = "AGENTD_CONFIG"


def _whole(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} depends on where agentd is started; write the whole path")
    return path


def _server(url: str) -> str:
    try:
        found = urlsplit(url if "://" in url else f"nats://{url}")
        valid = found.scheme in {"nats", "tls"} and found.hostname and found.port != 0
    except ValueError:
        valid = False
    if not valid:
        mend = "write it like nats://HOST:4222 or tls://HOST:4222"
        raise ValueError(f"it is not the address of a NATS server; {mend}")
    return url


Place = Annotated[Path, AfterValidator(_whole)]
Server = Annotated[str, AfterValidator(_server)]
Size = Annotated[int, BeforeValidator(parse_size)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JournalConfig(_Section):
    """Where events are kept, and how much disk they may take."""

    path: Place | None = Field(None, description="default: journal.db in state_dir")
    budget: Size = Field(
        2 << 30, ge=16 << 20, description="bytes on disk, file and WAL together, e.g. 2GiB"
    )
    flush_ms: int = Field(
        250, ge=1, le=5000, description="longest time an event stays in memory; a decision: 50 ms"
    )


class TlsConfig(_Section):
    """TLS towards the NATS servers; certificates are PEM files."""

    ca: Place | None = Field(None, description="default: the system's certificate authorities")
    cert: Place | None = None
    key: Place | None = None
    hostname: str | None = Field(None, description="name to expect in the server's certificate")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together; give both or neither")
        return self


class NatsConfig(_Section):
    """Streaming to NATS JetStream; without servers nothing is streamed."""

    servers: list[Server] = Field(default_factory=list, description="nats://host:4222, tls://...")
    stream: str = Field("AGENTD", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    create_stream: bool = Field(default=True, description="make the stream if it is missing")
    subject_prefix: str = Field("agentd.v1", pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    window: int = Field(256, ge=1, le=4096, description="events in flight without an ack")
    ack_timeout: Seconds = Field(10.0, gt=0, description="then the connection is made anew")
    max_age: Seconds = Field(0.0, ge=0, description="of a created stream's events; 0: no limit")
    max_bytes: Size = Field(0, ge=0, description="of a created stream; 0: no limit")
    replicas: int = Field(1, ge=1, le=5, description="of a created stream")
    credentials: Place | None = Field(None, description="a .creds file")
    nkey_seed: Place | None = Field(None, description="a file with an nkey seed")
    user: str | None = None
    password: Place | None = Field(None, description="a file with the password of `user`")
    token: Place | None = Field(None, description="a file with a token")
    tls: TlsConfig | None = None

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        ways = [
            name for name in ("credentials", "nkey_seed", "user", "token") if getattr(self, name)
        ]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other; keep one")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together; give both or neither")
        return self


class PublisherConfig(_Section):
    """The process that talks to NATS."""

    user: str = Field("agentd", description="the user it becomes; nobody if there is none")

    @model_validator(mode="after")
    def _not_root(self) -> Self:
        if self.user == "root":
            raise ValueError("the publisher does not run as root; name another user")
        return self


class ControlConfig(_Section):
    """The control socket."""

    group: str = Field("agentd", description="members may approve and deny held calls")


class DefaultsConfig(_Section):
    """What a rule or workload has that does not say otherwise."""

    hold_timeout: Seconds = Field(120.0, gt=0, description="how long a person may take")
    on_failure: Literal["allow", "deny"] = Field(
        "deny", description="for held calls, if the engine dies"
    )


class Config(_Section):
    """agentd.yaml."""

    host: str | None = Field(None, description="name in events and subjects; default: host name")
    runtime_dir: Place = paths.RUNTIME_DIR
    state_dir: Place = paths.STATE_DIR
    rules: list[Place] = Field(default_factory=lambda: [paths.RULES_DIR])
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    tier: Literal["auto", "enforce-lsm", "enforce-fmodret", "observe"] = Field(
        "auto", description="how much the kernel decides; auto: as much as it can"
    )
    hold_wait_us: int = Field(
        200,
        ge=0,
        le=1000,
        description="how long a held task waits on its CPU for its verdict before it is stopped;"
        " 0: it is stopped at once",
    )
    hold_linger_us: int = Field(
        1500,
        ge=0,
        le=10_000,
        description="how long the engine polls for the next hold after one, where a CPU is left"
        " for that or it pays; 0: it never does, nor is it woken ahead of a hold",
    )
    journal: JournalConfig = JournalConfig()
    nats: NatsConfig = NatsConfig()
    publisher: PublisherConfig = PublisherConfig()
    control: ControlConfig = ControlConfig()
    defaults: DefaultsConfig = DefaultsConfig()

    @property
    def host_name(self) -> str:
        """This host's NATS token."""
        return paths.host_name(self.host)

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.journal.path or paths.default_journal(self.state_dir)

    @property
    def control_socket(self) -> Path:
        """The control socket."""
        return self.runtime_dir / paths.CONTROL_SOCKET

    def to_json(self) -> dict[str, Any]:
        """Plain data with every default filled in, `host` and `journal.path` among them."""
        data = self.model_dump(mode="json")
        data["host"] = self.host_name
        data["journal"]["path"] = str(self.journal_path)
        return data

    def secret_files(self) -> list[Path]:
        """Files that hold something secret."""
        nats = self.nats
        files = [nats.credentials, nats.nkey_seed, nats.password, nats.token]
        files.append(nats.tls.key if nats.tls else None)
        return [file for file in files if file is not None]


def find(option: Path | str | None = None) -> Path:
    """The file to read: `option` (--config), else $AGENTD_CONFIG, else the default place."""
    return Path(option or os.environ.get(ENVIRONMENT) or paths.CONFIG_FILE)


def load(option: Path | str | None = None) -> Config:
    """Read the configuration.

    A missing file means the defaults, unless it was named by `option` or $AGENTD_CONFIG. Raises
    ConfigErrors, each with file, line and mend.
    """
    file = find(option)
    if not file.exists():
        if file != paths.CONFIG_FILE:
            problem = ConfigError(file, 0, "there is no such file", "create it or name another")
            raise ConfigErrors([problem])
        return Config()
    return yamldoc.load(file, Config)


def secret_warnings(config: Config) -> list[str]:
    """What to tell the operator about the files with secrets: missing, or open to others."""
    found = []
    for file in config.secret_files():
        try:
            mode = file.stat().st_mode
        except OSError as error:
            found.append(f"{file}: {error.strerror}; NATS cannot be used without it")
            continue
        if mode & 0o007:
            found.append(f"{file}: everybody on this host can use it; chmod 600 {file}")
    return found
