"""Parsing of a delivered body, and whether the parser kept everything that the body says.

`parse` returns the JSON value of a body. The parser keeps only the last of duplicate keys, and it rounds integers
beyond 64 bits and decimals of more than about 16 digits. `is_lossless` finds that out: exactly, and at little cost
for the usual notations of JSON, which differ from the encoder's in white space only.
"""

from __future__ import annotations

import codecs
import json
from decimal import Decimal, InvalidOperation
from sys import float_info
from typing import Any

import orjson

_WHITE_SPACE = b" \t\r\n"
_SAFE_DIGITS = 15
"""Every decimal of so many digits survives the way to a normal float and back."""


class _LossError(Exception):
    """The parser does not keep this value."""


def parse(body: bytes) -> Any:
    """Return the JSON value of a body; a byte order mark before it is ignored. Raises `orjson.JSONDecodeError`."""
    return orjson.loads(body.removeprefix(codecs.BOM_UTF8))


def is_lossless(body: bytes, document: Any) -> bool:
    """Whether `document`, which `parse` returned for `body`, has every value of the body with every digit."""
    body = body.removeprefix(codecs.BOM_UTF8)
    encoded = orjson.dumps(document)
    # Equal texts have the same digits and the same number of keys, also without the spaces inside their strings.
    if encoded == body or encoded.translate(None, _WHITE_SPACE) == body.translate(None, _WHITE_SPACE):
        return True
    try:
        json.loads(
            body,
            object_pairs_hook=_check_keys,
            parse_int=_check_integer,
            parse_float=_check_decimal,
        )
    except (_LossError, InvalidOperation):  # the second: an exponent beyond what a Decimal holds
        return False
    return True


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
