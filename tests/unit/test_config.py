"""The daemon's configuration, sizes and durations."""

from pathlib import Path

import pytest

from agentd import config, paths
from agentd.errors import ConfigErrors
from agentd.units import parse_duration, parse_size


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "agentd.yaml"
    file.write_text(text)
    return file


def test_without_a_file_there_are_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(config.ENVIRONMENT, raising=False)
    monkeypatch.setattr(paths, "CONFIG_FILE", tmp_path / "none.yaml")
    found = config.load()
    assert found.journal.budget == 2 << 30
    assert found.journal_path == Path("/var/lib/agentd/journal.db")
    assert found.control_socket == Path("/run/agentd/control.sock")
    assert found.nats.servers == []
    assert found.defaults.on_failure == "deny"


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="no such file"):
        config.load(tmp_path / "none.yaml")


def test_values_are_read_and_dumped_as_plain_data(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
host: Web.1
journal: {budget: 512MiB, flush_ms: 20}
nats:
  servers: [nats://127.0.0.1:4222]
  max_age: 7d
  tls: {ca: /etc/ca.pem, hostname: nats.example}
defaults: {hold_timeout: 2m, on_failure: allow}
""",
    )
    found = config.load(file)
    data = found.to_json()
    assert data["host"] == "Web-1"
    assert data["journal"] == {
        "path": "/var/lib/agentd/journal.db", "budget": 512 << 20, "flush_ms": 20,
    }  # fmt: skip
    assert data["nats"]["max_age"] == 7 * 86400
    assert data["nats"]["tls"]["ca"] == "/etc/ca.pem"
    assert data["defaults"] == {"hold_timeout": 120.0, "on_failure": "allow"}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("journal:\n  budget: lots\n", 2, "not a size"),
        ("journal:\n  budget: 1MiB\n", 2, "greater than or equal"),
        ("nats:\n  server: x\n", 2, "servers"),
        ("nats:\n  user: a\n", 1, "user and password belong together"),
        ("nats: {token: /a, credentials: /b}\n", 1, "exclude each other"),
        ("nats:\n  tls: {cert: /a}\n", 2, "cert and key belong together"),
        ("log_level: loud\n", 1, "log_level"),
        ("nats:\n  servers:\n    - nats://h\n    - nats://h:port\n", 4, "nats://HOST:4222"),
        ("nats: {servers: ['']}\n", 1, "nats://HOST:4222"),
        ("nats: {servers: ['nats://']}\n", 1, "nats://HOST:4222"),
        ("nats: {servers: ['h:99999']}\n", 1, "nats://HOST:4222"),
        ("nats: {servers: ['nats://[::1']}\n", 1, "nats://HOST:4222"),
        ("nats: {servers: ['ws://h']}\n", 1, "nats://HOST:4222"),
        ("state_dir: state\n", 1, "the whole path"),
        ("journal:\n  path: ''\n", 2, "the whole path"),
        ("rules:\n  - /etc/a\n  - ~/b\n", 3, "the whole path"),
        ("nats: {token: token}\n", 1, "the whole path"),
        ("publisher: {user: root}\n", 1, "not run as root"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigErrors) as caught:
        config.load(file)
    assert message in str(caught.value)
    assert f"{file}:{line}: " in str(caught.value)


@pytest.mark.parametrize(
    "server", ["h", "h:4222", "u:p@h", "nats://u:p%40ss@h:4222", "tls://a.b:1", "nats://[::1]:4222"]
)
def test_addresses_of_servers(server: str) -> None:
    found = config.Config.model_validate({"nats": {"servers": [server]}})
    assert found.nats.servers == [server]


def test_secrets_open_to_others_are_told(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.write_text("S")
    seed.chmod(0o604)
    file = write(tmp_path, f"nats: {{nkey_seed: {seed}, tls: {{cert: /x, key: {tmp_path}/none}}}}")
    warnings = config.secret_warnings(config.load(file))
    assert len(warnings) == 2
    assert f"chmod 600 {seed}" in warnings[0]
    assert "No such file" in warnings[1]
    seed.chmod(0o600)
    assert len(config.secret_warnings(config.load(file))) == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("500MB", 500_000_000),
        ("1.5KiB", 1536),
        ("7", 7),
        (9, 9),
        ("3 MiB", 3 << 20),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("10m", 600), ("2h", 7200), (5, 5), ("1d", 86400)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "x", "1 GiBs", "-1", "ten"])
def test_what_is_neither(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_size(text)
    with pytest.raises(ValueError, match="write it like"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("name", "token"), [("web-1", "web-1"), ("a.b c*d>e", "a-b-c-d-e"), ("", "_"), ("ü", "-")]
)
def test_tokens_have_no_separator_and_no_wildcard(name: str, token: str) -> None:
    assert paths.token(name) == token
