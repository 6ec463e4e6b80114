"""Finds out why Kafka cannot be reached, and names the address, the cause and the next step.

Input: KafkaSettings and the error of an aiokafka client. Output: one line. aiokafka reports every cause as
"Unable to bootstrap", so the connection is made again step by step: resolve the name, connect, TLS handshake, SASL,
metadata, and the same for the addresses that the brokers advertise.

Invariants: bounded by PROBE_SECONDS; never raises; sends no secret to an address that is not configured; creates no
topic (the metadata request names none).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from bridge.kafka.client import client_options, describe_error

if TYPE_CHECKING:
    from bridge.config.sections import KafkaSettings

PROBE_SECONDS = 8.0
"""Time limit of a diagnosis: a silent server takes three steps."""
STEP_SECONDS = 2.0
"""Time limit of one step, after which the address counts as silent."""

_SECURITY = "BRIDGE_KAFKA_SECURITY_PROTOCOL"


class Cause(NamedTuple):
    """Why one address cannot be used."""

    detail: str
    fix: str

    def __str__(self) -> str:
        return f"{self.detail}. Fix: {self.fix}"


async def explain(kafka: KafkaSettings, error: BaseException | None = None) -> str:
    """Return the cause of a failed connection as one line; the error's own text if every step succeeds now."""
    if isinstance(error, ClusterAuthorizationFailedError):  # of an idempotent producer's first request
        user = f"user {kafka.sasl_username!r}" if kafka.sasl_username else "this client"
        fix = "allow Write on the topics (kafka-acls --operation Write); before Kafka 2.8 also IdempotentWrite"
        return str(Cause(f"Kafka allows {user} to write to no topic", fix))
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            causes = await asyncio.gather(*(_probe(kafka, *host[:2]) for host in collect_hosts(_servers(kafka))))
    except Exception as fault:  # noqa: BLE001 - a diagnosis must not fail where it explains a failure
        causes = [Cause(describe_error(error or fault), "check that Kafka runs, and BRIDGE_KAFKA_BOOTSTRAP_SERVERS")]
    found = list(dict.fromkeys(cause for cause in causes if cause is not None))
    if len(found) < len(causes):  # one address works: the others do not explain the error
        found = []
    if found:
        details, fixes = ("; ".join(dict.fromkeys(texts)) for texts in zip(*found, strict=True))
        return str(Cause(details, fixes))
    return describe_error(error) if error is not None else ""


def _servers(kafka: KafkaSettings) -> list[str]:
    servers: list[str] = client_options(kafka)["bootstrap_servers"]
    return servers


async def _probe(kafka: KafkaSettings, host: str, port: int) -> Cause | None:
    """Connect to one bootstrap server step by step; return the first cause, None if all works."""
    if (cause := await _reach(kafka, host, port, f"{host}:{port}")) is not None:
        return cause
    options = client_options(kafka)
    del options["bootstrap_servers"]
    try:
        connection: AIOKafkaConnection = await create_conn(
            host, port, **options, request_timeout_ms=int(STEP_SECONDS * 1000)
        )
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        return await _protocol_cause(kafka, host, port, error)
    try:
        metadata = (await connection.send(MetadataRequest([]))).to_object()
    except (KafkaError, OSError, TimeoutError) as error:
        return await _protocol_cause(kafka, host, port, error)
    finally:
        connection.close()
    if not metadata["brokers"]:
        return Cause(f"Kafka at {host}:{port} has no available broker", "check that the cluster has started")
    causes = await asyncio.gather(*(_advertised(kafka, broker) for broker in metadata["brokers"]))
    return next(filter(None, causes), None)


async def _advertised(kafka: KafkaSettings, broker: dict[str, Any]) -> Cause | None:
    host, port = broker["host"], broker["port"]
    cause = await _reach(kafka, host, port, f"broker {broker['node_id']} advertises {host}:{port}, which")
    return cause and cause._replace(
        fix=f"correct the broker's advertised.listeners, or this machine's network ({cause.fix})"
    )


