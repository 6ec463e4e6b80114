"""Converters, rules and tables: how a delivered JSON object becomes one in the contract's form.

Gumlet's documentation and its SDK disagree on types (a string or a list, a string or a number, an object or a
list), so each field has a converter that ends in the contract's one form. The laws:

1. A converter never raises and never guesses: what it cannot convert it returns unchanged. The schema then
   refuses the record, and the raw body goes to the dead-letter topic.
2. null is the same as absent. A bool is never a number.
3. What a table does not list is returned as the rest, nested as it was delivered. Nothing is dropped.
4. Numbers are as I-JSON has them: an integer that does not fit in 64 bits has already become a float, with
   its lost digits, when it was parsed. As an id it is therefore refused.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    JSONObject = dict[str, Any]
    Convert = Callable[[Any], Any]
    Apply = Callable[[Any, JSONObject], Any]

_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?")
_RATIO = re.compile(r"([0-9]{1,15})\s*/\s*([0-9]{1,15})")
"""Both bounded, so that what they match is always finite and fits in 64 bits."""
_EXACT_INTEGER = 2**53
"""Up to here a float holds every integer: beyond it, which integer was meant is not known."""
_LARGEST_DENOMINATOR = 1_000_000
_LONGEST_RATE = 40
"""Longer text is no frame rate, and should not fill the cache."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# Converters: any JSON value in, the contract's form out, or the same value where it has none.


def text(value: Any) -> Any:
    """Convert an integer to its string."""
    return str(value) if type(value) is int else value


def texts(value: Any) -> Any:
    """Convert one string or a list to a list of strings; an empty string is an empty list."""
    if type(value) is list:
        return [text(item) for item in value] if int in map(type, value) else value
    if value == "":
        return []
    return [text(value)] if type(value) in (str, int) else value


def items(value: Any) -> Any:
    """Convert one value of any kind to a list of it; an empty string is an empty list."""
    if type(value) is list:
        return value
    return [] if value == "" else [value]


def number(value: Any) -> Any:
    """Convert a number in a string to the number."""
    if type(value) is str and _NUMBER.fullmatch(value):
        return float(value) if set(value) & set(".eE") else int(value)
    return value


def integer(value: Any) -> Any:
    """Convert a number without a fraction (`1920.0`, `"1920"`) to an integer."""
    converted = number(value)
    if type(converted) is int:
        return converted
    exact = type(converted) is float and converted.is_integer() and abs(converted) < _EXACT_INTEGER
    return int(converted) if exact else value


def flag(value: Any) -> Any:
    """Convert "true" and "false" to a bool."""
    return {"true": True, "false": False}.get(value, value) if type(value) is str else value


