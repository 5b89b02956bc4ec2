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
        or ValueError, which say in which file the trouble is.
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
        if login.credentials and not _line_after(login.credentials, "BEGIN NATS USER JWT"):
            raise ValueError(
                f"{nats['credentials']}: there is no user JWT in it; name a .creds file"
            )
        if login.signs:
            seed = login.nkey_seed or _line_after(login.credentials, "BEGIN USER NKEY SEED")
            _check_seed(seed, nats["credentials"] or nats["nkey_seed"])
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
    if not file:
        return ""
    try:
        text = Path(file).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: there is no text in it") from error
    if not text.strip():
        raise ValueError(f"{file}: it is empty, and nats.{name} is to be read from it")
    return text


def _line_after(text: str, mark: str) -> str:
    _, _, rest = text.partition(mark)
    return next(iter(rest.splitlines()[1:]), "").strip()


def _check_seed(seed: str, file: str) -> None:
    """Also imports what nats-py would at the login, when the publisher may not read it."""
    nkeys = importlib.import_module("nkeys")
    try:
        nkeys.from_seed(bytearray(seed.encode())).wipe()
    except (nkeys.NkeysError, ValueError, IndexError) as error:
        raise ValueError(f"{file}: there is no nkey seed in it, such as SUA...") from error


def _context(tls: dict[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.get("ca"))
    except OSError as error:
        raise ValueError(f"{tls.get('ca')}: no certificates can be read: {_why(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.get("cert"):
        cert, key = tls["cert"], tls["key"]
        try:
            context.load_cert_chain(cert, key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{cert}, {key}: no certificate with its key: {_why(error)}"
            ) from error
    return context


def _no_passphrase() -> str:
    """Instead of a question on the terminal."""
    raise ValueError("the key has a passphrase; store it without one")


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return str(reason).replace("_", " ").lower()
