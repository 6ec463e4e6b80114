"""Each cause of a failed connection, provoked on a real Kafka, is named with its address and its fix."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from bridge.config.sections import KafkaSettings
from bridge.kafka.client import ConnectionFailedError
from bridge.kafka.connection import kafka_client
from bridge.kafka.diagnosis import explain
from bridge.kafka.metadata import topic_state
from tests.support.brokers.apache import free_port
from tests.support.brokers.guarded import UNRESOLVABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.brokers.guarded import GuardedKafka


async def cause_of(kafka: KafkaSettings) -> str:
    """Return the text of the failed connection."""
    with pytest.raises(ConnectionFailedError) as failed:
        async with kafka_client(kafka):
            pass
    text = str(failed.value)
    assert ". Fix: " in text
    return text


async def test_a_closed_port_is_named() -> None:
    """A refused connection is reported with its address."""
    port = free_port()
    text = await cause_of(KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}"))
    assert text.startswith(f"127.0.0.1:{port} refused the connection")


async def test_an_unknown_host_is_named() -> None:
    """A name that does not resolve is reported as such."""
    text = await cause_of(KafkaSettings(bootstrap_servers=f"{UNRESOLVABLE}:9092"))
    assert f"unknown host '{UNRESOLVABLE}'" in text


async def test_every_address_that_fails_is_named() -> None:
    """Two bootstrap servers with two causes: both are in the text."""
    port = free_port()
    text = await cause_of(KafkaSettings(bootstrap_servers=f"127.0.0.1:{port},{UNRESOLVABLE}:9092"))
    assert f"127.0.0.1:{port} refused" in text
    assert UNRESOLVABLE in text


async def test_a_wrong_password_is_named_with_the_user_and_not_shown(guarded_kafka: GuardedKafka) -> None:
    """The text names the user and the mechanism, and never the password."""
    text = await cause_of(guarded_kafka.user(sasl_password=SecretStr("not-the-password")))
    assert "Kafka rejected user 'bridge': wrong username or password (SASL PLAIN)" in text
    assert "not-the-password" not in text


async def test_an_unsupported_mechanism_is_named(guarded_kafka: GuardedKafka) -> None:
    """A mechanism that the listener does not offer is not reported as a wrong password."""
    text = await cause_of(guarded_kafka.user(sasl_mechanism="SCRAM-SHA-512"))
    assert "does not support SASL SCRAM-SHA-512" in text


async def test_sasl_on_a_listener_without_sasl_is_named(guarded_kafka: GuardedKafka) -> None:
    """The fix is the security protocol of the listener."""
    text = await cause_of(guarded_kafka.user(bootstrap_servers=guarded_kafka.node.bootstrap_servers))
    assert "BRIDGE_KAFKA_SECURITY_PROTOCOL" in text


async def test_no_sasl_on_a_listener_with_sasl_is_named(guarded_kafka: GuardedKafka) -> None:
    """The fix is the security protocol of the listener."""
    text = await cause_of(KafkaSettings(bootstrap_servers=guarded_kafka.sasl))
    assert "closed the connection during the first request" in text
    assert "BRIDGE_KAFKA_SECURITY_PROTOCOL" in text


async def test_an_unknown_authority_is_named(guarded_kafka: GuardedKafka) -> None:
    """A certificate of an authority that is not trusted is reported with OpenSSL's reason."""
    text = await cause_of(KafkaSettings(bootstrap_servers=guarded_kafka.tls, security_protocol="SSL"))
    assert "fails verification: self-signed certificate" in text
    assert "BRIDGE_KAFKA_SSL_CAFILE" in text


async def test_a_certificate_for_another_name_is_named(guarded_kafka: GuardedKafka) -> None:
    """A certificate that does not contain the address is reported with OpenSSL's reason."""
    port = guarded_kafka.tls.rpartition(":")[2]
    kafka = KafkaSettings(
        bootstrap_servers=f"localhost:{port}", security_protocol="SSL", ssl_cafile=Path(guarded_kafka.certificate)
    )
    assert "Hostname mismatch" in await cause_of(kafka)


async def test_plaintext_on_a_tls_listener_is_named(guarded_kafka: GuardedKafka) -> None:
    """The cause is that the listener uses TLS."""
    text = await cause_of(KafkaSettings(bootstrap_servers=guarded_kafka.tls))
    assert "uses TLS, the bridge does not" in text


async def test_an_advertised_name_that_does_not_resolve_is_named(guarded_kafka: GuardedKafka) -> None:
    """The bootstrap server responds; the address that it advertises is the cause."""
    with pytest.raises(ConnectionFailedError) as failed:
        async with kafka_client(KafkaSettings(bootstrap_servers=guarded_kafka.unresolvable)) as client:
            await topic_state(client, ["a"])  # the bootstrap connection itself works
    text = str(failed.value)
    assert f"broker 1 advertises {UNRESOLVABLE}:9092, which cannot be resolved" in text
    assert "advertised.listeners" in text


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Listen, accept connections, and never respond."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_server_that_does_not_respond_is_named(silent_port: int) -> None:
    """An open port without a Kafka behind it is not reported as a refused connection."""
    text = await explain(KafkaSettings(bootstrap_servers=f"127.0.0.1:{silent_port}"), TimeoutError())
    assert "Kafka" in text
    assert "refused" not in text
