"""Configuration: one frozen object, read once, every mistake reported at once with its fix.

Sources, the first that names a setting wins: the command line, the environment (`BRIDGE_JOURNAL_DIR`), `.env`,
the TOML file given by `--config` (`[journal] dir = …`), the default. Unknown names are refused. Secrets are
`SecretStr`: they print as asterisks everywhere, and only `auth` and the clients that send them ask for their value.
"""

from __future__ import annotations

import os
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
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bridge.config.address import Address, parse_address
from bridge.config.rendering import report
from bridge.config.sections import (
    GumletSettings,
    JournalSettings,
    KafkaSettings,
    LogSettings,
    QueueSettings,
    RegistrySettings,
    TopicsSettings,
)
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
    # One text, not a tuple: of a tuple pydantic-settings would take BRIDGE_TOKENS_FILE for a part.
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

    listen: Listen = Field("0.0.0.0:8080", description="HOST:PORT that Gumlet's webhooks come to.")
    admin_listen: Listen = Field(
        "127.0.0.1:8081",
        description="HOST:PORT of health, metrics and status. Never open it to the internet.",
    )
    admin_allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Comma-separated host names by which the admin port may be reached, besides localhost, the host of "
        "admin_listen and every IP address; *.NAME allows every name below NAME. Other names get 421.",
    )
    allow_unauthenticated: bool = Field(
        default=False, description="Accept deliveries from anybody. Only for tests and closed networks."
    )
    tokens_file: FilePath | None = Field(
        None, description="File of valid tokens, one a line; read again when it changes."
    )
    tokens: Annotated[SecretStr, BeforeValidator(_join)] = Field(
        SecretStr(""),
        validate_default=True,
        description="Comma-separated tokens; a delivery must carry one of them in x-gumlet-token. Several: rotation.",
    )
    tls_certfile: FilePath | None = Field(
        None,
        description="PEM file of the certificate, with its chain, for TLS on the public port; read again on change.",
    )
    tls_keyfile: FilePath | None = Field(
        None, validate_default=True, description="PEM file of its key, without a password."
    )
    allowed_sources: Annotated[tuple[Source, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Comma-separated names accepted in /webhooks/gumlet/{source}; empty: any name of letters, "
        "digits, '.', '_', '-'.",
    )
    ack: Literal["journal", "kafka"] = Field(
        "journal", description="What 200 means: on this replica's disk (journal), or on Kafka (kafka)."
    )
    ack_timeout_seconds: float = Field(
        10, gt=0, description="With ack = kafka: how long a delivery waits for Kafka before it gets 503."
    )
    max_body_bytes: int = Field(
        512 * 1024,
        ge=1024,
        # A dead letter holds the body in base64 and must fit in Kafka's default message of 1 MiB.
        le=700_000,
        description="Largest body accepted, before and after decompression; more gets 413. Gumlet's are about 2 KiB; "
        "Kafka takes 1 MiB, and a dead letter holds the body in base64.",
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
        "packet or two, so this is generous, and ends those who are slow on purpose.",
    )
    keepalive_timeout_seconds: float = Field(
        75,
        gt=0,
        description="How long an idle connection stays open: longer than the usual proxy's 60, so that the proxy "
        "closes first and meets no closed connection.",
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
    retry_after_seconds: int = Field(30, ge=0, description="What a 503 tells the sender in Retry-After.")
    shutdown_timeout_seconds: float = Field(
        25, gt=0, description="How long a stop may take to finish what is in flight and drain to Kafka."
    )
    reuse_port: bool = Field(default=False, description="Let several processes of one machine share the port.")
    journal: JournalSettings = JournalSettings()
    queue: QueueSettings = QueueSettings()
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicsSettings = TopicsSettings()
    registry: RegistrySettings = RegistrySettings()
    log: LogSettings = LogSettings()
    gumlet: GumletSettings = GumletSettings()

    @field_validator("tls_keyfile")
    @classmethod
    def _key_goes_with_certificate(cls, value: Any, info: ValidationInfo) -> Any:
        if "tls_certfile" in info.data and (value is None) != (info.data["tls_certfile"] is None):
            raise ValueError("goes with tls_certfile: set both or neither")
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
        """Name the sources; `toml_file` is set by `load`."""
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def token_list(self) -> tuple[SecretStr, ...]:
        """The tokens that are configured themselves, beside those of `tokens_file`."""
        return tuple(SecretStr(each.strip()) for each in self.tokens.get_secret_value().split(",") if each.strip())

    @property
    def public_address(self) -> Address:
        """Where the ingress listens."""
        return parse_address(self.listen)

    @property
    def admin_address(self) -> Address:
        """Where the admin port listens."""
        return parse_address(self.admin_listen)


class ServeSettings(Settings):
    """The configuration of a daemon, which must know whom to believe."""

    @field_validator("tokens")
    @classmethod
    def _require_tokens(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        told = info.data.get("tokens_file") or info.data.get("allow_unauthenticated")
        # A tokens_file that is itself a mistake is absent from info.data and has its own line in the report.
        if not value.get_secret_value().strip(", ") and not told and "tokens_file" in info.data:
            raise ValueError("or tokens_file is needed: without a token anybody could send events")
        return value


def load(config_file: Path | None = None, *, serving: bool = False, **overrides: Any) -> Settings:
    """Read the configuration; `overrides` (what the command line says) win over every source.

    `serving` asks for what only the daemon needs: a token. Raises ConfigError with every mistake and its fix.
    """
    base: type[Settings] = ServeSettings if serving else Settings
    if config_file is not None and not config_file.is_file():
        raise ConfigError(
            f"{config_file}: no such file. Fix: name a TOML file, or begin with `gumlet-bridge config example`."
        )

    class SettingsWithSources(base):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(toml_file=config_file, env_file=".env", title=base.__name__)

    mistakes: list[dict[str, Any]] = []
    settings: Settings | None = None
    try:
        settings = SettingsWithSources(**overrides)
    except ValidationError as error:
        mistakes = [dict(each) for each in error.errors(include_url=False, include_context=False)]
    except ValueError as error:  # TOML that is no TOML, an environment value that cannot be read
        raise ConfigError(f"{config_file or 'environment'}: {error}") from error
    if lines := report(base, PREFIX, mistakes, os.environ):
        raise ConfigError("\n".join(lines))
    assert settings is not None  # noqa: S101 - without mistakes there is one
    return settings
