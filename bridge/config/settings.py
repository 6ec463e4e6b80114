"""Configuration: one frozen object, read once, every mistake reported at once with its fix.

Sources, the first that names a setting wins: the command line, the environment (`BRIDGE_JOURNAL_DIR`), `.env`,
the TOML file given by `--config` (`[journal] dir = …`), the default. Unknown names are mistakes. Secrets are
`SecretStr`: they print as asterisks, and only the parts that compare or send them read their value.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from bridge.config.address import Address, format_url, parse_address
from bridge.config.rendering import format_errors
from bridge.config.sections import (
    GumletSettings,
    JournalSettings,
    KafkaSettings,
    LogSettings,
    QueueSettings,
    RegistrySettings,
    TopicsSettings,
)
from bridge.config.sources import CleanedSource, read_toml
from bridge.errors import ConfigError
from bridge.webhook import SOURCE_PATTERN

PREFIX = "BRIDGE_"


def _address(value: str) -> str:
    parse_address(value)
    return value


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _join(value: Any) -> Any:
    # A string, not a tuple: pydantic-settings would take BRIDGE_TOKENS_FILE for an item of a tuple.
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


Listen = Annotated[str, AfterValidator(_address)]
Source = Annotated[str, Field(pattern=f"^{SOURCE_PATTERN}$")]


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_ignore_empty=True,
    )

    listen: Listen = Field("0.0.0.0:8080", description="HOST:PORT of the public port, for Gumlet's webhooks.")
    admin_listen: Listen = Field(
        "127.0.0.1:8081",
        description="HOST:PORT of the admin port: health, metrics, status. Never open it to the internet.",
    )
    admin_allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Comma-separated host names by which the admin port may be reached, besides localhost, the host of "
        "admin_listen and every IP address; *.NAME allows every name below NAME. Other names get 421.",
    )
    allow_unauthenticated: bool = Field(
        default=False, description="Accept deliveries without a token. Only for tests and closed networks."
    )
    tokens_file: FilePath | None = Field(
        None, description="File of valid tokens, one on each line; reloaded when it changes."
    )
    tokens: Annotated[SecretStr, BeforeValidator(_join)] = Field(
        SecretStr(""),
        validate_default=True,
        description="Comma-separated tokens; a delivery must carry one in x-gumlet-token. Use two during a rotation.",
    )
    tls_certfile: FilePath | None = Field(
        None,
        description="PEM file of the certificate and its chain, for TLS on the public port; reloaded when it changes.",
    )
    tls_keyfile: FilePath | None = Field(
        None, validate_default=True, description="PEM file of the certificate's key, without a password."
    )
    allowed_sources: Annotated[tuple[Source, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Comma-separated names accepted in /webhooks/gumlet/{source}; empty: any name of letters, "
        "digits, '.', '_', '-'.",
    )
    ack: Literal["journal", "kafka"] = Field(
        "journal", description="What a 200 guarantees: stored on this replica's disk (journal), or on Kafka (kafka)."
    )
    ack_timeout_seconds: float = Field(
        10, gt=0, description="With ack = kafka: how long a delivery waits for Kafka before it is answered 503."
    )
    max_body_bytes: int = Field(
        512 * 1024,
        ge=1024,
        # A dead letter contains the body in base64 and must fit in Kafka's default limit of 1 MiB.
        le=700_000,
        description="Largest body, before and after decompression; a larger one gets 413. Gumlet's are about 2 KiB; "
        "Kafka's default limit is 1 MiB, and a dead letter contains the body in base64.",
    )
    max_headers: int = Field(
        64,
        ge=16,
        description="Most header fields of a request; more gets 400. Gumlet sends about ten, proxies add some.",
    )
    max_header_bytes: int = Field(
        8190,
        ge=1024,
        description="Longest request line or header field; more gets 400. The usual bound of web servers.",
    )
    request_timeout_seconds: float = Field(
        10,
        gt=0,
        description="How long a sender may take for its headers, and again for its body; then 408. A delivery is one "
        "packet or two: the limit is generous, and it bounds slow-request attacks.",
    )
    keepalive_timeout_seconds: float = Field(
        75,
        gt=0,
        description="How long an idle connection stays open: longer than the usual 60 s of proxies, so that a proxy "
        "does not reuse a connection that the bridge has closed.",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="Most open connections; further ones get 503 and are closed. Each takes a file and about 15 KiB, "
        "so 4096 take 60 MiB at most.",
    )
    max_connections_per_address: int = Field(
        0,
        ge=0,
        description="The same for each sender's address; 0: no limit, because behind a proxy or load balancer all "
        "connections have its address. Where senders reach the port directly, 256 is ample.",
    )
    retry_after_seconds: int = Field(30, ge=0, description="Value of Retry-After in a 503 response.")
    shutdown_timeout_seconds: float = Field(
        25,
        gt=0,
        description="How long a stop may take to finish the requests in flight, and then again to drain to Kafka.",
    )
    reuse_port: bool = Field(default=False, description="Allow several processes on one machine to share the port.")
    journal: JournalSettings = JournalSettings()
    queue: QueueSettings = QueueSettings()
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicsSettings = TopicsSettings()
    registry: RegistrySettings = RegistrySettings()
    log: LogSettings = LogSettings()
    gumlet: GumletSettings = GumletSettings()

    @field_validator("tokens")
    @classmethod
    def _check_tokens_have_no_spaces(cls, value: SecretStr) -> SecretStr:
        if any(re.search(r"\s", token.strip()) for token in value.get_secret_value().split(",")):
            raise ValueError("contains a space inside a token; names and expiry dates belong in tokens_file")
        return value

    @field_validator("tls_keyfile")
    @classmethod
    def _key_goes_with_certificate(cls, value: Any, info: ValidationInfo) -> Any:
        if "tls_certfile" in info.data and (value is None) != (info.data["tls_certfile"] is None):
            raise ValueError("requires tls_certfile, and tls_certfile requires it: set both or neither")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources; `load` adds the TOML file."""
        return (
            init_settings,
            CleanedSource(settings_cls, env_settings),
            CleanedSource(settings_cls, dotenv_settings),
        )

    @property
    def token_list(self) -> tuple[SecretStr, ...]:
        """The tokens of the setting `tokens`, without those of `tokens_file`."""
        return tuple(SecretStr(token.strip()) for token in self.tokens.get_secret_value().split(",") if token.strip())

    @property
    def public_address(self) -> Address:
        """The address of the public port."""
        return parse_address(self.listen)

    @property
    def admin_address(self) -> Address:
        """The address of the admin port."""
        return parse_address(self.admin_listen)

    @property
    def admin_url(self) -> str:
        """Where this machine reaches the admin port, also when it listens on all addresses."""
        host, port = self.admin_address
        return format_url(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port))  # noqa: S104 - replaced here


