"""What becomes a dead letter, and what a dead letter says."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson
import pytest

from bridge.event import Delivery
from tests.unit.contract.records import CONTRACT, NORMALIZER, delivery, event, value


def test_an_id_beyond_64_bits_is_a_dead_letter() -> None:
    """The parser has rounded it: publishing it would name another asset."""
    result = NORMALIZER.event(delivery(b'{"type":"video.status.ready","asset_id":123456789012345678901234567890}'))
    assert (value(result)["reason"], value(result)["pointer"], result.key) == (
        "schema_violation",
        "/asset_id",
        None,
    )


@pytest.mark.parametrize("asset_id", ["", None, [], {}, True, 1.5, "a" * 257, "ä" * 280_000])
def test_an_unusable_key_is_a_dead_letter_without_a_key(asset_id: Any) -> None:
    """The reason points to the key; nothing of the body is in the detail, which is logged."""
    result = event(asset_id=asset_id)
    assert (result.event_type, result.key) == ("dead-letter", None)
    assert (value(result)["reason"], value(result)["pointer"]) == ("schema_violation", "/asset_id")
    assert "1 to 256 characters" in value(result)["detail"]


def nesting(levels: int) -> str:
    """Return a list in a list, and so on."""
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"type":"video.status.ready","asset_id":"a\\ud800"}', "schema_violation"),
        (b"null", "not_an_object"),
        (b"[]", "not_an_object"),
        (b'"video.status.ready"', "not_an_object"),
        (f'{{"a":{nesting(300)}}}'.encode(), "nesting_too_deep"),
        (f'{{"a":{nesting(2000)}}}'.encode(), "nesting_too_deep"),
        (f'{{"type":"video.status.ready","asset_id":"a","x":{nesting(253)}}}'.encode(), "nesting_too_deep"),
    ],
)
def test_a_body_that_is_not_an_event_is_a_dead_letter_with_its_bytes(body: bytes, reason: str) -> None:
    """The raw body and the reason are published, in a record of the contract."""
    result = NORMALIZER.event(delivery(body, "main"))
    found = value(result)
    assert CONTRACT.dead_letter.first_violation(found) is None
    assert base64.b64decode(found["body_base64"]) == body
    assert (result.topic, found["reason"], found["source"]) == ("gumlet.dead-letter", reason, "main")
    assert found["received_at"] == "2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the body is empty"),
        (b"\xef\xbb\xbf \r\n", "the body is empty"),
        (b"s3cret", "the body is not JSON: error in line 1, column 1"),
        (b'{"a":\n s3cret}', "the body is not JSON: error in line 2, column 2"),
        (b'{"a":"s3cret', "the body is not JSON: error in line 1, column 13"),
        (b"\xff\xfe", "the body is not JSON: error in line 1, column 1"),
    ],
)
def test_the_detail_of_invalid_json_is_a_sentence_without_the_body(body: bytes, detail: str) -> None:
    """It does not depend on the parser's own words, and holds nothing of the body, because it is logged."""
    assert value(NORMALIZER.event(delivery(body)))["detail"] == detail


def test_the_deepest_body_that_can_be_encoded_is_published() -> None:
    """Below the encoder's limit a deep body is a record as any other."""
    body = f'{{"type":"video.status.ready","asset_id":"a","x":{nesting(250)}}}'.encode()
    assert NORMALIZER.event(delivery(body)).event_type == "video.status.ready"


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"video.status.ready","asset_id":"a1"}',
        b'{"type":"new", "live_asset_id":"l1"}',
        b'{"type":"video.status.ready","asset_id":"a1","progress":true}',
        b'{"type":"video.status.ready","asset_id":"a1","x":123456789012345678901234567890}',
        b'\xef\xbb\xbf{"type":"video.status.ready","asset_id":"a1"}',
        b" [1]",
        b" null",
        b"no JSON",
        f'{{"a":{nesting(300)}}}'.encode(),
    ],
)
def test_a_dead_letter_has_the_id_and_the_key_of_its_record(body: bytes) -> None:
    """A record that Kafka rejects has the same id as a dead letter: it is the same event."""
    result = NORMALIZER.event(delivery(body, "main"))
    dead = NORMALIZER.dead_letter(delivery(body, "main"), "record_too_large", "at most 1 MiB", None)
    assert (dead.id, dead.key) == (result.id, result.key)
    assert (value(dead)["reason"], value(dead)["detail"]) == ("record_too_large", "at most 1 MiB")
    assert "pointer" not in value(dead)


def test_a_dead_letter_is_little_larger_than_its_body() -> None:
    """Long types are truncated and long ids omitted, so that a dead letter is not too large itself."""
    body = orjson.dumps({"type": "t" * 100_000, "asset_id": "a" * 100_000})
    dead = NORMALIZER.dead_letter(delivery(body), "record_too_large", "d" * 100_000, "/" + "p" * 100_000)
    assert len(dead.value) < len(base64.b64encode(body)) + 3000
    assert value(dead)["event_type"] == "t" * 256
    assert "asset_id" not in value(dead)
    assert dead.key is None


def test_a_dead_letter_without_its_body_says_which_body_it_was() -> None:
    """The size, the SHA-256 and the first bytes replace the body; id and key stay; the record is small and valid."""
    body = orjson.dumps({"type": "video.status.ready", "asset_id": "a1", "x": "y" * 400_000})
    dead = NORMALIZER.dead_letter_without_body(delivery(body), "record_too_large", "MessageSizeTooLargeError")
    found = value(dead)
    assert CONTRACT.dead_letter.first_violation(found) is None
    assert (found["body_base64"], found["body_bytes"]) == ("", len(body))
    assert found["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert base64.b64decode(found["body_prefix_base64"]) == body[:512]
    assert len(dead.value) < 2000
    whole = NORMALIZER.dead_letter(delivery(body), "record_too_large", "MessageSizeTooLargeError")
    assert (dead.id, dead.key, dead.topic) == (whole.id, whole.key, whole.topic)


@pytest.mark.parametrize("received_ms", [-(2**63), -1, 0, 2**63])
@pytest.mark.parametrize("body", [b"", b"{", b"[" * 5000, b'{"type":"\xff"}'])
def test_a_dead_letter_exists_for_any_delivery(body: bytes, received_ms: int) -> None:
    """Neither the body nor a source, a span or a receipt time that cannot be encoded keeps a dead letter from Kafka."""
    strange = Delivery(received_ms, "\udcff", body, "\udcff")
    for dead in (
        NORMALIZER.dead_letter(strange, "internal_error", "\udcff", "/\udcff"),
        NORMALIZER.dead_letter_without_body(strange, "internal_error", "\udcff"),
        NORMALIZER.event(strange),
    ):
        assert CONTRACT.dead_letter.first_violation(value(dead)) is None
        assert dead.id


def test_a_fault_of_the_normalizer_is_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the normalizer becomes a dead letter, and blocks no other event."""

    def broken(_: Any) -> None:
        raise TypeError("s3cret")

    monkeypatch.setattr(NORMALIZER, "_event", broken)
    result = NORMALIZER.event(delivery({"type": "video.status.ready"}))
    assert (value(result)["reason"], value(result)["detail"]) == ("internal_error", "TypeError in the normalizer")
