"""The settings as aiokafka's keyword arguments, and the errors of aiokafka.

Input: KafkaSettings. Output: the options of every client (producer, consumer, AIOKafkaClient).
Invariants: this is the only module that reads Kafka's secrets. An OAuth token is read from its file at each connection,
certificates when their files have changed: neither rotation needs a restart.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Self

import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError

from bridge.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from bridge.config.sections import KafkaSettings


_log = structlog.stdlib.get_logger()


class ConnectionFailedError(KafkaConnectionError):  # type: ignore[misc]  # aiokafka has no types
    """No connection to Kafka. The text names the address, the cause and the fix."""

    def __str__(self) -> str:
        return str(self.args[0])


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """An OAuth bearer token in a file that another program rotates."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """Read the token. aiokafka asks at each connection and treats OSError as a failed connection."""
        return (await asyncio.to_thread(self._path.read_text)).strip()


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments common to aiokafka's producer, consumer and admin client.

    Raises ConfigError when a certificate or key cannot be used.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap_servers.split(",")],
        "client_id": kafka.client_id,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = RenewableContext(kafka)
    if kafka.security_protocol.startswith("SASL_"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        if kafka.sasl_mechanism == "OAUTHBEARER":
            if kafka.sasl_oauth_token_file is None:
                raise ConfigError("BRIDGE_KAFKA_SASL_OAUTH_TOKEN_FILE is required with OAUTHBEARER.")
            options["sasl_oauth_token_provider"] = TokenFile(kafka.sasl_oauth_token_file)
        elif kafka.sasl_username is None or kafka.sasl_password is None:
            raise ConfigError(
                "BRIDGE_KAFKA_SASL_USERNAME and BRIDGE_KAFKA_SASL_PASSWORD are required with "
                f"sasl_mechanism {kafka.sasl_mechanism}."
            )
        else:
            options["sasl_plain_username"] = kafka.sasl_username
            options["sasl_plain_password"] = kafka.sasl_password.get_secret_value()
    return options


class RenewableContext(ssl.SSLContext):
    """A TLS context that reads its files again when they have changed, so that new connections use the new files.

    While the new files cannot be used (renewed only in part, for example), connections use the previous ones.
    """

    def __new__(cls, _kafka: KafkaSettings) -> Self:
        """Make a context that verifies servers; the one that connections use is made in `__init__`."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, kafka: KafkaSettings) -> None:
        """Raise ConfigError when a certificate or key cannot be used."""
        self._kafka = kafka
        self._version = self._files_version()
        self._current = _ssl_context(kafka)

    def _files_version(self) -> list[tuple[int, int, int] | None]:
        """Return what changes when a file is written again or replaced."""
        version: list[tuple[int, int, int] | None] = []
        for path in (self._kafka.ssl_cafile, self._kafka.ssl_certfile, self._kafka.ssl_keyfile):
            try:
                status = None if path is None else path.stat()
            except OSError:
                status = None
            version.append(status and (status.st_mtime_ns, status.st_ino, status.st_size))
        return version

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Start the TLS of a new connection, with the files as they are now."""
        if (version := self._files_version()) != self._version:
            try:
                self._current = _ssl_context(self._kafka)
            except ConfigError as error:
                _log.warning("kafka_certificates_not_reloaded", detail=str(error), hint="the previous ones are used")
            else:
                self._version = version
                _log.info("kafka_certificates_reloaded")
        return self._current.wrap_bio(*args, **options)


def _ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"BRIDGE_KAFKA_SSL_CAFILE: {kafka.ssl_cafile} cannot be used: {error}. "
            "Fix: a PEM file of the authorities that signed the brokers' certificates."
        ) from error
    context.check_hostname = kafka.ssl_check_hostname
    if kafka.ssl_certfile is not None:
        # Never None: OpenSSL would ask a terminal for a password that is missing, and a daemon would hang there.
        password = kafka.ssl_password.get_secret_value() if kafka.ssl_password is not None else ""
        try:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, password)
        except OSError as error:
            raise ConfigError(
                f"BRIDGE_KAFKA_SSL_CERTFILE: {kafka.ssl_certfile} cannot be used: {error}. Fix: the client's "
                "certificate and its key (BRIDGE_KAFKA_SSL_KEYFILE) as PEM, with BRIDGE_KAFKA_SSL_PASSWORD if it "
                "has one."
            ) from error
    return context


def describe_error(error: BaseException) -> str:
    """Return an error as one line that starts with its type: aiokafka's texts alone are often empty."""
    text = str(error)
    if isinstance(error, ConnectionFailedError):
        return text
    return text if text.startswith(type(error).__name__) else f"{type(error).__name__}: {text}".rstrip(": ")
