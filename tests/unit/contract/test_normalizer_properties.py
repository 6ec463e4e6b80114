"""Properties of the normalizer that hold for any body."""

from __future__ import annotations

import base64
from typing import Any

import jsonschema_rs
import orjson
from hypothesis import given
from hypothesis import strategies as st

from bridge.contract.mappings import (
    ERROR_OR_WARNING,
    INPUT,
    LIVE_INPUT,
    LIVE_OUTPUT,
    LIVE_VIDEO,
    MAPPINGS,
    OUTPUT,
    PRODUCT_EVENT,
    TRANSFORMATIONS,
    VIDEO,
)
from bridge.contract.normalizer import Normalizer
from bridge.contract.object_mapping import ObjectMapping
from bridge.contract.schemas import Contract, schemas_directory
from bridge.event import Delivery, Event

CONTRACT = Contract.load()
NORMALIZER = Normalizer(CONTRACT)
FILES = {path.name: orjson.loads(path.read_bytes()) for path in schemas_directory().glob("*.json")}
REGISTRY = jsonschema_rs.Registry(list(FILES.items()))
VALIDATORS = {
    name.removesuffix(".json"): jsonschema_rs.Draft202012Validator(schema, registry=REGISTRY)
    for name, schema in FILES.items()
}
"""Made from the files alone, by another way than the bridge's own."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(
        [
            "0/0",
            "25",
            "30000/1001",
            "1e5",
            "1607502048309",
            "2020-12-09T08:20:48Z",
            "true",
            "",
            1607502048309,
            29.97,
        ]
    )
)
ANY = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
UNKNOWN = st.dictionaries(TEXT.map("unknown-{}".format), ANY, max_size=2)


def fields(table: Any, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects that have some of a table's fields, with values of any kind, and some unknown ones."""
    names = table.rules.keys() - known.keys()
    plain = st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(names), SCALAR | ANY) | known)
    return st.tuples(plain, UNKNOWN).map(lambda parts: parts[0] | parts[1])


ERRORS = fields(ERROR_OR_WARNING)


def types(table: ObjectMapping) -> st.SearchStrategy[str]:
    """Return the types that a table is for."""
    return st.sampled_from(sorted(name for name, mapping in MAPPINGS.items() if mapping is table))


VIDEO_BODY = fields(
    VIDEO,
    type=types(VIDEO),
    asset_id=TEXT | ANY,
    input=fields(INPUT, transformations=fields(TRANSFORMATIONS) | ANY) | ANY,
    output=fields(OUTPUT) | ANY,
    error=ERRORS | ANY,
    warning=ERRORS | st.lists(ERRORS, max_size=3) | ANY,
)
LIVE_BODY = fields(
    LIVE_VIDEO,
    type=types(LIVE_VIDEO),
    live_asset_id=TEXT | ANY,
    input=fields(LIVE_INPUT) | ANY,
    output=fields(LIVE_OUTPUT) | ANY,
    error=ERRORS | ANY,
)
PRODUCT_BODY = fields(PRODUCT_EVENT, type=types(PRODUCT_EVENT), asset_id=TEXT | ANY)
BODY = VIDEO_BODY | LIVE_BODY | PRODUCT_BODY
OBJECT = BODY | st.dictionaries(TEXT | st.sampled_from(["type", "event", "asset_id"]), ANY, max_size=4)

KNOWN_ENOUGH = st.builds(
    lambda **parts: parts,
    type=types(VIDEO),
    asset_id=TEXT.filter(bool),
    unknown=UNKNOWN,
    input=UNKNOWN,
    transformations=UNKNOWN,
    output=UNKNOWN,
    error=UNKNOWN,
    warnings=st.lists(UNKNOWN, max_size=3),
)


def event(body: bytes) -> Event:
    """Return the event of a body."""
    return NORMALIZER.event(Delivery(1_700_000_000_000, "default", body))