async def _reach(kafka: KafkaSettings, host: str, port: int, subject: str) -> Cause | None:
    """Resolve, connect and, with TLS, do the handshake."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STEP_SECONDS):
            await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no response from DNS"
        return Cause(f"{subject} cannot be resolved: unknown host {host!r} ({reason})", "correct the name or the DNS")
    tls = client_options(kafka).get("ssl_context")
    try:
        await _handshake(host, port, None)
        if tls is not None:
            await _handshake(host, port, tls)
    except OSError as error:
        return _connection_cause(subject, error)
    return None


def _connection_cause(subject: str, error: OSError) -> Cause:
    """Explain an error of TCP or of the TLS handshake."""
    match error:
        case ssl.SSLCertVerificationError():
            detail = f"presents a TLS certificate that fails verification: {error.verify_message}"
            fix = "set BRIDGE_KAFKA_SSL_CAFILE to the authority that signed the certificate; it must contain the host"
        case ssl.SSLError():
            detail, fix = (
                f"fails the TLS handshake: {error.reason or error}",
                f"correct {_SECURITY}, or the client's key",
            )
        case ConnectionRefusedError():
            detail, fix = "refused the connection: no process listens there", "start Kafka, or correct the port"
        case TimeoutError():
            detail, fix = f"did not respond within {STEP_SECONDS:.0f} s", "check the firewall and the address"
        case _:
            detail, fix = f"cannot be reached: {error.strerror or error}", "check the network and the address"
    return Cause(f"{subject} {detail}", fix)


async def _handshake(host: str, port: int, tls: ssl.SSLContext | None) -> None:
    async with asyncio.timeout(STEP_SECONDS):
        _, writer = await asyncio.open_connection(host, port, ssl=tls)
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(STEP_SECONDS):
            await writer.wait_closed()


async def _protocol_cause(kafka: KafkaSettings, host: str, port: int, error: BaseException) -> Cause:
    """Explain an error of Kafka's protocol on a connection that could be opened."""
    address, mechanism = f"{host}:{port}", kafka.sasl_mechanism
    match error:
        case SaslAuthenticationFailed() if mechanism == "OAUTHBEARER":
            fix = f"write a valid token to {kafka.sasl_oauth_token_file} (BRIDGE_KAFKA_SASL_OAUTH_TOKEN_FILE)"
            return Cause(f"Kafka at {address} rejected the OAuth token ({error})", fix)
        case SaslAuthenticationFailed():
            detail = f"Kafka rejected user {kafka.sasl_username!r}: wrong username or password (SASL {mechanism})"
            return Cause(f"{detail} at {address}", "correct BRIDGE_KAFKA_SASL_USERNAME and BRIDGE_KAFKA_SASL_PASSWORD")
        case UnsupportedSaslMechanismError():
            return Cause(f"{address} does not support SASL {mechanism}", "correct BRIDGE_KAFKA_SASL_MECHANISM")
        case IllegalSaslStateError():
            return Cause(
                f"{address} does not use SASL", f"set {_SECURITY}={kafka.security_protocol.removeprefix('SASL_')}"
            )
        case OSError(filename=str() as file):
            return Cause(f"{file} cannot be read: {error.strerror}", "correct BRIDGE_KAFKA_SASL_OAUTH_TOKEN_FILE")
    return await _silence_cause(kafka, host, port, error)


async def _silence_cause(kafka: KafkaSettings, host: str, port: int, error: BaseException) -> Cause:
    """Explain a connection that the other side closed or left without a response."""
    address = f"{host}:{port}"
    if "ssl_context" not in client_options(kafka) and await _uses_tls(host, port):
        return Cause(f"{address} uses TLS, the bridge does not", f"set {_SECURITY}=SSL or SASL_SSL")
    if isinstance(error, TimeoutError):
        return Cause(f"{address} accepts connections but Kafka does not respond", "check the broker's process and log")
    detail = f"{address} closed the connection during the first request ({describe_error(error)})"
    return Cause(detail, f"set {_SECURITY} to the listener's protocol; the bridge uses {kafka.security_protocol} now")


async def _uses_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        await _handshake(host, port, context)
    except (OSError, TimeoutError):
        return False
    return True