def timestamp(value: Any) -> Any:
    """Convert milliseconds since 1970, or ISO 8601 text with an offset, to RFC 3339 in UTC."""
    moment = number(value)
    try:
        if type(moment) is str:
            parsed = datetime.fromisoformat(moment)
            # Without an offset it is not known which moment is meant.
            return value if parsed.tzinfo is None else rfc3339((parsed - _EPOCH) // timedelta(milliseconds=1))
        return rfc3339(int(moment)) if type(moment) in (int, float) else value
    except (ValueError, OverflowError, OSError):  # outside the years 1 to 9999, or no date
        return value


def mapping(value: Any) -> Any:
    """Convert an empty list, which stands for an empty object, to one."""
    return {} if value == [] else value


_IDENTITY_TYPES: Mapping[Convert, type] = {text: str, number: float, integer: int, flag: bool, mapping: dict}
"""The type of which each converter returns every value as it is."""


@lru_cache(maxsize=8192)  # deliveries of one millisecond, and the events of one asset, share their times
def rfc3339(milliseconds: int) -> str:
    """Return a time since 1970 in UTC as RFC 3339 with milliseconds: `2020-12-09T08:20:48.309Z`."""
    seconds, fraction = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{fraction:03d}Z"


# The engine: a table of rules is applied to an object, and returns the record and the rest.


class Rule(NamedTuple):
    """What happens to one delivered field.

    `apply` takes the value (never None) and the record, sets the properties `names` there, and returns what
    the contract does not know of the value, or None. A value of the type `plain` is in the contract's form as it is:
    it becomes the property `names[0]` without a call. `inner` is the table of the objects inside.
    """

    names: tuple[str, ...]
    apply: Apply
    inner: Table | None = None
    plain: type | None = None


class Table:
    """The fields of one kind of object: delivered name → rule, and what is always there."""

    def __init__(self, rules: Mapping[str, Rule], always: Mapping[str, Any] | None = None) -> None:
        self.sources = {name: (raw, rule.inner) for raw, rule in rules.items() for name in rule.names}
        self._rules = {raw: (rule.plain, rule.names[0], rule.apply) for raw, rule in rules.items()}
        self._always = dict(always or {})

    def read(self, delivered: JSONObject) -> tuple[JSONObject, JSONObject]:
        """Return the normalized object, and the rest: what this table does not know, as delivered."""
        record, rest = self._always.copy(), {}
        rules = self._rules
        for raw, value in delivered.items():
            rule = rules.get(raw)
            if rule is None:
                rest[raw] = value
                continue
            plain, name, apply = rule
            if type(value) is plain:  # most are: reading a delivery costs a fifth less
                record[name] = value
            elif value is not None:
                unknown = apply(value, record)
                if unknown is not None:
                    rest[raw] = unknown
        return record, rest

    def pointer(self, pointer: str, delivered: Any) -> str:
        """Return the place in the `delivered` object that a `pointer` into its record came from."""
        table: Table | None = self
        found = ""
        for token in pointer.split("/")[1:]:
            if table and token in table.sources:
                raw, table = table.sources[token]
            elif isinstance(delivered, dict) and token.isdigit():
                continue  # one object was delivered where the record has a list
            else:
                raw = token
            found += "/" + raw
            if isinstance(delivered, list) and raw.isdigit():
                delivered = delivered[int(raw)]
            else:
                delivered = delivered.get(raw) if isinstance(delivered, dict) else None
        return found


def to(name: str, convert: Convert) -> Rule:
    """Make the rule of a plain field: its converted value is the property `name`."""

    def apply(value: Any, record: JSONObject) -> None:
        record[name] = convert(value)

    return Rule((name,), apply, plain=_IDENTITY_TYPES.get(convert))


def nested(name: str, table: Table, lone: str | None = None) -> Rule:
    """Make an object's rule. Text in its place becomes its property `lone`, an empty list an empty object."""
    read = table.read

    def apply(value: Any, record: JSONObject) -> Any:
        if type(value) is dict:
            record[name], rest = read(value)
            return rest or None
        record[name], rest = _object(mapping(value), table, lone)
        return rest

    return Rule((name,), apply, table)


def each(name: str, table: Table, lone: str | None = None) -> Rule:
    """Make the rule of one object or a list of them, which is a list in the record.

    The rest of an item in a list is under its index, that of a lone object is not.
    """

    def apply(value: Any, record: JSONObject) -> Any:
        if value in ("", {}):
            record[name] = []
            return None
        if type(value) is not list:
            item, rest = _object(value, table, lone)
            record[name] = [item] if type(item) is dict else item
            return rest
        parts = [_object(item, table, lone) for item in value]
        record[name] = [item for item, _ in parts]
        return {str(index): rest for index, (_, rest) in enumerate(parts) if rest} or None

    return Rule((name,), apply, table)


def _object(value: Any, table: Table, lone: str | None) -> tuple[Any, Any]:
    if type(value) is dict:
        record, rest = table.read(value)
        return record, rest or None
    return ({lone: value} if lone and type(value) is str else value), None


def _frame_rate(value: Any, record: JSONObject) -> Any:
    short = type(value) in (int, float) or (type(value) is str and len(value) <= _LONGEST_RATE)
    properties = _rate(value) if short else {"fps": value}
    record.update(properties)
    return None if properties else value


@lru_cache(maxsize=256, typed=True)
def _rate(value: str | float) -> JSONObject:
    """Return `frame_rate` and `fps`; only `fps` where it is no simple ratio; nothing for `0/0`."""
    if ratio := _RATIO.fullmatch(str(value)):
        if int(ratio[2]) == 0:
            return {}
        exact = Fraction(int(ratio[1]), int(ratio[2]))
        fps: Any = exact.numerator / exact.denominator
    else:
        fps = number(value)
        if type(fps) not in (int, float) or not 0 <= fps < _EXACT_INTEGER:
            return {"fps": fps}
        # 23.976023976023978 is how a float has 24000/1001: the simplest ratio that is exactly this number.
        exact = Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR)
        if exact.numerator / exact.denominator != fps:
            return {"fps": fps}
    rate = {"numerator": exact.numerator, "denominator": exact.denominator}
    return {"frame_rate": rate, "fps": exact.numerator if exact.denominator == 1 else fps}


FRAME_RATE = Rule(("frame_rate", "fps"), _frame_rate)
"""The rule of `fps`: `"30000/1001"`, 25, `"25"` or 29.97."""