def check(body: bytes) -> Event:
    """Check what holds of every event, and return the one that `body` becomes."""
    result = event(body)
    value = orjson.loads(result.value)
    VALIDATORS[result.event_type].validate(value)
    assert result.event_type in {*MAPPINGS, "unrecognized", "dead-letter"}
    if result.event_type == "dead-letter":
        assert base64.b64decode(value["body_base64"]) == body
        assert value["reason"] != "internal_error"
    elif result.event_type == "unrecognized":
        assert value["event"] == orjson.loads(body)
    else:
        subject = value.get(CONTRACT.topics[result.event_type].key)
        assert result.key == (None if subject is None else subject.encode())
        assert value["type"] == result.event_type
    assert event(body) == result
    return result


def shuffled(value: Any) -> Any:
    """Return the same JSON with each object's keys the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


def pruned(value: Any) -> Any:
    """Return a nest of objects without those that hold nothing."""
    return {key: inner for key, inner in value.items() if inner != {}}


@given(st.binary(max_size=60))
def test_any_bytes_become_one_valid_event(body: bytes) -> None:
    """Arbitrary bytes raise nothing, and become a record of the contract."""
    check(body)


@given(ANY)
def test_any_json_becomes_one_valid_event(document: Any) -> None:
    """JSON that is not an object is a dead letter with that reason."""
    result = check(orjson.dumps(document))
    if not isinstance(document, dict):
        assert orjson.loads(result.value)["reason"] == "not_an_object"


@given(OBJECT)
def test_any_object_becomes_one_valid_event(document: dict[str, Any]) -> None:
    """Known fields with values of any kind give a typed record, or a dead letter that points to the type's key."""
    result = check(orjson.dumps(document))
    if result.event_type == "dead-letter":
        value = orjson.loads(result.value)
        assert value["reason"] == "schema_violation"
        assert value["pointer"] in {"/asset_id", "/live_asset_id"}


@given(OBJECT)
def test_every_field_is_in_the_record_or_in_additional(document: dict[str, Any]) -> None:
    """A field that has no form in the contract is in `additional` as delivered; null is the same as absent."""
    result = check(orjson.dumps(document))
    if result.event_type not in MAPPINGS:
        return
    record = orjson.loads(result.value)
    rules = MAPPINGS[result.event_type].rules
    for name, value in document.items():
        rule = rules.get(name)
        if rule is None and value is not None and document.get("type") == result.event_type:
            assert record["additional"][name] == value
        elif rule and value is not None and name not in record.get("additional", {}):
            assert any(target in record for target in rule.names), name
        elif rule and value is not None and rule.inner is None:
            assert record["additional"][name] == value


@given(OBJECT)
def test_the_order_of_keys_is_not_content(document: dict[str, Any]) -> None:
    """The same JSON with its keys in another order, and with spaces, has the same id, topic and key."""
    result = event(orjson.dumps(document))
    other = event(orjson.dumps(shuffled(document), option=orjson.OPT_INDENT_2))
    assert (other.id, other.topic, other.key) == (result.id, result.topic, result.key)
    if result.event_type != "dead-letter":  # which holds the bytes as they came
        assert other.value == result.value


@given(KNOWN_ENOUGH)
def test_nothing_unknown_is_dropped(parts: dict[str, Any]) -> None:
    """Every unknown field of every object is in `additional` where it stood, and nothing else is."""
    body = {
        "type": parts["type"],
        "asset_id": parts["asset_id"],
        "input": parts["input"] | {"transformations": parts["transformations"], "width": 1},
        "output": parts["output"] | {"format": "hls"},
        "error": parts["error"] | {"code": "E"},
        "warning": [warning | {"code": "W"} for warning in parts["warnings"]],
        **parts["unknown"],
    }
    value = orjson.loads(check(orjson.dumps(body)).value)
    assert value.get("additional", {}) == parts["unknown"] | pruned(
        {
            "input": parts["input"] | pruned({"transformations": parts["transformations"]}),
            "output": parts["output"],
            "error": parts["error"],
            "warning": pruned({str(index): warning for index, warning in enumerate(parts["warnings"])}),
        }
    )


@given(BODY)
def test_time_and_source_are_not_in_the_value(document: dict[str, Any]) -> None:
    """A typed record's value is the same whenever and wherever the body was received."""
    body = orjson.dumps(document)
    result = NORMALIZER.event(Delivery(0, "a", body))
    other = NORMALIZER.event(Delivery(1_700_000_000_000, "b", body))
    assert result.event_type == other.event_type
    if result.event_type != "dead-letter":
        assert result.value == other.value
