"""TLS on the ingress, and to a real Kafka: TLS alone, mutual TLS, SCRAM-SHA-512 over TLS."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.support.brokers import ApacheKafka
from tests.support.brokers.apache import free_port
from tests.support.daemon import TOKEN, Daemon, request, wait_for
from tests.support.delivery_checker import read_all

PASSWORD = "scram-password-of-the-tests"
BODY = b'{"type": "video.status.created", "asset_id": "5fd088e0a47da8246f1fb756"}'


class Authority(NamedTuple):
    """Makes certificates for 127.0.0.1 that `ca` vouches for."""

    directory: Path
    ca: Path

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Return a new certificate and its key."""
        certificate, key, request = (self.directory / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        extension = self.directory / "san"
        extension.write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.directory / "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", extension, "-out", certificate),
        )
        return certificate, key


def openssl(*arguments: object) -> None:
    """Run OpenSSL's tool."""
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make an authority."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    return new_authority(tmp_path_factory.mktemp("authority"))


def new_authority(directory: Path) -> Authority:
    """Make an authority in a directory."""
    directory.mkdir(exist_ok=True)
    ca = directory / "ca.pem"
    key = directory / "ca.key"
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca", "-keyout", key, "-out", ca
    )
    return Authority(directory, ca)


class SecureKafka(NamedTuple):
    """A node with three ways in."""

    node: ApacheKafka
    mutual: str
    scram: str


@pytest.fixture(scope="module")
def secure_kafka(
    authority: Authority, kafka_libraries: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecureKafka]:
    """Run Kafka with a listener that wants a client's certificate and one that wants SCRAM-SHA-512."""
    certificate, key = authority.certificate("broker")
    together = authority.directory / "broker-with-key.pem"
    together.write_text(key.read_text() + certificate.read_text())
    mutual, scram = (f"127.0.0.1:{free_port()}" for _ in range(2))
    node = ApacheKafka(
        kafka_libraries,
        tmp_path_factory.mktemp("secure"),
        listeners={"SSL": mutual, "SASL_SSL": scram},
        properties={
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(together),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.ca),
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
        },
        format_as=("--standalone", "--add-scram", f"SCRAM-SHA-512=[name=bridge,password={PASSWORD}]"),
    )
    with node:
        yield SecureKafka(node, mutual, scram)


async def arrives(daemon: Daemon, kafka: SecureKafka, prefix: str) -> None:
    """Assert that a delivery is published over the daemon's connection."""
    assert daemon.post(BODY).status == 200
    wait_for(daemon.drained, 60, "Kafka over TLS")
    (record,) = await read_all(kafka.node.bootstrap_servers, [f"{prefix}video.status.created"])
    assert record.key == b"5fd088e0a47da8246f1fb756"


@pytest.mark.long
async def test_renewed_certificates_are_used_by_the_running_producer(
    kafka_libraries: Path, tmp_path: Path, prefix: str
) -> None:
    """All files are replaced by those of another authority, and Kafka with them: the next connection uses them."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    store, trust, ca, certificate, key = (
        tmp_path / f"{name}.pem" for name in ("store", "trust", "ca", "client", "key")
    )

    def renew(name: str) -> None:
        authority = new_authority(tmp_path / name)
        broker, broker_key = authority.certificate("broker")
        store.write_text(broker_key.read_text() + broker.read_text())
        client, client_key = authority.certificate("client")
        for source, target in ((authority.ca, trust), (authority.ca, ca), (client, certificate), (client_key, key)):
            shutil.copy(source, target)

    renew("first")
    mutual = f"127.0.0.1:{free_port()}"
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(trust),
        "listener.name.ssl.ssl.client.auth": "required",
    }
    settings: dict[str, Any] = {
        "kafka_security_protocol": "SSL",
        "kafka_ssl_cafile": ca,
        "kafka_ssl_certfile": certificate,
        "kafka_ssl_keyfile": key,
        "kafka_delivery_timeout_seconds": 600,  # the producer is not replaced meanwhile
    }
    with (
        ApacheKafka(kafka_libraries, tmp_path / "kafka", listeners={"SSL": mutual}, properties=properties) as node,
        Daemon(tmp_path, mutual, prefix, **settings) as daemon,
    ):
        await arrives(daemon, SecureKafka(node, mutual, ""), prefix)
        node.stop()
        renew("second")
        node.start()
        assert daemon.post(BODY).status == 200
        wait_for(daemon.drained, 60, "a delivery over the renewed certificates")
        assert daemon.logged("kafka_certificates_reloaded")
        assert daemon.metric("bridge_kafka_producer_restarts_total") == 0


async def test_kafka_over_mutual_tls(
    secure_kafka: SecureKafka, authority: Authority, tmp_path: Path, prefix: str
) -> None:
    """With a certificate of the broker's authority events are published; without one they are pending."""
    certificate, key = authority.certificate("client")
    settings: dict[str, Any] = {
        "kafka_security_protocol": "SSL",
        "kafka_ssl_cafile": authority.ca,
        "kafka_ssl_certfile": certificate,
        "kafka_ssl_keyfile": key,
    }
    with Daemon(tmp_path, secure_kafka.mutual, prefix, **settings) as daemon:
        await arrives(daemon, secure_kafka, prefix)
        daemon.stop()
        daemon.settings |= {"kafka_ssl_certfile": None, "kafka_ssl_keyfile": None}
        daemon.start()
        wait_for(lambda: daemon.logged("kafka_disconnected"), 60, "a refusal without a certificate")
        assert daemon.post(BODY).status == 200


