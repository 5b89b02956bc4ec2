"""The publisher's parts that need no server: state, journal source, reasons."""

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats import errors

from agentd.config import Config
from agentd.events import store
from agentd.events.journal import Journal
from agentd.stream.jetstream import _stream_seq, public_name
from agentd.stream.settings import Settings
from agentd.stream.source import Source
from agentd.stream.state import FILE, Progress, StateDir, sent_floor
from agentd.stream.trouble import LoginRefused, StreamError, explain, refused
from tests.host.support.nats_secrets import Certificates, Key

BOOT = "6b1c2f3e-1111-2222-3333-444455556666"


def test_the_engine_reads_the_floor_of_its_own_journal_only(tmp_path: Path) -> None:
    directory = StateDir(tmp_path)
    assert directory.load() == Progress()
    directory.save(Progress("one", 5, "AGENTD", "then", 9))
    assert directory.load() == Progress("one", 5, "AGENTD", "then", 9)
    assert sent_floor(tmp_path, "one") == 5
    assert sent_floor(tmp_path, "two") == 0


@given(st.binary(max_size=200))
@pytest.mark.root  # to give the file to somebody else
def test_a_state_that_somebody_else_wrote_is_no_state(data: bytes) -> None:
    assert Progress.of(data).floor >= 0


def test_the_engine_follows_no_link_and_waits_for_no_fifo(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    StateDir(real).save(Progress("one", 5))
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / FILE).symlink_to(real / FILE)
    assert sent_floor(tmp_path / "link", "one") == 0
    (tmp_path / "fifo").mkdir()
    os.mkfifo(tmp_path / "fifo" / FILE)
    assert sent_floor(tmp_path / "fifo", "one") == 0


def test_the_source_gives_rows_ids_and_finds_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", 1 << 20, "h", BOOT)
    for number in range(5):
        journal.append("file.open", number, "w" if number else None, None, {})
    journal.flush()
    source = Source(tmp_path / "j.db")
    rows = source.after(2, 10)
    assert [row.id for row in rows] == [3, 4, 5]
    assert rows[0].event_id == "h:6b1c2f3e:3"
    assert source.find("h:6b1c2f3e:4") == 4
    assert source.find("h:00000000:4") == source.find("nonsense") == 0
    assert source.behind(1) == 4
    assert not source.replaced()
    journal.close()
    store.set_aside(tmp_path / "j.db")
    assert source.replaced()


def open_for_writing(pid: int, below: Path) -> list[str]:
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        info = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text()
        flags = int(info.split("flags:")[1].split()[0], 8)
        if target.startswith(str(below)) and flags & os.O_ACCMODE:
            found.append(target)
    return found


@pytest.mark.parametrize(("secret", "imported"), [("nkey_seed", True), ("token", False)])
def test_what_a_login_imports_is_there_before_the_publisher_may_not_read_it(
    tmp_path: Path, secret: str, imported: bool
) -> None:
    """A checkout below /root is closed to the publisher's user. What is not needed takes 1 MB."""
    (tmp_path / "secret").write_text(Key.user().seed)
    code = """
import sys, agentd.stream.__main__
from agentd.config import Config
from agentd.stream.settings import Settings
config = Config.model_validate({"nats": {"servers": [], sys.argv[1]: sys.argv[2]}})
before = "nkeys" in sys.modules
Settings.of(config.to_json() | {"host": "h"})
print(before, "nkeys" in sys.modules)
"""
    command = [sys.executable, "-c", code, secret, str(tmp_path / "secret")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"False {imported}\n"


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("credentials", "it", "there is no user JWT in it"),
        (
            "credentials",
            "-----BEGIN NATS USER JWT-----\nit\n-----BEGIN USER NKEY SEED-----\n",
            "there is no nkey seed in it",
        ),
        ("credentials", "", "it is empty"),
        ("nkey_seed", "it", "there is no nkey seed in it"),
        ("nkey_seed", "SUA", "there is no nkey seed in it"),
        ("token", "\n", "it is empty"),
        ("token", "\udcff", "there is no text in it"),
        ("ca", "it", "no certificates can be read: no certificate or crl found"),
        ("ca", None, "no certificates can be read: no such file"),
        ("key", "it", "no certificate with its key: "),
    ],
)
def test_a_file_that_is_no_login_is_named(
    tmp_path: Path, option: str, text: str | None, words: str
) -> None:
    file = tmp_path / "secret"
    if text is not None:
        file.write_text(text, errors="surrogateescape")
    made = Certificates.make(tmp_path / "tls", "nats.example")
    tls = {"ca": made.ca, "cert": made.client, "key": made.client_key, option: file}
    nats = {"tls": tls} if option in {"ca", "key"} else {option: file}
    config = Config.model_validate({"nats": {"servers": ["h"], **nats}})
    with pytest.raises(ValueError, match=words) as caught:
        Settings.of(config.to_json())
    assert str(file) in str(caught.value)


