"""The sections of the configuration: one class for each table of the TOML file.

A rule about two settings is checked on the later one, so that a mistake in one does not hide a mistake in the other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationInfo, field_validator

from bridge.config.address import MAX_PORT, parse_ipv6

MIB = 1024 * 1024


_BROKER = re.compile(r"(?:[A-Za-z0-9_]+://)?(?:\[(?P<v6>[^\]\s@]+)\]|(?P<host>[^\[\]\s@/]+)):(?P<port>\d{1,5})")


def _normalize_brokers(value: str) -> str:
    """Return HOST:PORT of each broker; accept what Kafka's own clients accept (PROTOCOL://, IPv6 without brackets)."""
    brokers = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        match = _BROKER.fullmatch(part)
        if match is None or not 0 < int(match["port"]) <= MAX_PORT:
            raise ValueError("is not a list of HOST:PORT; an IPv6 address is written as in [::1]:9092")
        host = match["v6"] or match["host"]
        if ":" in host:
            host = f"[{parse_ipv6(host)}]"
        brokers.append(f"{host}:{match['port']}")
    if not brokers:
        raise ValueError("is empty: at least one HOST:PORT is required")
    return ",".join(brokers)


class Section(BaseModel):
    """A table of the TOML file. Environment variables have the same names, joined by `_`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class JournalSettings(Section):
    """The journal: the durable queue of acknowledged deliveries."""

    dir: Path = Field(
        Path("journal"),
        description="Directory of the journal, used by one process only, on a disk that survives the process.",
    )
    max_bytes: int = Field(
        4096 * MIB,
        ge=MIB,
        description="Maximum bytes of pending deliveries; a full journal answers 503. 4 GiB hold about 3 million "
        "events.",
    )
    min_free_bytes: int = Field(
        256 * MIB,
        ge=0,
        description="Reject deliveries (503) when less than this is free on the disk, which other programs may use.",
    )


class QueueSettings(Section):
    """Bounds on deliveries that wait for their acknowledgement, in the journal or (ack = kafka) in memory."""

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
    """The connection to Kafka."""

    bootstrap_servers: Annotated[str, AfterValidator(_normalize_brokers)] = Field(
        "localhost:9092", description="Comma-separated HOST:PORT of some of Kafka's brokers."
    )
    client_id: str = Field(
        "gumlet-kafka-bridge",
        min_length=1,
        description="Name of the bridge in Kafka's logs and quotas.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        None,
        validate_default=True,
        description="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER; required with SASL_…",
    )
    sasl_username: str | None = Field(None, validate_default=True, description="For PLAIN and SCRAM.")
    sasl_password: SecretStr | None = Field(None, validate_default=True, description="For PLAIN and SCRAM.")
    sasl_oauth_token_file: FilePath | None = Field(
        None,
        validate_default=True,
        description="For OAUTHBEARER: file with the token, read at each connection.",
    )
    ssl_cafile: FilePath | None = Field(
        None, description="PEM file of the trusted authorities; by default those of the system."
    )
    ssl_certfile: FilePath | None = Field(None, description="PEM file of the client's certificate (mutual TLS).")
    ssl_keyfile: FilePath | None = Field(None, description="PEM file of the client's key.")
    ssl_password: SecretStr | None = Field(None, description="Password of the client's key.")
    ssl_check_hostname: bool = Field(
        default=True, description="Verify that the broker's certificate is for its host name."
    )
    compression: Literal["none", "gzip"] = Field(
        "none", description="none or gzip. Compresses each batch: less network and disk, more CPU."
    )
    linger_seconds: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Time in which events are collected for one produce request. The acknowledgement does not wait "
        "for it; a backlog and the drain at a stop are sent without it. Not used with ack = kafka.",
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
            raise ValueError(f"is required with security_protocol {protocol}")
        return value

    @field_validator("sasl_username", "sasl_password")
    @classmethod
    def _credentials_go_with_mechanism(cls, value: Any, info: ValidationInfo) -> Any:
        mechanism = info.data.get("sasl_mechanism")
        if mechanism not in (None, "OAUTHBEARER") and value is None:
            raise ValueError(f"is required with sasl_mechanism {mechanism}")
        return value

    @field_validator("sasl_oauth_token_file")
    @classmethod
    def _token_goes_with_oauth(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if info.data.get("sasl_mechanism") == "OAUTHBEARER" and value is None:
            raise ValueError("is required with sasl_mechanism OAUTHBEARER")
        return value


class TopicsSettings(Section):
    """Kafka's topics: their names, and who creates them."""

    prefix: str = Field("gumlet.", pattern=r"^[A-Za-z0-9._-]{0,100}$", description="Prefix of every topic's name.")
    partitions: int | None = Field(
        None, ge=1, description="Partitions of each new topic; by default as many as the schema file says."
    )
    replication_factor: int = Field(
        -1, ge=-1, description="Replication factor of each new topic; -1: the broker's default."
    )
    provision: Literal["create", "verify", "off"] = Field(
        "create",
        description="At start: create missing topics, verify that all topics match the schema files, or off.",
    )


class RegistrySettings(Section):
    """Optional Confluent-compatible schema registry."""

    url: str | None = Field(
        None,
        pattern=r"^https?://[^@\s]+$",
        description="Base URL of a registry with Confluent's API; Apicurio's ends in /apis/ccompat/v7. Credentials "
        "belong in the settings below, not in the URL.",
    )
    username: str | None = Field(None, pattern=r"^[^:]+$", description="For basic authentication.")
    password: SecretStr | None = Field(None, validate_default=True, description="For basic authentication.")
    token: SecretStr | None = Field(None, description="For bearer authentication, instead of username and password.")
    ssl_cafile: FilePath | None = Field(
        None, description="PEM file of the trusted authorities; by default those of the system."
    )
    wire_format: Literal["plain", "confluent", "header"] = Field(
        "plain",
        description="plain (a record's value is its JSON), confluent (the JSON follows a zero byte and the schema's id "
        "in 4 bytes) or header (the schema's GUID in the header __value_schema_id; Confluent's registry from 8.0 on).",
    )

    @field_validator("password")
    @classmethod
    def _password_goes_with_username(cls, value: Any, info: ValidationInfo) -> Any:
        if (value is None) != (info.data.get("username") is None):
            raise ValueError("requires username, and username requires it: set both or neither")
        return value

    @field_validator("token")
    @classmethod
    def _check_exclusive_auth(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("username") is not None:
            raise ValueError("cannot be combined with username and password: set one or the other")
        return value

    @field_validator("wire_format")
    @classmethod
    def _check_wire_format_needs_url(cls, value: str, info: ValidationInfo) -> str:
        # An invalid URL is absent from info.data and has its own line in the report.
        if value != "plain" and info.data.get("url", "") is None:
            raise ValueError("other than plain requires url: the registry assigns the schemas' ids")
        return value


class LogSettings(Section):
    """Logging to standard error."""

    format: Literal["json", "console"] = Field(
        "json", description="json (one object a line) or console (readable text)."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error.")


class GumletSettings(Section):
    """Gumlet's API, for the commands that call it."""

    api_key: SecretStr | None = Field(None, description="Gumlet's API key. The daemon never needs it.")
    api_url: str = Field(
        "https://api.gumlet.com/v1",
        pattern=r"^https?://[^@\s]+$",
        description="Base URL of Gumlet's API, without credentials.",
    )
