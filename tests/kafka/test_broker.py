"""What the publisher relies on in a broker, on librdkafka's embedded one and on Apache Kafka alike."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner, murmur2
from pydantic import SecretStr

from bridge.config.sections import KafkaSettings
from bridge.errors import ConfigError
from bridge.kafka.client import client_options
from bridge.kafka.connection import kafka_client
from tests.support.brokers.apache import ApacheKafka, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.brokers import Broker

PARTITIONS = 4
"""The fixed number of partitions of the embedded broker's topics."""


@pytest.fixture
async def topic(broker: Broker, prefix: str) -> str:
    """Make a topic of four partitions; the embedded broker makes it when it is asked for."""
    name = f"{prefix}events"
    if not broker.embedded:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
        finally:
            await admin.close()
    return name


@asynccontextmanager
async def producing(broker: Broker, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """Run a producer as the publisher's: idempotent, every broker in sync confirms."""
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, enable_idempotence=True, acks="all", **options
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def consuming(broker: Broker, *topics: str, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """Run a consumer from the beginning of its topics or where its group left off."""
    consumer = AIOKafkaConsumer(
        *topics, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest", **options
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def send(producer: AIOKafkaProducer, topic: str, partition: int, values: list[bytes]) -> None:
    """Send values as one batch and wait until the broker has it."""
    batch = producer.create_batch()
    for value in values:
        assert batch.append(timestamp=1_700_000_000_000, key=b"k", value=value) is not None
    batch.close()
    await (await producer.send_batch(batch, topic, partition=partition))


async def test_batches_arrive_whole(broker: Broker, topic: str) -> None:
    """Idempotent batches arrive in order, each record with its key, value, headers and time."""
    headers = [("ce_id", b"1"), ("content-type", b"application/json")]
    async with producing(broker) as producer:
        futures = []
        for number in range(20):
            batch = producer.create_batch()
            for each in range(10):
                at = number * 10 + each
                batch.append(timestamp=1_700_000_000_000 + at, key=b"asset", value=b"%d" % at, headers=headers)
            batch.close()
            futures.append(await producer.send_batch(batch, topic, partition=2))
        for future in futures:
            await future
    async with consuming(broker) as consumer:
        partition = TopicPartition(topic, 2)
        consumer.assign([partition])
        records = [await consumer.getone(partition) for _ in range(200)]
    assert [int(record.value) for record in records] == list(range(200))
    assert [record.offset for record in records] == list(range(200))
    assert [record.timestamp - 1_700_000_000_000 for record in records] == list(range(200))
    assert {record.key for record in records} == {b"asset"}
    assert {tuple(record.headers) for record in records} == {tuple(headers)}


async def test_confirmation_names_the_offset(broker: Broker, topic: str) -> None:
    """What confirms a batch says where its first record is."""
    async with producing(broker) as producer:
        await send(producer, topic, 0, [b"a", b"b"])
        batch = producer.create_batch()
        batch.append(timestamp=1, key=None, value=b"c")
        confirmed = await (await producer.send_batch(batch, topic, partition=0))
    assert (confirmed.topic, confirmed.partition, confirmed.offset) == (topic, 0, 2)


async def test_group_goes_on_where_it_left_off(broker: Broker, topic: str, prefix: str) -> None:
    """A consumer group that committed reads on from there, not from the beginning."""
    group = {"group_id": f"{prefix}group", "enable_auto_commit": False}
    partition = TopicPartition(topic, 0)
    async with producing(broker) as producer:
        await send(producer, topic, 0, [b"1", b"2"])
        async with consuming(broker, **group) as consumer:
            # Assigned, not joined: the embedded broker delays each group member by three seconds.
            consumer.assign([partition])
            assert [(await consumer.getone()).value for _ in range(2)] == [b"1", b"2"]
            await consumer.commit()
        await send(producer, topic, 0, [b"3"])
    async with consuming(broker, topic, **group) as consumer:
        assert (await consumer.getone()).value == b"3"


async def test_partitions_are_known(broker: Broker, topic: str) -> None:
    """A producer knows a topic's partitions before it sends to it."""
    async with producing(broker) as producer:
        assert await producer.partitions_for(topic) == set(range(PARTITIONS))


async def test_full_batch_says_so(broker: Broker, topic: str) -> None:
    """A batch takes what fits into `max_batch_size` and answers None to the rest; what it took arrives."""
    async with producing(broker, max_batch_size=1000) as producer:
        batch = producer.create_batch()
        taken = 0
        while batch.append(timestamp=1, key=None, value=b"x" * 90) is not None:
            taken += 1
        await (await producer.send_batch(batch, topic, partition=1))
    async with consuming(broker) as consumer:
        partition = TopicPartition(topic, 1)
        assert await consumer.end_offsets([partition]) == {partition: taken}


async def test_too_large_batch_is_refused(apache_kafka: Broker, prefix: str) -> None:
    """A batch above the topic's `max.message.bytes` is refused, and the next one goes through.

    On Apache Kafka only: the embedded broker takes any size.
    """
    topic = f"{prefix}small"
    admin = AIOKafkaAdminClient(bootstrap_servers=apache_kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "1000"})])
    finally:
        await admin.close()
    async with producing(apache_kafka) as producer:
        with pytest.raises(MessageSizeTooLargeError):
            await send(producer, topic, 0, [b"x" * 2000])
        await send(producer, topic, 0, [b"small enough"])