def test_a_key_with_a_passphrase_is_told_and_nothing_is_asked(tmp_path: Path) -> None:
    made = Certificates.make(tmp_path / "tls", "nats.example")
    key = tmp_path / "key"
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:x", "-in", str(made.client_key)]
    subprocess.run([*command, "-out", str(key)], check=True)
    tls = {"cert": made.client, "key": key}
    config = Config.model_validate({"nats": {"servers": ["h"], "tls": tls}})
    with pytest.raises(ValueError, match="the key has a passphrase"):
        Settings.of(config.to_json())


@pytest.mark.root  # to give it up
def test_the_source_reads_on_without_any_right_to_the_file(tmp_path: Path) -> None:
    """Root alone may enter the directory; a WAL that begins anew changes nothing."""
    path = tmp_path / "private" / "j.db"
    journal = Journal(path, 1 << 20, "h", BOOT)
    journal.append("loss", 0, None, None, {})
    journal.flush()
    code = """
import os, sys
from pathlib import Path
from agentd.stream import privileges
from agentd.stream.source import Source
parent = os.getppid()
privileges.become("nobody")
source = Source(Path(sys.argv[1]))
privileges.forsake(parent)
try:
    open(sys.argv[1])
except PermissionError:
    print("refused", flush=True)
for line in sys.stdin:
    rows = source.after(0, 100000)
    print(rows[-1].id, source.replaced(), flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "refused\n"
        assert open_for_writing(child.pid, path.parent) == []
        for _ in range(30):
            for number in range(100):
                journal.append("file.open", number, "w", "s", {"pad": "x" * 300})
            journal.flush()
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == f"{journal.stats().seq} False\n"
        # The engine comes and goes.
        journal.close()
        journal = Journal(path, 1 << 20, "h", BOOT)
        journal.append("file.open", 1, "w", "s", {})
        journal.flush()
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == f"{journal.stats().seq} False\n"
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()
        journal.close()


@pytest.mark.parametrize(
    ("error", "words", "login"),
    [
        (
            ConnectionRefusedError(111, "Connection refused"),
            "cannot reach s: Connection refused",
            0,
        ),
        (errors.TimeoutError(), "s does not answer in time", 0),
        (errors.NoRespondersError(), "s has no JetStream", 0),
        (errors.AuthorizationError(), "s refused the login", 1),
        (errors.Error("nats: 'Authorization Violation'"), "refused the login: Authorization", 1),
        (errors.Error("nats: permissions violation for publish"), "s forbids it: perm", 0),
        (errors.SecureConnWantedError(), "the server does not offer TLS", 1),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "TLS failed with s", 1),
        (errors.UnexpectedEOF(), "the connection to s was lost", 0),
        (StreamError("x"), "x", 0),
    ],
)
def test_reasons_are_plain(error: Exception, words: str, login: int) -> None:
    reason = explain(error, "s")
    assert words in str(reason)
    assert isinstance(reason, LoginRefused) == bool(login)


def test_jetstream_reasons() -> None:
    off = {"code": 503, "err_code": 10039, "description": "jetstream not enabled for account"}
    assert "not enabled" in str(refused(off, "stream X"))
    full = {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"}
    assert str(refused(full, "stream X")) == (
        "stream X: maximum messages exceeded (JetStream error 10077)"
    )


def test_no_login_in_a_server_name() -> None:
    assert public_name("nats://user:secret@host:4111") == "host:4111"
    assert public_name("host") == "host:4222"


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.AGENTD.name.1.42.7.1700000000.3",
        "$JS.ACK.domain.hash.AGENTD.name.1.42.7.1700000000.3.random",
    ],
)
def test_the_stream_sequence_in_an_ack_subject(reply: str) -> None:
    assert _stream_seq(reply) == 42