class ServeSettings(Settings):
    """Settings of the daemon: at least one token is required."""

    @field_validator("tokens")
    @classmethod
    def _require_tokens(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        configured = info.data.get("tokens_file") or info.data.get("allow_unauthenticated")
        # An invalid tokens_file is absent from info.data and has its own line in the report.
        if not value.get_secret_value().strip(", ") and not configured and "tokens_file" in info.data:
            raise ValueError("a token is required here or in BRIDGE_TOKENS_FILE: without one anyone could send events")
        return value


def load(config_file: Path | None = None, *, serving: bool = False, **overrides: Any) -> Settings:
    """Read the configuration; `overrides`, from the command line, win over every source.

    With `serving`, what only the daemon needs (a token) is required. Raises ConfigError with every mistake and its fix.
    """
    base: type[Settings] = ServeSettings if serving else Settings
    if config_file is not None and not config_file.is_file():
        raise ConfigError(
            f"{config_file}: no such file. Fix: name a TOML file; `gumlet-bridge config example` prints one."
        )

    try:
        document = {} if config_file is None else read_toml(config_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config_file}: {error}. Fix: write valid TOML in UTF-8.") from error

    class SettingsWithFile(base):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8-sig", title=base.__name__)

        @classmethod
        def settings_customise_sources(cls, *arguments: Any, **sources: Any) -> tuple[Any, ...]:
            inherited = super().settings_customise_sources(*arguments, **sources)
            return *inherited, InitSettingsSource(cls, document)

    mistakes: list[dict[str, Any]] = []
    settings: Settings | None = None
    try:
        settings = SettingsWithFile(**overrides)
    except ValidationError as error:
        mistakes = [dict(mistake) for mistake in error.errors(include_url=False, include_context=False)]
    except ValueError as error:  # a value that a source cannot parse
        raise ConfigError(f"environment: {error}. Fix: correct it.") from error
    if lines := format_errors(base, PREFIX, mistakes, os.environ):
        raise ConfigError("\n".join(lines))
    assert settings is not None  # noqa: S101 - there is one when there are no mistakes
    return settings
