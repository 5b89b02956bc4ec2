"""The publisher logs in over TLS and with every kind of secret, and says why when it cannot."""

import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import RawCredentials

from tests.host.support.nats import NatsServer
from tests.host.support.nats_secrets import Certificates, Key, operator
from tests.host.support.processes import wait_until
from tests.host.support.streaming import Pipeline, assert_exactly_once, stored


def secret(directory: Path, text: str) -> str:
    """A file that root alone may read, as the publisher finds it before it gives root up."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "secret"
    file.touch(mode=0o600)
    file.write_text(text)
    return str(file)


def deliver(tmp_path: Path, server: NatsServer, options: dict[str, Any], **settings: Any) -> None:
    with Pipeline(tmp_path / "p", [server.url], **settings) as pipeline:
        pipeline.add(100)
        pipeline.start()
        wait_until(pipeline.delivered, 15, "delivery")
        assert pipeline.stop() == 0
        assert_exactly_once(stored(server.url, **options), 100)


def complaint(tmp_path: Path, url: str, words: str, **settings: Any) -> str:
    """Start a publisher that cannot deliver; wait until it has said why, in `words`."""
    with Pipeline(tmp_path / "p", [url], **settings) as pipeline:
        pipeline.add(3)
        pipeline.start()
        wait_until(lambda: words in pipeline.said(), 15, words)
        said = pipeline.said()
        descriptors = pipeline.descriptors()
        time.sleep(1.5)
        assert pipeline.descriptors() <= descriptors + 2, "no connection is left open"
        assert pipeline.stop() == 0
        assert pipeline.said().count(words) == 1, "said once"
        return said


def test_user_and_password(tmp_path: Path) -> None:
    users = "authorization { user: agentd, password: s3cret }"
    with NatsServer(tmp_path / "nats", users) as server:
        deliver(
            tmp_path,
            server,
            {"user": "agentd", "password": "s3cret"},
            user="agentd",
            password=secret(tmp_path, "s3cret\n"),
        )


def test_token(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats", "authorization { token: t0ken }") as server:
        deliver(tmp_path, server, {"token": "t0ken"}, token=secret(tmp_path, "t0ken\n"))


def test_nkey(tmp_path: Path) -> None:
    key = Key.user()
    users = f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}"
    with NatsServer(tmp_path / "nats", users) as server:
        deliver(
            tmp_path, server, {"nkeys_seed_str": key.seed}, nkey_seed=secret(tmp_path, key.seed)
        )


def test_credentials_of_an_operator_account(tmp_path: Path) -> None:
    configuration, creds = operator(tmp_path / "operator")
    with NatsServer(tmp_path / "nats", configuration) as server:
        deliver(
            tmp_path,
            server,
            {"user_credentials": RawCredentials(creds)},
            credentials=secret(tmp_path, creds),
        )


def test_the_least_permissions_suffice(tmp_path: Path) -> None:
    """What docs tell an operator to allow: its own subjects, and asking what is stored of them."""
    users = """
    authorization { users: [
      { user: admin, password: a }
      { user: agentd, password: s, permissions: {
        subscribe: "_INBOX.>"
        publish: [ "agentd.v1.web-1.>", "$JS.API.STREAM.INFO.AGENTD",
          "$JS.API.STREAM.CREATE.AGENTD", "$JS.API.STREAM.MSG.GET.AGENTD",
          "$JS.API.CONSUMER.CREATE.AGENTD.*.agentd.v1.web-1.>",
          "$JS.API.CONSUMER.MSG.NEXT.AGENTD.*" ] } } ] }
    """
    password = secret(tmp_path, "s")
    with NatsServer(tmp_path / "nats", users) as server:
        with Pipeline(tmp_path / "p", [server.url], user="agentd", password=password) as pipeline:
            for _ in range(2):
                pipeline.add(600)
                pipeline.start()
                wait_until(pipeline.delivered, 15, "delivery")
                pipeline.kill()
        assert_exactly_once(stored(server.url, user="admin", password="a"), 1200)


def test_mutual_tls(tmp_path: Path) -> None:
    made = Certificates.make(tmp_path / "tls", "nats.example")
    block = (
        f"tls {{ cert_file: {str(made.server)!r}, key_file: {str(made.server_key)!r},"
        f" ca_file: {str(made.ca)!r}, verify: true }}"
    )
    context = ssl.create_default_context(cafile=str(made.ca))
    context.load_cert_chain(made.client, made.client_key)
    made.client_key.chmod(0o600)
    with NatsServer(tmp_path / "nats", block) as server:
        tls = {
            "ca": made.ca, "cert": made.client, "key": made.client_key, "hostname": "nats.example",
        }  # fmt: skip
        deliver(tmp_path, server, {"tls": context, "tls_hostname": "nats.example"}, tls=tls)


@pytest.mark.parametrize(
    ("hostname", "ca", "words"),
    [
        ("other.example", True, "Hostname mismatch"),
        ("nats.example", False, "certificate not trusted"),
    ],
)
def test_a_server_that_cannot_be_trusted(
    tmp_path: Path, hostname: str, ca: bool, words: str
) -> None:
    made = Certificates.make(tmp_path / "tls", "nats.example")
    block = f"tls {{ cert_file: {str(made.server)!r}, key_file: {str(made.server_key)!r} }}"
    with NatsServer(tmp_path / "nats", block) as server:
        tls = {"hostname": hostname, **({"ca": made.ca} if ca else {})}
        assert "TLS failed" in complaint(tmp_path, server.url, words, tls=tls)


def test_no_login_goes_out_in_the_clear(tmp_path: Path) -> None:
    made = Certificates.make(tmp_path / "tls", "nats.example")
    with NatsServer(tmp_path / "nats", "authorization { token: t0ken }\ntrace: true") as server:
        complaint(
            tmp_path,
            server.url,
            "does not offer TLS",
            tls={"ca": made.ca},
            token=secret(tmp_path, "t0ken"),
        )
        assert "CONNECT {" not in server.log.read_text()


@pytest.mark.parametrize(
    ("configuration", "settings", "words"),
    [
        ("authorization { token: t }", {}, "refused the login"),
        ("", {"create_stream": False}, "there is no stream AGENTD, and create_stream is off"),
        (
            "accounts { A: { users: [ { user: a, password: a } ] } }\nno_auth_user: a",
            {},
            "JetStream is not enabled for this account",
        ),
        (
            """authorization {
                default_permissions: { publish: ["$JS.API.>"], subscribe: ">" }
                users: [ { user: a, password: a } ]
            }
            no_auth_user: a""",
            {},
            "forbids it",
        ),
    ],
)
def test_reasons_are_said_plainly_and_once(
    tmp_path: Path, configuration: str, settings: dict[str, Any], words: str
) -> None:
    with NatsServer(tmp_path / "nats", configuration) as server:
        complaint(tmp_path, server.url, words, **settings)


def test_nobody_answers(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    assert f"cannot reach 127.0.0.1:{server.port}" in complaint(
        tmp_path, server.url, "cannot reach"
    )
