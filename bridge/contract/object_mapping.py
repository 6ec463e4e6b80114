"""Field rules and object mappings: a delivered JSON object becomes an object of the contract, and the rest.

The rest is everything of the delivered object that is not in the result. Invariants:

1. A record has a property only in the form that its schema requires: it can violate the schema only by a missing key.
2. null is the same as absent.
3. Nothing is dropped: unknown fields, and values that cannot be converted, are in the rest, nested as delivered.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge.contract import converters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    JSONObject = dict[str, Any]
    Convert = Callable[[Any], Any]
    Apply = Callable[[Any, JSONObject], Any]

_MAX_RATE_CHARS = 40
"""Longer text is not a frame rate, and should not fill the cache."""
_IDENTITY_TYPES: Mapping[Convert, type] = {
    converters.to_string: str,
    converters.to_bool: bool,
    converters.to_object: dict,
    converters.to_list: list,
}
"""The type of which each converter returns every value as it is."""
_IDENTITY_RANGES: Mapping[Convert, tuple[Any, float]] = {
    converters.to_count: (int, converters.MAX_INTEGER),
    converters.to_percent: (int, 100),
    converters.to_amount: (float, math.inf),
}
"""The type and the maximum up to which each converter returns every value from 0 as it is."""


class FieldRule(NamedTuple):
    """What happens to one delivered field.

    `apply` takes the value (never None) and the record, sets the properties `names` there, and returns the part of
    the value that is not in the record, or None. A value of the type `plain` already has the contract's form: it
    becomes the property `names[0]` without a call. `inner` is the mapping of the objects inside. `is_open`: a value
    in another form is not schema drift, since Gumlet allows any JSON there.
    """

    names: tuple[str, ...]
    apply: Apply
    inner: ObjectMapping | None = None
    plain: type | None = None
    is_open: bool = False


class ObjectMapping:
    """The fields of one kind of object: delivered name → rule, and the properties that are always present.

    `is_open`: Gumlet specifies nothing more of such objects, so further fields are not schema drift.
    """

    def __init__(
        self, rules: Mapping[str, FieldRule], always: Mapping[str, Any] | None = None, *, is_open: bool = False
    ) -> None:
        self.rules = rules
        self.is_open = is_open
        self._dispatch = {raw: (rule.plain, rule.names[0], rule.apply) for raw, rule in rules.items()}
        self._always = dict(always or {})

    def read(self, delivered: JSONObject) -> tuple[JSONObject, JSONObject]:
        """Return the normalized object, and the rest."""
        record, rest = self._always.copy(), {}
        dispatch = self._dispatch
        for raw, value in delivered.items():
            rule = dispatch.get(raw)
            if rule is None:
                rest[raw] = value
                continue
            plain, name, apply = rule
            if type(value) is plain:  # most are: this saves a fifth of the time
                record[name] = value
            elif value is not None:
                remainder = apply(value, record)
                if remainder is not None:
                    rest[raw] = remainder
        return record, rest


def field(name: str, convert: Convert, *, is_open: bool = False) -> FieldRule:
    """Return the rule of a plain field: its converted value is the property `name`."""
    number_type, maximum = _IDENTITY_RANGES.get(convert, (None, 0))

    def apply(value: Any, record: JSONObject) -> Any:
        if type(value) is number_type and 0 <= value <= maximum:  # saves a call
            record[name] = value
            return None
        converted = convert(value)
        if converted is None:
            return value
        record[name] = converted
        return None

    return FieldRule((name,), apply, plain=_IDENTITY_TYPES.get(convert), is_open=is_open)


def nested(name: str, mapping: ObjectMapping, text_as: str | None = None) -> FieldRule:
    """Return an object's rule. Text in its place becomes its property `text_as`, an empty list an empty object."""
    read = mapping.read

    def apply(value: Any, record: JSONObject) -> Any:
        if type(value) is dict:
            record[name], rest = read(value)
            return rest or None
        if value == []:
            record[name] = {}
        elif text_as and type(value) is str:
            record[name] = {text_as: value}
        else:
            return value
        return None

    return FieldRule((name,), apply, mapping)


def list_of(name: str, mapping: ObjectMapping, text_as: str) -> FieldRule:
    """Return the rule of one object or a list of them, which is a list in the record. Text becomes `text_as`.

    The rest of an item in a list is under its index, that of a single object is not. A list with any other item, or
    with more than MAX_CONVERTED_ITEMS, is the rest as a whole.
    """

    def apply(value: Any, record: JSONObject) -> Any:
        if value in ("", {}):
            record[name] = []
            return None
        items = value if type(value) is list else [value]
        if len(items) > converters.MAX_CONVERTED_ITEMS or not set(map(type, items)) <= {dict, str}:
            return value
        pairs = [mapping.read(item) if type(item) is dict else ({text_as: item}, {}) for item in items]
        record[name] = [item for item, _ in pairs]
        if items is not value:
            return pairs[0][1] or None
        return {str(index): rest for index, (_, rest) in enumerate(pairs) if rest} or None

    return FieldRule((name,), apply, mapping)


def _frame_rate(value: Any, record: JSONObject) -> Any:
    is_short = type(value) in (int, float) or (type(value) is str and len(value) <= _MAX_RATE_CHARS)
    properties = converters.to_frame_rate(value) if is_short else {}
    record.update(properties)
    return None if properties else value


FRAME_RATE = FieldRule(("frame_rate", "fps"), _frame_rate)
"""The rule of `fps`: `"30000/1001"`, 25, `"25"` or 29.97."""