async def test_kafka_over_scram_and_tls(
    secure_kafka: SecureKafka, authority: Authority, tmp_path: Path, prefix: str
) -> None:
    """With SCRAM-SHA-512 events are published; with a wrong password they are pending; no log has the password."""
    settings: dict[str, Any] = {
        "kafka_security_protocol": "SASL_SSL",
        "kafka_ssl_cafile": authority.ca,
        "kafka_sasl_mechanism": "SCRAM-SHA-512",
        "kafka_sasl_username": "bridge",
        "kafka_sasl_password": PASSWORD,
    }
    with Daemon(tmp_path, secure_kafka.scram, prefix, **settings) as daemon:
        await arrives(daemon, secure_kafka, prefix)
        daemon.stop()
        daemon.settings["kafka_sasl_password"] = "a-wrong-password"
        daemon.start()
        wait_for(lambda: daemon.logged("kafka_disconnected"), 60, "a refusal of the password")
        assert daemon.post(BODY).status == 200
    log = daemon.log_file.read_text()
    assert PASSWORD not in log
    assert "a-wrong-password" not in log


def test_a_broker_that_nobody_vouches_for_gets_nothing(secure_kafka: SecureKafka, tmp_path: Path, prefix: str) -> None:
    """A broker whose certificate is not trusted is not spoken to: events wait."""
    settings: dict[str, Any] = {
        "kafka_security_protocol": "SASL_SSL",  # all as in the test above, but for the authority
        "kafka_sasl_mechanism": "SCRAM-SHA-512",
        "kafka_sasl_username": "bridge",
        "kafka_sasl_password": PASSWORD,
    }
    with Daemon(tmp_path, secure_kafka.scram, prefix, **settings) as daemon:
        assert daemon.post(BODY).status == 200
        wait_for(lambda: daemon.logged("kafka_disconnected"), 60)
        assert not daemon.drained()


def over_tls(daemon: Daemon, ca: Path) -> tuple[int, bytes]:
    """Deliver over TLS; return the status and the server's certificate."""
    address = urlsplit(daemon.public)
    connection = http.client.HTTPSConnection(
        str(address.hostname), address.port, timeout=20, context=ssl.create_default_context(cafile=str(ca))
    )
    try:
        connection.request("POST", "/webhooks/gumlet", BODY, {"x-gumlet-token": TOKEN})
        assert isinstance(connection.sock, ssl.SSLSocket)
        certificate = connection.sock.getpeercert(binary_form=True)
        answer = connection.getresponse()
        answer.read()
        return answer.status, certificate or b""
    finally:
        connection.close()


def test_tls_on_the_ingress_with_a_renewal(authority: Authority, tmp_path: Path) -> None:
    """Deliveries come over TLS; a renewed certificate is used without a restart, a half-renewed one is not."""
    pair = tmp_path / "tls.pem", tmp_path / "tls.key"
    for source, target in zip(authority.certificate("first"), pair, strict=True):
        shutil.copy(source, target)
    with Daemon(tmp_path, "127.0.0.1:1", tls_certfile=pair[0], tls_keyfile=pair[1]) as daemon:
        assert daemon.public.startswith("https://")
        status, first = over_tls(daemon, authority.ca)
        assert status == 200
        renewed = authority.certificate("second")
        shutil.copy(renewed[0], pair[0])
        wait_for(lambda: daemon.logged("tls_certificate_reload_failed"), what="the half renewal logged")
        assert over_tls(daemon, authority.ca) == (200, first)
        shutil.copy(renewed[1], pair[1])
        wait_for(lambda: daemon.logged("certificate_reloaded"), what="the renewal")
        status, second = over_tls(daemon, authority.ca)
        assert status == 200
        assert second != first
        with pytest.raises((http.client.HTTPException, OSError)):
            request(daemon.public.replace("https", "http"), "POST", "/webhooks/gumlet", BODY)


def test_connections_over_tls_are_counted_out_again(authority: Authority, tmp_path: Path) -> None:
    """An address that may hold two connections can come as often as it likes, one after the other."""
    certificate, key = authority.certificate("counted")
    settings: dict[str, Any] = {"tls_certfile": certificate, "tls_keyfile": key, "max_connections_per_address": 2}
    with Daemon(tmp_path, "127.0.0.1:1", **settings) as daemon:
        for _ in range(5):
            assert over_tls(daemon, authority.ca)[0] == 200
            wait_for(lambda: daemon.metric("bridge_connections") == 0, what="the end of the connection")


def test_connections_without_a_tls_handshake_do_not_keep_a_sender_out(authority: Authority, tmp_path: Path) -> None:
    """A connection is counted, and can be evicted, before its handshake."""
    certificate, key = authority.certificate("silent")
    settings: dict[str, Any] = {"tls_certfile": certificate, "tls_keyfile": key, "max_connections": 3}
    with Daemon(tmp_path, "127.0.0.1:1", **settings) as daemon, contextlib.ExitStack() as silent:
        address = urlsplit(daemon.public)
        for _ in range(3):
            silent.enter_context(socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=20))
        wait_for(lambda: daemon.metric("bridge_connections") == 3, what="the silent connections")
        assert over_tls(daemon, authority.ca)[0] == 200
        evicted = 'bridge_http_requests_rejected_total{reason="connection_evicted",status="503"}'
        assert daemon.metric(evicted) == 1
        assert daemon.stop() == 0


@pytest.mark.parametrize("missing", ["tls_certfile", "tls_keyfile"])
def test_half_a_pair_does_not_start(authority: Authority, tmp_path: Path, missing: str) -> None:
    """A certificate without its key, or a key alone, ends the start with 78 rather than with plain HTTP."""
    certificate, key = authority.certificate("half")
    settings: dict[str, Any] = {"tls_certfile": certificate, "tls_keyfile": key, missing: None}
    daemon = Daemon(tmp_path, "127.0.0.1:1", **settings)
    assert daemon.spawn().wait(30) == 78
    assert "tls_certfile" in daemon.log()
