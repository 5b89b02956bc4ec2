"""Keys, certificates and JWTs for nats-server tests, made on the spot.

The JWT layout is that of nats-io/jwt v2: header `ed25519-nkey`, claims, signature by the issuer's
nkey.
"""

import base64
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys
import orjson


@dataclass(frozen=True, slots=True)
class Key:
    """An nkey: its public name and its seed."""

    public: str
    seed: str

    @classmethod
    def make(cls, prefix: int) -> "Key":
        """A new key; `prefix` is one of nkeys.PREFIX_BYTE_*."""
        seed = nkeys.encode_seed(os.urandom(32), prefix)
        pair = nkeys.from_seed(bytearray(seed))
        return cls(pair.public_key.decode(), bytes(seed).decode())

    @classmethod
    def user(cls) -> "Key":
        return cls.make(nkeys.PREFIX_BYTE_USER)

    def sign(self, data: bytes) -> bytes:
        signature: bytes = nkeys.from_seed(bytearray(self.seed.encode())).sign(data)
        return signature


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _jwt(issuer: Key, subject: str, name: str, claims: dict[str, Any]) -> str:
    body = {
        "jti": name, "iat": int(time.time()), "iss": issuer.public, "name": name, "sub": subject,
        "nats": {**claims, "version": 2},
    }  # fmt: skip
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = _part(orjson.dumps(header)) + b"." + _part(orjson.dumps(body))
    return (text + b"." + _part(issuer.sign(text))).decode()


def operator(store: Path) -> tuple[str, str]:
    """A server configuration with operator, accounts and one user; and that user's .creds text."""
    owner = Key.make(nkeys.PREFIX_BYTE_OPERATOR)
    system, account = (Key.make(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))
    user = Key.user()
    unlimited = dict.fromkeys(
        ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage",
         "disk_storage", "streams", "consumer"),
        -1,
    )  # fmt: skip
    unlimited_system = {**unlimited, "mem_storage": 0, "disk_storage": 0}
    wild = {"wildcards": True}
    system_jwt = _jwt(
        owner, system.public, "SYS", {"type": "account", "limits": {**unlimited_system, **wild}}
    )
    account_jwt = _jwt(
        owner, account.public, "A", {"type": "account", "limits": {**unlimited, **wild}}
    )
    operator_jwt = _jwt(
        owner, owner.public, "O", {"type": "operator", "system_account": system.public}
    )
    user_jwt = _jwt(
        account,
        user.public,
        "agentd",
        {"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1},
    )
    store.mkdir(parents=True, exist_ok=True)
    file = store / "operator.jwt"
    file.write_text(operator_jwt)
    configuration = (
        f"operator: {str(file)!r}\nsystem_account: {system.public}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {system.public}: {system_jwt}\n {account.public}: {account_jwt} }}\n"
    )
    creds = (
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    return configuration, creds


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: a CA, and certificates that it signed for a server and a client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @classmethod
    def make(cls, directory: Path, server_name: str) -> "Certificates":
        """Make them with openssl; `server_name` is a DNS name."""
        directory.mkdir(parents=True, exist_ok=True)

        def openssl(*arguments: str) -> None:
            subprocess.run(
                ["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=30
            )

        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl(
            "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
            "-subj", "/CN=test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        for name, alternative in (("server", f"DNS:{server_name}"), ("client", "DNS:agentd")):
            (directory / f"{name}.ext").write_text(f"subjectAltName={alternative}\n")
            openssl(
                "req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}",
            )  # fmt: skip
            openssl(
                "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext",
            )  # fmt: skip
        return cls(
            *(directory / file for file in
              ("ca.pem", "server.pem", "server.key", "client.pem", "client.key"))
        )  # fmt: skip
