"""Our records as an independent reader sees them: the CloudEvents SDK, in the Kafka binding's binary mode."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from bridge.contract.normalizer import Normalizer
from bridge.contract.schemas import Contract
from bridge.event import Delivery, Event

NORMALIZER = Normalizer(Contract.load())


def event(body: bytes | dict[str, Any], source: str = "default") -> Event:
    """Return the event of a body, received at a known time."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return NORMALIZER.event(Delivery(1_700_000_000_123, source, raw))


def read(result: Event) -> Any:
    """Return the event as the SDK reads it."""
    headers = dict(result.headers)
    assert len(headers) == len(result.headers)
    return from_binary(KafkaMessage(headers=headers, key=result.key, value=result.value), JSONFormat())


def test_a_typed_record_is_a_cloudevent() -> None:
    """Every attribute is there, the time is that of the receipt, and the data is the record's value."""
    result = event({"type": "video.status.stream_ready", "asset_id": "a1", "created_at": 0})
    found = read(result)
    assert result.topic == "gumlet.video.status.stream-ready"
    assert found.get_specversion() == "1.0"
    assert found.get_type() == "com.gumlet.video.status.stream_ready"
    assert found.get_source() == "//gumlet.com/webhooks/default"
    assert found.get_id() == result.id
    assert found.get_subject() == "a1"
    assert found.get_time() == datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC)
    assert found.get_dataschema() == "urn:gumlet-kafka-bridge:video.status.stream_ready:1"
    assert found.get_datacontenttype() == "application/json"
    assert found.get_extension("partitionkey") == "a1"
    assert found.get_data() == orjson.loads(result.value)


@pytest.mark.parametrize(
    ("body", "kind"), [(b'{"type":"new"}', "unrecognized"), (b"no JSON", "dead-letter"), (b"", "dead-letter")]
)
def test_the_other_records_are_cloudevents_too(body: bytes, kind: str) -> None:
    """What has no asset has no subject and no key."""
    result = event(body)
    found = read(result)
    assert (found.get_type(), found.get_dataschema()) == (
        f"com.gumlet.{kind}",
        f"urn:gumlet-kafka-bridge:{kind}:1",
    )
    assert found.get_subject() is None
    assert result.key is None
    assert found.get_data() == orjson.loads(result.value)


@pytest.mark.parametrize(
    ("source", "attribute"),
    [
        ("main", "//gumlet.com/webhooks/main"),
        ("a b/é%", "//gumlet.com/webhooks/a%20b%2F%C3%A9%25"),
    ],
)
def test_the_source_is_a_uri_reference(source: str, attribute: str) -> None:
    """What a URL cannot hold is percent-encoded."""
    assert read(event({"type": "new"}, source)).get_source() == attribute


@pytest.mark.parametrize("asset_id", ["é", "日本 42", "a%20b", "😀"])
def test_a_subject_may_be_any_text(asset_id: str) -> None:
    """The Kafka binding has header values in UTF-8 as they are: nothing is encoded."""
    result = event({"type": "video.status.ready", "asset_id": asset_id})
    assert read(result).get_subject() == asset_id
    assert result.key == asset_id.encode()


@pytest.mark.parametrize("asset_id", ["a\nb", "\x00", "a\x7f", "\x9f", "\ufffe", "\U0010ffff", "\ufdd0"])
def test_an_id_with_forbidden_characters_is_not_a_subject(asset_id: str) -> None:
    """CloudEvents forbids control characters and noncharacters: the id is in the key and the record alone."""
    result = event({"type": "video.status.ready", "asset_id": asset_id})
    assert read(result).get_subject() is None
    assert result.key == asset_id.encode()
    assert orjson.loads(result.value)["asset_id"] == asset_id


def test_a_redelivery_has_the_same_id() -> None:
    """The id and the source, which together name an event, do not depend on the time."""
    body = b'{"type":"video.status.ready","asset_id":"a1"}'
    first, second = (NORMALIZER.event(Delivery(time, "default", body)) for time in (1, 2))
    assert (first.id, first.value) == (second.id, second.value)
    assert dict(first.headers)["ce_time"] != dict(second.headers)["ce_time"]
