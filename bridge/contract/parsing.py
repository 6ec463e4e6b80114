"""Parsing of a delivered body, and whether the parser kept everything that the body says.

`parse` returns the JSON value of a body. The parser keeps only the last of duplicate keys, and it rounds integers
beyond 64 bits and decimals of more than about 16 digits. JSON that no UTF-8 text or 64-bit float can hold is changed:
half of a surrogate pair becomes U+FFFD, a number beyond the range of a float becomes its text. `is_lossless` finds all
that out: exactly, and at little cost for the usual notations of JSON, which differ from the encoder's in white space
only.
"""

from __future__ import annotations

import codecs
import json
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from math import isfinite
from sys import float_info
from typing import Any

import orjson

_WHITE_SPACE = b" \t\r\n"
_SAFE_DIGITS = 15
"""Every decimal of so many digits survives the way to a normal float and back."""
_MAX_INTEGER_DIGITS = 300
"""A longer integer may be beyond the range of a float, which ends at 1.8e308."""


class _LossError(Exception):
    """The parser does not keep this value."""


def parse(body: bytes) -> Any:
    """Return the JSON value of a body; a byte order mark before it is ignored. Raises `orjson.JSONDecodeError`."""
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        with suppress(ValueError, RecursionError):
            return _parse_changed(body)
        raise


def is_lossless(body: bytes, document: Any) -> bool:
    """Whether `document`, which `parse` returned for `body`, has every value of the body with every digit."""
    body = body.removeprefix(codecs.BOM_UTF8)
    encoded = orjson.dumps(document)
    # Equal texts have the same digits and the same number of keys, also without the spaces inside their strings.
    if encoded == body or encoded.translate(None, _WHITE_SPACE) == body.translate(None, _WHITE_SPACE):
        return True
    try:
        orjson.loads(body)  # rejects what `parse` had to change
        json.loads(
            body,
            object_pairs_hook=_check_keys,
            parse_int=_check_integer,
            parse_float=_check_decimal,
        )
    except (orjson.JSONDecodeError, _LossError, InvalidOperation):  # the last: an exponent beyond what a Decimal holds
        return False
    return True


def _parse_changed(body: bytes) -> Any:
    """Return the value of JSON that cannot be encoded as it is. Raises ValueError when it is not JSON."""
    document = json.loads(body.decode(), parse_int=_integer, parse_float=_decimal, parse_constant=_reject_constant)
    text = json.dumps(document, ensure_ascii=False)
    return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else text


def _decimal(text: str) -> float | str:
    value = float(text)
    return value if isfinite(value) else text


def _reject_constant(text: str) -> None:
    raise ValueError(text)  # NaN and Infinity are not JSON


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _LossError


def _check_integer(text: str) -> None:
    if len(text) > _SAFE_DIGITS and (len(text) > len(str(-(2**63))) or not -(2**63) <= int(text) < 2**64):
        raise _LossError


def _check_decimal(text: str) -> None:
    value = float(text)
    is_usual = "e" not in text.lower() or float_info.min <= abs(value) <= float_info.max
    if not (is_usual and len(text) <= _SAFE_DIGITS) and Decimal(text) != Decimal(repr(value)):
        raise _LossError
