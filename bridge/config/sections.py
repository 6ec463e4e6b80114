"""The parts of the configuration that have a name of their own: one class for each table of the TOML file.

Rules that join two settings are checked on the later one, so that a mistake in one hides no mistake in another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationInfo, field_validator

MIB = 1024 * 1024


class Section(BaseModel):
    """A table of the TOML file; its names joined by `_` are the environment's."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class JournalSettings(Section):
    """Where acknowledged deliveries wait for Kafka, and how much may wait."""

    dir: Path = Field(
        Path("journal"),
        description="Directory of the journal. One process each; put it on a disk that survives the process.",
    )
    max_bytes: int = Field(
        4096 * MIB,
        ge=MIB,
        description="Most bytes of deliveries to keep while Kafka is away; full means 503. 4 GiB hold about 3 "
        "million events.",
    )
    min_free_bytes: int = Field(
        256 * MIB,
        ge=0,
        description="Refuse deliveries (503) when the disk has less free than this, so that nothing else on it breaks.",
    )


class QueueSettings(Section):
    """Bounds of deliveries that wait for their acknowledgement, in the journal or (ack = kafka) in memory."""

    max_pending: int = Field(
        10_000,
        ge=1,
        description="Maximum number of deliveries waiting for their acknowledgement; further ones get 503. About half "
        "a second of traffic; slower responses would time out at the sender.",
    )
    max_pending_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        description="Maximum bytes of deliveries waiting for their acknowledgement: the memory that they may use.",
    )


class KafkaSettings(Section):
    """How to reach Kafka."""

    bootstrap_servers: str = Field(
        "localhost:9092",
        pattern=r"^\s*[^\s,:]+:\d+(\s*,\s*[^\s,:]+:\d+)*\s*$",
        description="Comma-separated HOST:PORT of some of Kafka's brokers.",
    )
    client_id: str = Field(
        "gumlet-kafka-bridge",
        min_length=1,
        description="How the bridge calls itself in Kafka's logs and quotas.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        None,
        validate_default=True,
        description="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER; needed with SASL_…",
    )
    sasl_username: str | None = Field(None, validate_default=True, description="For PLAIN and SCRAM.")
    sasl_password: SecretStr | None = Field(None, validate_default=True, description="For PLAIN and SCRAM.")
    sasl_oauth_token_file: FilePath | None = Field(
        None,
        validate_default=True,
        description="For OAUTHBEARER: a file with the token, read at each connection.",
    )
    ssl_cafile: FilePath | None = Field(
        None, description="PEM file of the authorities to trust; the system's when not set."
    )
    ssl_certfile: FilePath | None = Field(None, description="PEM file of the client's certificate (mutual TLS).")
    ssl_keyfile: FilePath | None = Field(None, description="PEM file of the client's key.")
    ssl_password: SecretStr | None = Field(None, description="Password of the client's key.")
    ssl_check_hostname: bool = Field(default=True, description="Check that the broker's certificate is for its name.")
    compression: Literal["none", "gzip"] = Field(
        "none", description="none or gzip. Compresses each batch: less network and disk, more CPU."
    )
    linger_seconds: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Time in which events are collected for one produce request. The acknowledgement does not wait "
        "for it; a full batch, a backlog and a stop skip it. Not used with ack = kafka.",
    )
    delivery_timeout_seconds: float = Field(
        120,
        gt=0,
        description="Replace the producer after this long without a confirmation, if Kafka accepts a new connection; "
        "no event is lost.",
    )

    @field_validator("sasl_mechanism")
    @classmethod
    def _mechanism_goes_with_sasl(cls, value: str | None, info: ValidationInfo) -> str | None:
        protocol = str(info.data.get("security_protocol", ""))
        if protocol.startswith("SASL_") and value is None:
            raise ValueError(f"is needed with security_protocol {protocol}")
        return value

    @field_validator("sasl_username", "sasl_password")
    @classmethod
    def _credentials_go_with_mechanism(cls, value: Any, info: ValidationInfo) -> Any:
        mechanism = info.data.get("sasl_mechanism")
        if mechanism not in (None, "OAUTHBEARER") and value is None:
            raise ValueError(f"is needed with sasl_mechanism {mechanism}")
        return value

    @field_validator("sasl_oauth_token_file")
    @classmethod
    def _token_goes_with_oauth(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if info.data.get("sasl_mechanism") == "OAUTHBEARER" and value is None:
            raise ValueError("is needed with sasl_mechanism OAUTHBEARER")
        return value


class TopicsSettings(Section):
    """What Kafka's topics are called, and who makes them."""

    prefix: str = Field(
        "gumlet.", pattern=r"^[A-Za-z0-9._-]{0,100}$", description="What every topic's name begins with."
    )
    partitions: int | None = Field(
        None, ge=1, description="Partitions of each new topic, in place of what the contract says."
    )
    replication_factor: int = Field(-1, ge=-1, description="Copies of each new topic; -1: the broker's default.")
    provision: Literal["create", "verify", "off"] = Field(
        "create",
        description="At start: create missing topics, verify that all are as the contract says (or do not start), "
        "or off.",
    )


class RegistrySettings(Section):
    """The schema registry, for those who have one: of Confluent, or one that speaks its API."""

    url: str | None = Field(
        None,
        pattern=r"^https?://[^@\s]+$",
        description="Base URL of a registry with Confluent's API; Apicurio's ends in /apis/ccompat/v7. Credentials go "
        "into the settings below, not into it.",
    )
    username: str | None = Field(None, pattern=r"^[^:]+$", description="For basic authentication.")
    password: SecretStr | None = Field(None, validate_default=True, description="For basic authentication.")
    token: SecretStr | None = Field(None, description="For bearer authentication, in place of username and password.")
    ssl_cafile: FilePath | None = Field(
        None, description="PEM file of the authorities to trust; the system's when not set."
    )
    wire_format: Literal["plain", "confluent", "header"] = Field(
        "plain",
        description="plain (a record's value is its JSON), confluent (before it a zero byte and the schema's id in 4 "
        "bytes) or header (the schema's GUID in the header __value_schema_id; Confluent's registry from 8.0 on).",
    )

    @field_validator("password")
    @classmethod
    def _password_goes_with_username(cls, value: Any, info: ValidationInfo) -> Any:
        if (value is None) != (info.data.get("username") is None):
            raise ValueError("goes with username: set both or neither")
        return value

    @field_validator("token")
    @classmethod
    def _check_exclusive_auth(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("username") is not None:
            raise ValueError("excludes username and password: set one or the other")
        return value

    @field_validator("wire_format")
    @classmethod
    def _check_wire_format_needs_url(cls, value: str, info: ValidationInfo) -> str:
        # A URL that is itself a mistake is absent from info.data and has its own line in the report.
        if value != "plain" and info.data.get("url", "") is None:
            raise ValueError("other than plain needs url: the schemas' ids are the registry's")
        return value


class LogSettings(Section):
    """What is logged to standard error."""

    format: Literal["json", "console"] = Field("json", description="json (a line each) or console (for people).")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error.")


class GumletSettings(Section):
    """Gumlet's own API, for the commands that call it."""

    api_key: SecretStr | None = Field(None, description="Gumlet's API key. The daemon never needs it.")
    api_url: str = Field("https://api.gumlet.com/v1", pattern=r"^https?://", description="Base of Gumlet's API.")
