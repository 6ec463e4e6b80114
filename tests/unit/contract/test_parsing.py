"""Whether the parser kept everything that a body says, and what becomes of a body of which it did not."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.contract.normalizer import Normalizer
from bridge.contract.parsing import is_lossless, parse
from bridge.contract.schemas import Contract
from bridge.event import Delivery, Event, canonical, content_id

CONTRACT = Contract.load()
NORMALIZER = Normalizer(CONTRACT)
BOM = b"\xef\xbb\xbf"
LOSSY = [
    '{"a":18446744073709551616}',
    '{"a":-9223372036854775809}',
    '{"a":[123456789012345678901234567890]}',
    '{"a":0.1234567890123456789}',
    '{"a":1.00000000000000000001}',
    '{"a":1e-400}',
    '{"a":1E-99999999999999999999}',
    '{"a":-1e-400}',
    '{"a":1.2e-323}',
    '{"a":9007199254740993.0}',
    '{"a":1,"a":1}',
    '{"a":1,"a":2}',
    '{"x":{"b":1,"b":{}}}',
    '[{"b":1,"b":{}}]',
    '{"a":1,"\\u0061":2}',
    '{"a":1,"a" :2}',
    '{"k\\u0022:":"x","a":1,"a":2}',
    "123456789012345678901234567890",
    '{"a":1e309}',
    '{"a":-1E400,"a":0}',
    '{"a":%s}' % ("1" * 5000),
    '{"a":"\\ud83d"}',
    '{"\\udc00x":"\\ud83d\\ude00"}',
]
LOSSLESS = [
    "{}",
    '{"a":18446744073709551615,"b":-9223372036854775808}',
    '{"a":0.1,"b":1e21,"c":1E+2,"d":-0,"e":1.50,"f":123456789012345.5,"g":5e-324}',
    '{"a":1e308,"b":1e-308,"c":0e5,"d":-0.0E-7,"e":123456789012e1}',
    '{"a":"\\/ \\u00e9 \\" : \\\\","b":"x\\":y"}',
    '{"a":"123456789012345678901234567890","b":": 1e400, 1e-400"}',
    '{ "a" : [ 1 , 2.5 , { "a" : 1 } ] , "b" : { "a" : 1 } }',
    '{"id":"5e3a1e5fd088e0a47da8246f1fb756"}',
    '{"a":"\\ud83d\\ude00"}',
]


def exactly(body: bytes) -> Any:
    """Return the value of a body with every digit and every duplicate key."""
    return json.loads(body, parse_int=Decimal, parse_float=Decimal, object_pairs_hook=lambda pairs: ["object", *pairs])


@pytest.mark.parametrize("body", LOSSY)
def test_a_loss_is_detected(body: str) -> None:
    """Integers beyond 64 bits, decimals that a float cannot hold, and duplicate keys, in any notation."""
    for variant in (body.encode(), f" {body}\n".encode(), BOM + body.encode(), body.replace(",", ", ").encode()):
        assert not is_lossless(variant, parse(variant))


@pytest.mark.parametrize("body", LOSSLESS)
def test_a_body_without_loss_is_recognized(body: str) -> None:
    """Whatever the white space, the escapes and the notation of its numbers."""
    for variant in (body.encode(), f" {body}\n".encode(), BOM + body.encode(), body.replace(",", ", ").encode()):
        assert is_lossless(variant, parse(variant))


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":"x\\ud83d","\\udc00":[1,"\\ud83d\\ude00"]}', {"a": "x\ufffd", "\ufffd": [1, "\U0001f600"]}),
        (b"[1e309, -1E400, 1.5, 7, 1e-400]", ["1e309", "-1E400", 1.5, 7, 0.0]),
        (b"[" + b"1" * 5000 + b"]", ["1" * 5000]),
    ],
)
def test_json_that_cannot_be_encoded_is_changed_as_little_as_possible(body: bytes, value: Any) -> None:
    """Half of a surrogate pair becomes U+FFFD, a number beyond the range of a float its text."""
    assert parse(body) == value
    assert parse(BOM + body) == value


@pytest.mark.parametrize(
    "body",
    [
        b"[1e309, NaN]",
        b"[1e309, -Infinity]",
        b'["\\ud83d", 01]',
        b'["\\ud83d" "x"]',
        b'["\\ud83d\x01"]',
        b"{1e309:1}",
        b'["\xed\xa0\xbd"]',
        '["\\ud83d"]'.encode("utf-16"),
        b'["\\ud83d"]' + b"]",
        b"[" * 2000 + b"1e309" + b"]" * 2000,
    ],
)
def test_what_is_not_json_stays_so(body: bytes) -> None:
    """A value that has to be changed does not make the parser tolerant."""
    with pytest.raises(orjson.JSONDecodeError):
        parse(body)


NUMBERS = st.from_regex(r"\A-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?\Z")
STRINGS = st.text(st.sampled_from('a1e.":,\\/ é{'), max_size=6).flatmap(
    lambda text: st.sampled_from([json.dumps(text), json.dumps(text, ensure_ascii=False)])
)
SPACE = st.sampled_from(["", "", " ", "\n "])
VALUES = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["true", "null"]),
    lambda inner: st.one_of(
        st.builds(lambda space, items: f"[{space}" + f"{space},".join(items) + "]", SPACE, st.lists(inner, max_size=3)),
        st.builds(
            lambda space, items: "{" + f",{space}".join(f"{key}{space}:{value}" for key, value in items) + "}",
            SPACE,
            st.lists(st.tuples(STRINGS, inner), max_size=3),
        ),
    ),
    max_leaves=6,
)


@given(VALUES)
@example('{"a":1,"a":1}')
def test_the_detection_is_exact(text: str) -> None:
    """It says that nothing is lost if and only if an exact parser finds the same value in the encoded document."""
    body = text.encode()
    document = parse(body)
    unique = all(len({key for key, _ in pairs}) == len(pairs) for pairs in objects(body))
    assert is_lossless(body, document) == (unique and exactly(body) == exactly(orjson.dumps(document)))


def objects(body: bytes) -> list[list[tuple[str, Any]]]:
    """Return the pairs of every object in a body."""
    found: list[list[tuple[str, Any]]] = []
    json.loads(body, object_pairs_hook=found.append)
    return found


def normalize(body: bytes) -> tuple[Event, dict[str, Any]]:
    """Return the event of a body, and its record."""
    event = NORMALIZER.event(Delivery(0, "default", body))
    return event, orjson.loads(event.value)


@pytest.mark.parametrize(
    ("event_type", "extra"),
    [
        ("video.status.ready", b'"asset_id":"a","x":123456789012345678901234567890'),
        ("video.status.ready", b'"asset_id":"a","input":{"metadata":{"x":0.12345678901234567890}}'),
        ("video.status.ready", b'"asset_id":"a","title":"first","title":"second"'),
        ("live.video.status.active", b'"live_asset_id":"l","x":1e-400'),
        ("event.comment.all", b'"x":1,"x":2'),
        ("video.status.ready", b'"asset_id":"a","title":"\\ud83d"'),
        ("video.status.ready", b'"asset_id":"a","duration":1e309'),
        ("unrecognized", b'"x":1,"x":2'),
    ],
)
def test_the_exact_body_is_kept_where_parsing_loses_something(event_type: str, extra: bytes) -> None:
    """The record has the raw body, and its id is derived from it: another body has another id."""
    body = b'{"type":"' + event_type.replace("unrecognized", "new").encode() + b'",' + extra + b"}"
    event, record = normalize(body)
    assert event.event_type == event_type
    assert base64.b64decode(record["body_base64"]) == body
    assert CONTRACT.topics[event_type].first_violation(record) is None
    assert event.id == content_id("default", body)
    assert event.id != content_id("default", canonical(parse(body)))
    dead = NORMALIZER.dead_letter(Delivery(0, "default", body), "record_too_large", "")
    assert dead.id == event.id


def test_two_bodies_that_parse_alike_have_two_ids() -> None:
    """The parser returns the same for both: without the raw body consumers would drop the second as a duplicate."""
    first, second = (b'{"type":"video.status.ready","asset_id":"a","x":1234567890123456789012%d}' % n for n in (1, 2))
    assert orjson.loads(first) == orjson.loads(second)
    assert normalize(first)[0].id != normalize(second)[0].id
    once, twice = b'{"type":"new","x":2}', b'{"type":"new","x":1,"x":2}'
    assert normalize(once)[0].id != normalize(twice)[0].id


def test_a_body_without_loss_has_no_raw_body() -> None:
    """The usual record does not grow."""
    assert "body_base64" not in normalize(b' {"type": "video.status.ready", "asset_id": "a", "x": 1.50}')[1]
