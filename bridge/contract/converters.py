"""Converters: any JSON value in; the contract's one form of it out, or None where it has none.

Gumlet's documentation and SDK disagree on types (a string or a list, a string or a number, an object or a list): each
field has a converter. A converter never raises, and it never guesses: a number is converted only if no digit is lost.
A bool is never a number.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

MAX_KEY_CHARS = 256
"""Characters of an id that is used as a Kafka key."""
MAX_INTEGER = 2**53 - 1
"""The largest integer of the contract: up to here a float holds every integer exactly."""
MAX_CONVERTED_ITEMS = 1000
"""Items of a list that are converted one by one; Gumlet sends few. A longer list would hold up other events."""
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?")
_RATIO = re.compile(r"([0-9]{1,15})\s*/\s*([0-9]{1,15})")
"""Both bounded, so that a match is always finite and fits in 64 bits."""
_MAX_DENOMINATOR = 1_000_000
_MIN_TIMESTAMP_CHARS = 9
_FIRST_MILLISECONDS = 100_000_000_000
"""A smaller number is a time in seconds (until the year 5138), a larger one in milliseconds (since 1973)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_string(value: Any) -> Any:
    """Return a string as it is, an integer as its string."""
    if type(value) is str:
        return value
    return str(value) if type(value) is int else None


def to_key(value: Any) -> Any:
    """Return an id that can be a Kafka key: a string or an integer, of 1 to `MAX_KEY_CHARS` characters.

    U+FFFD stands for what the parser could not keep: ids that differ would become one key.
    """
    key = value if type(value) is str else to_string(value)
    return key if key and len(key) <= MAX_KEY_CHARS and "\ufffd" not in key else None


def to_string_list(value: Any) -> Any:
    """Return one string or a list as a list of strings; an empty string is an empty list."""
    kind = type(value)
    if kind is str:
        return [value] if value else []
    if kind is not list:
        return [str(value)] if kind is int else None
    types = set(map(type, value))
    if types <= {str}:
        return value
    return list(map(str, value)) if types <= {str, int} and len(value) <= MAX_CONVERTED_ITEMS else None


def to_any(value: Any) -> Any:
    """Return any value as it is."""
    return value


def to_list(value: Any) -> Any:
    """Return one value of any kind as a list of it; an empty string is an empty list."""
    if type(value) is list:
        return value
    return [] if value == "" else [value]


def to_object(value: Any) -> Any:
    """Return an object as it is; an empty list, which stands for an empty object, as one."""
    if type(value) is dict:
        return value
    return {} if value == [] else None


def to_bool(value: Any) -> Any:
    """Return a bool as it is, "true" and "false" as bools."""
    if type(value) is bool:
        return value
    return {"true": True, "false": False}.get(value) if type(value) is str else None


def to_number(value: Any) -> Any:
    """Return a number as it is, text as the number that it is if no digit is lost."""
    if type(value) is int or type(value) is float:
        return value
    if type(value) is not str or not _NUMBER.fullmatch(value):
        return None
    if not set(value) & set(".eE"):
        return int(value)
    converted = float(value)
    return converted if Decimal(value) == Decimal(repr(converted)) else None


def to_amount(value: Any) -> Any:
    """Return a number of 0 or more."""
    converted = to_number(value)
    return converted if converted is not None and converted >= 0 else None


def to_percent(value: Any) -> Any:
    """Return a number from 0 to 100."""
    converted = to_number(value)
    return converted if converted is not None and 0 <= converted <= 100 else None  # noqa: PLR2004 - what percent means


def to_count(value: Any) -> Any:
    """Return an integer from 0 to `MAX_INTEGER`; a float or a text without a fraction (`1920.0`) as that integer."""
    converted = to_number(value)
    if type(converted) is float and converted.is_integer():
        converted = int(converted)
    return converted if type(converted) is int and 0 <= converted <= MAX_INTEGER else None


def to_timestamp(value: Any) -> Any:
    """Return a time as RFC 3339 in UTC with milliseconds: the contract's only form of a time.

    Accepts milliseconds or seconds since 1970 as a number or in text, and ISO 8601 with an offset. Rejects times
    without an offset, leap seconds, and times outside the years 1 to 9999.
    """
    if type(value) is str and len(value) < _MIN_TIMESTAMP_CHARS:
        return None
    number = value if type(value) is int else to_number(value)
    try:
        if number is not None:
            return rfc3339(round(number * 1000) if abs(number) < _FIRST_MILLISECONDS else int(number))
        parsed = datetime.fromisoformat(value) if type(value) is str else None
        if parsed is None or parsed.tzinfo is None:
            return None
        return rfc3339((parsed - _EPOCH) // timedelta(milliseconds=1))
    except (ValueError, OverflowError, OSError):
        return None


@lru_cache(maxsize=8192)  # deliveries of one millisecond, and the events of one asset, share their times
def rfc3339(milliseconds: int) -> str:
    """Return a time since 1970 in UTC as RFC 3339 with milliseconds: `2020-12-09T08:20:48.309Z`."""
    seconds, fraction = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{fraction:03d}Z"


@lru_cache(maxsize=256, typed=True)
def to_frame_rate(value: str | float) -> dict[str, Any]:
    """Return `frame_rate` and `fps`; only `fps` where it is not a simple ratio; nothing where it is not a rate.

    `value` should be short: it is cached.
    """
    if ratio := _RATIO.fullmatch(str(value)):
        if int(ratio[2]) == 0:
            return {}
        exact = Fraction(int(ratio[1]), int(ratio[2]))
        fps: Any = exact.numerator / exact.denominator
    else:
        fps = to_number(value)
        if fps is None or not 0 <= fps <= MAX_INTEGER:
            return {}
        # 23.976023976023978 is how a float holds 24000/1001: the simplest ratio that is exactly this number.
        exact = Fraction(fps).limit_denominator(_MAX_DENOMINATOR)
        if exact.numerator / exact.denominator != fps:
            return {"fps": fps}
    rate = {"numerator": exact.numerator, "denominator": exact.denominator}
    return {"frame_rate": rate, "fps": exact.numerator if exact.denominator == 1 else fps}
