"""The configuration: every source, every mistake at once with its fix, no secret shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bridge.config import settings as config
from bridge.config.address import parse_address
from bridge.config.rendering import env_name, fields, render_example_toml, render_toml
from bridge.config.settings import Settings, load
from bridge.errors import ConfigError


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty directory, with nothing configured."""
    for name in [name for name in os.environ if name.startswith("BRIDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def mistakes(config_file: Path | None = None, *, serving: bool = False) -> list[str]:
    """Return the lines of the report."""
    with pytest.raises(ConfigError) as error:
        load(config_file, serving=serving)
    return str(error.value).splitlines()


def test_the_defaults_are_those_that_others_rely_on() -> None:
    """Names and defaults that other programs know do not change unnoticed."""
    settings = load()
    assert (settings.listen, settings.admin_listen, settings.ack) == ("0.0.0.0:8080", "127.0.0.1:8081", "journal")
    assert (settings.topics.prefix, settings.topics.provision, settings.max_body_bytes) == ("gumlet.", "create", 524288)
    names = {env_name(config.PREFIX, path) for path, _ in fields(Settings)}
    assert names >= {
        "BRIDGE_LISTEN",
        "BRIDGE_ADMIN_LISTEN",
        "BRIDGE_TOKENS",
        "BRIDGE_TOKENS_FILE",
        "BRIDGE_ALLOW_UNAUTHENTICATED",
        "BRIDGE_ACK",
        "BRIDGE_MAX_BODY_BYTES",
        "BRIDGE_JOURNAL_DIR",
        "BRIDGE_JOURNAL_MAX_BYTES",
        "BRIDGE_KAFKA_BOOTSTRAP_SERVERS",
        "BRIDGE_KAFKA_SECURITY_PROTOCOL",
        "BRIDGE_TOPICS_PREFIX",
        "BRIDGE_TOPICS_PARTITIONS",
        "BRIDGE_TOPICS_REPLICATION_FACTOR",
        "BRIDGE_TOPICS_PROVISION",
        "BRIDGE_LOG_FORMAT",
        "BRIDGE_GUMLET_API_KEY",
        "BRIDGE_GUMLET_API_URL",
    }


def test_the_first_source_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line wins over the environment, that over .env, that over the file, that over the default."""
    file = tmp_path / "bridge.toml"
    file.write_text('[topics]\nprefix = "file."\npartitions = 1\n[log]\nlevel = "error"\n[kafka]\nclient_id = "file"\n')
    (tmp_path / ".env").write_text("BRIDGE_TOPICS_PREFIX=dotenv.\nBRIDGE_TOPICS_PARTITIONS=2\nBRIDGE_LOG_LEVEL=debug\n")
    monkeypatch.setenv("BRIDGE_TOPICS_PREFIX", "environment.")
    monkeypatch.setenv("BRIDGE_TOPICS_PARTITIONS", "3")
    settings = load(file, topics={"prefix": "option."})
    assert settings.topics.prefix == "option."
    assert settings.topics.partitions == 3
    assert settings.log.level == "debug"
    assert settings.kafka.client_id == "file"
    assert settings.log.format == "json"


def test_every_mistake_is_named_at_once_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One report holds what is wrong in the environment and in the file, what is missing, and what means nothing."""
    file = tmp_path / "bridge.toml"
    file.write_text('nonsense = 1\n[kafka]\nbootstrap_servers = "no port"\n')
    monkeypatch.setenv("BRIDGE_LISTEN", "80")
    monkeypatch.setenv("BRIDGE_JOURNAL_MAX_BYTES", "many")
    monkeypatch.setenv("BRIDGE_JOURNAL_DIRECTORY", "/x")
    monkeypatch.setenv("BRIDGE_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("BRIDGE_KAFKA_SSL_CAFILE", "/does/not/exist")
    lines = mistakes(file, serving=True)
    told = "\n".join(lines)
    for part in (
        "nonsense: no such setting",
        "BRIDGE_KAFKA_BOOTSTRAP_SERVERS:",
        "BRIDGE_LISTEN: is not HOST:PORT",
        "BRIDGE_JOURNAL_MAX_BYTES:",
        "did you mean BRIDGE_JOURNAL_DIR?",
        "BRIDGE_KAFKA_SASL_MECHANISM: is required with security_protocol SASL_SSL",
        "BRIDGE_KAFKA_SSL_CAFILE:",
        "BRIDGE_TOKENS: a token is required here or in BRIDGE_TOKENS_FILE",
    ):
        assert part in told
    assert len(lines) == 8
    assert all("Fix: " in line for line in lines)


@pytest.mark.parametrize("value", ["a,b", " a , b ,", '["a", "b"]'])
def test_tokens_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Tokens are a comma-separated text in the environment, and may be a list in the file."""
    if value.startswith("["):
        (tmp_path / "bridge.toml").write_text(f"tokens = {value}\n")
        settings = load(tmp_path / "bridge.toml", serving=True)
    else:
        monkeypatch.setenv("BRIDGE_TOKENS", value)
        settings = load(serving=True)
    assert [each.get_secret_value() for each in settings.token_list] == ["a", "b"]


def test_a_tokens_file_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's name is not taken for a part of the tokens."""
    (tmp_path / "tokens").write_text("x\n")
    monkeypatch.setenv("BRIDGE_TOKENS_FILE", str(tmp_path / "tokens"))
    assert load(serving=True).tokens_file == tmp_path / "tokens"


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the object's repr, nor the rendered configuration, nor a report of mistakes repeats a secret."""
    secrets = {
        "BRIDGE_TOKENS": "s3cret-1",
        "BRIDGE_KAFKA_SASL_PASSWORD": "s3cret-2",
        "BRIDGE_GUMLET_API_KEY": "s3cret-3",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in render_toml(settings)
    monkeypatch.setenv("BRIDGE_LISTEN", "s3cret-4")
    assert "s3cret" not in "\n".join(mistakes())


def test_what_kubernetes_sets_for_a_service_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named `bridge` fills every pod's environment with names that begin like ours."""
    for name in ("BRIDGE_SERVICE_HOST", "BRIDGE_SERVICE_PORT_HTTP", "BRIDGE_PORT", "BRIDGE_PORT_8080_TCP_ADDR"):
        monkeypatch.setenv(name, "10.0.0.1")
    load()


def test_the_example_is_a_file_that_can_be_loaded(tmp_path: Path) -> None:
    """What `config example` prints has every setting, and with every default uncommented it is the default."""
    text = render_example_toml(Settings)
    assert all(f"{path[-1]} =" in text for path, _ in fields(Settings))
    (tmp_path / "bridge.toml").write_text(re.sub(r"^# ([a-z_]+ = )", r"\1", text, flags=re.MULTILINE))
    assert load(tmp_path / "bridge.toml").model_dump() == load().model_dump()


def test_a_file_that_is_missing_or_no_toml_is_told(tmp_path: Path) -> None:
    """The file itself can be the mistake."""
    assert "no such file" in mistakes(tmp_path / "absent.toml")[0]
    (tmp_path / "bad.toml").write_text("listen =\n")
    assert "bad.toml" in mistakes(tmp_path / "bad.toml")[0]


@pytest.mark.parametrize("text", ["8080", "host", "host:", "host:99999", ":8080", "a:b:1", "[::1"])
def test_an_address_that_is_none(text: str) -> None:
    """Only HOST:PORT is an address, an IPv6 host in brackets."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("text", ["::1:8080", ":::8080", "fe80::1:80", "2001:db8::1", "::"])
@pytest.mark.parametrize("setting", ["listen", "admin_listen"])
def test_an_ipv6_address_without_brackets_is_rejected_by_name_with_the_fix(setting: str, text: str) -> None:
    """It could be read in two ways, with the port or without it."""
    with pytest.raises(ConfigError, match=rf"BRIDGE_{setting.upper()}: .*in brackets, as in \[::1\]:8080"):
        load(None, **{setting: text})  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["[:::1]:80", "[1.2.3.4]:80", "[::1::]:80"])
def test_an_invalid_ipv6_address_is_rejected_at_start(text: str) -> None:
    """It would fail only when the port is opened."""
    with pytest.raises(ConfigError, match="invalid IPv6 address"):
        load(listen=text)


def test_addresses() -> None:
    """Names, IPv4 and IPv6 are hosts; port 0 means any."""
    assert parse_address("10.0.0.1:8080") == ("10.0.0.1", 8080)
    assert parse_address("[::1]:0") == ("::1", 0)
    assert parse_address("localhost:1") == ("localhost", 1)


@pytest.mark.parametrize("written", ["{}", '"{}"', "'{}'", "{}\n", " {} ", "\ufeff{}", '"{}"\r', "{}\r\n"])
def test_a_value_is_read_as_shells_editors_and_secret_stores_write_it(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """Quotes that `docker run --env-file` keeps, a newline of `echo`, a byte order mark are not part of the value."""
    for name, value in {
        "BRIDGE_TOKENS": "s3cret",
        "BRIDGE_KAFKA_SASL_PASSWORD": 'pass"word',
        "BRIDGE_LISTEN": "127.0.0.1:1",
        "BRIDGE_MAX_CONNECTIONS": "17",
        "BRIDGE_REUSE_PORT": "true",
        "BRIDGE_ALLOWED_SOURCES": "a, b",
        "BRIDGE_LOG_FORMAT": "console",
    }.items():
        monkeypatch.setenv(name, written.format(value))
    settings = load(serving=True)
    password = settings.kafka.sasl_password
    assert password is not None
    assert [each.get_secret_value() for each in settings.token_list] == ["s3cret"]
    assert password.get_secret_value() == 'pass"word'
    assert (settings.listen, settings.max_connections, settings.reuse_port) == ("127.0.0.1:1", 17, True)
    assert (settings.allowed_sources, settings.log.format) == (("a", "b"), "console")


@pytest.mark.parametrize("empty", ["", " ", '""', "''", "\n", "\ufeff"])
def test_an_empty_value_is_not_set(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    """Compose files and charts pass on variables that have no value."""
    monkeypatch.setenv("BRIDGE_MAX_CONNECTIONS", empty)
    monkeypatch.setenv("BRIDGE_KAFKA_SASL_USERNAME", empty)
    settings = load()
    assert (settings.max_connections, settings.kafka.sasl_username) == (4096, None)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_files_of_every_editor_are_read(tmp_path: Path, start: str, end: str) -> None:
    """.env and TOML files may begin with a byte order mark and CRLF line ends; .env allows quotes and export."""
    env = f"{start}BRIDGE_TOKENS='a'{end}export BRIDGE_MAX_CONNECTIONS = 17{end}BRIDGE_TOPICS_PREFIX=\"x.\"{end}"
    (tmp_path / ".env").write_bytes(env.encode())
    (tmp_path / "bridge.toml").write_bytes(f'{start}[kafka]{end}client_id = "toml"{end}'.encode())
    settings = load(tmp_path / "bridge.toml", serving=True)
    assert [each.get_secret_value() for each in settings.token_list] == ["a"]
    assert (settings.max_connections, settings.topics.prefix, settings.kafka.client_id) == (17, "x.", "toml")


@pytest.mark.parametrize(
    ("written", "normalized"),
    [
        ("a:1", "a:1"),
        (" a:1 ,b:2, ", "a:1,b:2"),
        ("PLAINTEXT://a:9092,SASL_SSL://b:9092", "a:9092,b:9092"),
        ("[::1]:9092", "[::1]:9092"),
        ("::1:9092", "[::1]:9092"),
        ("2001:db8::7:9092,[2001:db8::8]:9092", "[2001:db8::7]:9092,[2001:db8::8]:9092"),
        ("[fe80::1%eth0]:9092", "[fe80::1%eth0]:9092"),
        ("localhost:9092", "localhost:9092"),
    ],
)
def test_brokers_are_written_as_kafka_accepts_them(
    monkeypatch: pytest.MonkeyPatch, written: str, normalized: str
) -> None:
    """With spaces, a protocol, or an IPv6 address with or without brackets."""
    monkeypatch.setenv("BRIDGE_KAFKA_BOOTSTRAP_SERVERS", written)
    assert load().kafka.bootstrap_servers == normalized


@pytest.mark.parametrize(
    "written", ["a", "a:", "a:b", ",", "a:99999", "a:0", "user:pw@a:1", "user@a:1", "a:1;b:2", "a:b:1"]
)
def test_brokers_that_are_not_addresses_are_a_mistake(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    """The mistake is named; the value, which could contain a password, is not repeated."""
    monkeypatch.setenv("BRIDGE_KAFKA_BOOTSTRAP_SERVERS", written)
    (line,) = mistakes()
    assert line.startswith("BRIDGE_KAFKA_BOOTSTRAP_SERVERS: ")
    assert "pw" not in line


def test_credentials_in_a_url_are_a_mistake_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs are shown on the page, in the log and by `config show`."""
    monkeypatch.setenv("BRIDGE_REGISTRY_URL", "https://user:s3cret@registry:8081")
    monkeypatch.setenv("BRIDGE_GUMLET_API_URL", "https://user:s3cret@api.gumlet.com/v1")
    lines = mistakes()
    assert [line.split(":")[0] for line in lines] == ["BRIDGE_REGISTRY_URL", "BRIDGE_GUMLET_API_URL"]
    assert "s3cret" not in "\n".join(lines)


def test_a_name_or_expiry_in_the_setting_tokens_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would become part of the token, and every delivery would get 401."""
    monkeypatch.setenv("BRIDGE_TOKENS", "s3cret name=gumlet")
    (line,) = mistakes(serving=True)
    assert line.startswith("BRIDGE_TOKENS: contains a space")
    assert "s3cret" not in line


def test_unknown_variable_of_a_section_is_named_as_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable, not the path of the setting that it would be."""
    monkeypatch.setenv("BRIDGE_KAFKA_BOOTSTRAP", "kafka:9092")
    with pytest.raises(ConfigError, match=r"BRIDGE_KAFKA_BOOTSTRAP: no such setting"):
        load()