@pytest.mark.parametrize(
    ("key", "java"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_partition_of_a_key_is_javas(key: bytes, java: int) -> None:
    """A key goes where Java's client would put it; vectors of Kafka's own UtilsTest.testMurmur2."""
    assert murmur2(key) == java & 0xFFFFFFFF
    partitions = list(range(12))
    assert DefaultPartitioner()(key, partitions, partitions) == (java & 0x7FFFFFFF) % 12


def unsecured_token(user: str) -> str:
    """Return a token that Kafka accepts without an OAuth server: an unsigned JWT."""
    claims = {"sub": user, "iat": time.time(), "exp": time.time() + 600}
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "none"}, claims))
    return b".".join((*parts, b"")).decode()


@pytest.fixture(scope="module")
def guarded(kafka_libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run a Kafka that asks who is there; the address of each of its listeners, and where its certificate is."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    directory = tmp_path_factory.mktemp("guarded")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*made.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    pem = directory / "both.pem"
    pem.write_text(key.read_text() + certificate.read_text())
    sasl, tls = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    login = "org.apache.kafka.common.security"
    listener = "listener.name.sasl_plaintext"
    node = ApacheKafka(
        kafka_libraries,
        directory / "node",
        properties={
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{listener}.plain.sasl.jaas.config": f'{login}.plain.PlainLoginModule required user_bridge="secret";',
            f"{listener}.scram-sha-256.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            f"{listener}.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            f"{listener}.oauthbearer.sasl.jaas.config": f"{login}.oauthbearer.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="kafka";',
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(pem),
        },
        listeners={"SASL_PLAINTEXT": sasl, "SSL": tls},
        format_as=(
            "--standalone",
            "--add-scram",
            "SCRAM-SHA-256=[name=bridge,password=secret]",
            "--add-scram",
            "SCRAM-SHA-512=[name=bridge,password=secret]",
        ),
    )
    with node:
        yield {"sasl": sasl, "tls": tls, "certificate": str(certificate)}


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"])
async def test_sasl(guarded: dict[str, str], tmp_path: Path, mechanism: str) -> None:
    """The settings of each SASL mechanism let a client in."""
    token = tmp_path / "token"
    token.write_text(unsecured_token("bridge") + "\n")
    settings = KafkaSettings(
        bootstrap_servers=guarded["sasl"],
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism=mechanism,
        sasl_username="bridge",
        sasl_password=SecretStr("secret"),
        sasl_oauth_token_file=token,
    )
    async with kafka_client(settings) as client:
        assert client.cluster.brokers()


async def test_wrong_password_is_refused(guarded: dict[str, str]) -> None:
    """A password that is wrong does not let a client in."""
    settings = KafkaSettings(
        bootstrap_servers=guarded["sasl"],
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="bridge",
        sasl_password=SecretStr("wrong"),
    )
    with pytest.raises(KafkaConnectionError):
        async with kafka_client(settings):
            pass


async def test_tls(guarded: dict[str, str]) -> None:
    """A client that trusts the authority of `ssl_cafile` is connected, one that does not is not."""
    settings = KafkaSettings(
        bootstrap_servers=guarded["tls"], security_protocol="SSL", ssl_cafile=Path(guarded["certificate"])
    )
    async with kafka_client(settings) as client:
        assert client.cluster.brokers()
    with pytest.raises(KafkaConnectionError):
        async with kafka_client(settings.model_copy(update={"ssl_cafile": None})):
            pass


def test_bad_certificate_names_the_setting(tmp_path: Path) -> None:
    """An invalid certificate file is a configuration error that names the setting."""
    rubbish = tmp_path / "ca.pem"
    rubbish.write_text("rubbish")
    with pytest.raises(ConfigError, match="BRIDGE_KAFKA_SSL_CAFILE"):
        client_options(KafkaSettings(security_protocol="SSL", ssl_cafile=rubbish))
    with pytest.raises(ConfigError, match="BRIDGE_KAFKA_SSL_CERTFILE"):
        client_options(KafkaSettings(security_protocol="SSL", ssl_certfile=rubbish))
