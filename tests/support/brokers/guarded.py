"""An Apache Kafka with access control: TLS, SASL, ACLs and automatic topic creation, each on its own listener.

The PLAINTEXT listener is for the test as administrator (User:ANONYMOUS is a super user). The USERS, with password
PASSWORD, connect to `sasl`; they may do nothing until `allow` is called for `bridge`, or ACLs are created otherwise.
`tls` presents `certificate`, which signs itself. `unresolvable` leads to a listener whose advertised name does not
resolve.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports them without declaring it
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from pydantic import SecretStr

from bridge.config.sections import KafkaSettings
from tests.support.brokers.apache import PROPERTIES, ApacheKafka, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "secret"
USERS = ("bridge", "bridge-operator", "bridge-topics", "bridge-consumer")
UNRESOLVABLE = "kafka-broker.invalid"


class GuardedKafka(NamedTuple):
    """The addresses of the node's listeners, and its certificate."""

    node: ApacheKafka
    sasl: str
    tls: str
    unresolvable: str
    certificate: Path

    def user(self, **changes: object) -> KafkaSettings:
        """Return the settings of user `bridge`."""
        settings = KafkaSettings(
            bootstrap_servers=self.sasl,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_username="bridge",
            sasl_password=SecretStr(PASSWORD),
        )
        return settings.model_copy(update=changes)

    def allow(self, topics: str, *operations: AclOperation, user: str = "bridge") -> None:
        """Allow the user these operations on every topic whose name starts with `topics`."""
        for operation in operations:
            self._create(ResourceType.TOPIC, topics, ResourcePatternType.PREFIXED, operation, user)

    def allow_cluster(self, *operations: AclOperation) -> None:
        """Allow the user these operations on the cluster."""
        for operation in operations:
            self._create(ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL, operation, "bridge")

    def revoke(self) -> None:
        """Delete every ACL."""
        everything = AclBindingFilter(
            *(ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY)  # type: ignore[arg-type]
        )
        admin = self._admin()
        for deleted in admin.delete_acls([everything]).values():
            deleted.result(30)

    def _create(
        self, kind: ResourceType, name: str, pattern: ResourcePatternType, operation: AclOperation, user: str
    ) -> None:
        binding = AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        admin = self._admin()
        for created in admin.create_acls([binding]).values():
            created.result(30)
        rule = AclBindingFilter(kind, name, pattern, f"User:{user}", None, operation, AclPermissionType.ANY)  # type: ignore[arg-type]
        while not admin.describe_acls(rule).result(30):
            time.sleep(0.05)  # the broker learns of it after the controller

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.node.bootstrap_servers})


@contextmanager
def guarded_kafka(libraries: Path, directory: Path) -> Iterator[GuardedKafka]:
    """Run the node for the length of the block."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate, both = (directory / name for name in ("key.pem", "certificate.pem", "both.pem"))
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=kafka -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    both.write_text(key.read_text() + certificate.read_text())
    sasl, tls, unresolvable = (f"127.0.0.1:{free_port()}" for _ in range(3))
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    passwords = " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
    listeners = {"SASL_PLAINTEXT": sasl, "SSL": tls, "UNRESOLVABLE": unresolvable}
    node = ApacheKafka(
        libraries,
        directory / "node",
        listeners=listeners,
        properties={
            "listener.security.protocol.map": f"{PROPERTIES['listener.security.protocol.map']},UNRESOLVABLE:PLAINTEXT",
            "advertised.listeners": f"SASL_PLAINTEXT://{sasl},SSL://{tls},UNRESOLVABLE://{UNRESOLVABLE}:9092",
            "auto.create.topics.enable": "true",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{login} required {passwords};",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(both),
        },
    )
    with node:
        yield GuardedKafka(node, sasl, tls, unresolvable, certificate)
