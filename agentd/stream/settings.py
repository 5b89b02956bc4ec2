"""The publisher's settings: from the daemon's configuration, with the secrets already read."""

import importlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in; at most one way is set."""

    credentials: str = ""
    nkey_seed: str = ""
    user: str = ""
    password: str = ""
    token: str = ""

    @property
    def signs(self) -> bool:
        """Whether a challenge of the server is answered with a signature."""
        return bool(self.credentials or self.nkey_seed)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the publisher needs once it may open nothing any more. Times in seconds."""

    host: str
    servers: tuple[str, ...]
    stream: str
    create_stream: bool
    prefix: str
    window: int
    ack_timeout: float
    max_age: float
    max_bytes: int
    replicas: int
    login: Login
    tls: ssl.SSLContext | None
    tls_hostname: str | None

    @property
    def filter(self) -> str:
        """The subjects of this host."""
        return f"{self.prefix}.{self.host}.>"

    @classmethod
    def of(cls, config: dict[str, Any]) -> Self:
        """Settings from `Config.to_json()`.

        Reads the secret files, and what else a login needs, so it is called as root. Raises OSError
        (a file cannot be read, bad certificate) or ValueError.
        """
        nats = config["nats"]
        tls = nats.get("tls")
        secure = tls is not None or any(s.startswith("tls://") for s in nats["servers"])
        login = Login(
            credentials=_secret(nats, "credentials"),
            nkey_seed=_secret(nats, "nkey_seed").strip(),
            user=nats["user"] or "",
            password=_secret(nats, "password").strip(),
            token=_secret(nats, "token").strip(),
        )
        if login.signs:  # nats-py would at the login, when the publisher may not read it
            importlib.import_module("nkeys")
        return cls(
            host=config["host"],
            servers=tuple(nats["servers"]),
            stream=nats["stream"],
            create_stream=nats["create_stream"],
            prefix=nats["subject_prefix"],
            window=nats["window"],
            ack_timeout=nats["ack_timeout"],
            max_age=nats["max_age"],
            max_bytes=nats["max_bytes"],
            replicas=nats["replicas"],
            login=login,
            tls=_context(tls or {}) if secure else None,
            tls_hostname=(tls or {}).get("hostname"),
        )


def _secret(nats: dict[str, Any], name: str) -> str:
    file = nats.get(name)
    return Path(file).read_text("ascii") if file else ""


def _context(tls: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.get("ca"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.get("cert"):
        context.load_cert_chain(tls["cert"], tls["key"])
    return context
