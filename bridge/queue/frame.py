"""The encoding of the journal's segments: pure functions between values and bytes.

A segment is a preamble, then frames, then zeros up to its preallocated size. All numbers are little-endian.

* Preamble (32 bytes): magic, format version, checksum, first sequence number, size of the file.
* Frame: a header of 64 bytes, then the payload (a MessagePack array of `event.Delivery`). One frame holds one group
  commit. A frame without deliveries records the log's state only: its `first` is the next sequence number.

Invariants:
* A frame's checksum covers its segment's name, its offset in the file, all header fields and the payload. A frame is
  therefore valid at one place only: not in a copied or renamed segment, not in a moved sector, not inside a body.
* Each frame carries the whole state of the log, so the last valid frame is all that an open needs.

The checksum is CRC-32 of zlib: it is in the standard library, runs at more than 1 GB/s without the GIL, and detects
every error of up to 32 adjacent bits. It protects against failing disks, not against an attacker with write access.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import msgspec

from bridge.event import Delivery

VERSION = 1
"""Format version; a segment with a higher one is refused."""
SEGMENT_MAGIC = b"GKBRIDGE"
FRAME_MAGIC = b"\xffGK\xfe"
"""Neither byte 0xff nor 0xfe occurs in UTF-8, so a search hits few false candidates."""

_PREAMBLE = struct.Struct("<8sIIQQ")
_HEADER = struct.Struct("<4sIIIQQQQqq")
_POSITION = struct.Struct("<QQ")
PREAMBLE_BYTES = _PREAMBLE.size
HEADER_BYTES = _HEADER.size
_CHECKED_FROM = 8
"""Offset in a header of the first byte under the checksum: magic and checksum come before it."""

encode_deliveries = msgspec.msgpack.Encoder().encode
decode_deliveries = msgspec.msgpack.Decoder(list[Delivery]).decode


class Preamble(NamedTuple):
    """The first bytes of a segment."""

    version: int
    first: int
    size: int


class State(NamedTuple):
    """What every frame records of its log: everything up to `settled` is on Kafka.

    `settled_total` is the running total of bytes there, `oldest_ms` the receipt of the oldest pending delivery.
    """

    settled: int = 0
    settled_total: int = 0
    oldest_ms: int = 0


class Frame(NamedTuple):
    """A valid frame: `deliveries` many from the sequence number `first` on; `total` includes this frame's bytes."""

    offset: int
    size: int
    deliveries: int
    first: int
    total: int
    received_ms: int
    state: State
    payload: bytes | memoryview

    @property
    def last(self) -> int:
        """Sequence number of the last delivery up to and including this frame."""
        return self.first + self.deliveries - 1

    @property
    def end(self) -> int:
        """Offset of the next frame."""
        return self.offset + self.size


def encode_preamble(first: int, size: int) -> bytes:
    """Encode the first bytes of a segment."""
    checksum = zlib.crc32(_PREAMBLE.pack(SEGMENT_MAGIC, VERSION, 0, first, size))
    return _PREAMBLE.pack(SEGMENT_MAGIC, VERSION, checksum, first, size)


def decode_preamble(data: bytes | memoryview) -> Preamble | None:
    """Return a segment's preamble; None when it is damaged."""
    if len(data) < PREAMBLE_BYTES:
        return None
    magic, version, checksum, first, size = _PREAMBLE.unpack_from(data)
    if magic != SEGMENT_MAGIC or checksum != zlib.crc32(_PREAMBLE.pack(magic, version, 0, first, size)):
        return None
    return Preamble(version, first, size)


def encode_frame(  # noqa: PLR0913, PLR0917 - the header's fields
    segment: int, offset: int, count: int, first: int, total: int, received_ms: int, state: State, payload: bytes
) -> bytes:
    """Encode a frame for one place: a segment and an offset in it."""
    fields = (len(payload), count, first, total, *state[:2], received_ms, state.oldest_ms)
    unchecked = _HEADER.pack(FRAME_MAGIC, 0, *fields)
    checksum = zlib.crc32(payload, _checksum_of_header(segment, offset, unchecked))
    return _HEADER.pack(FRAME_MAGIC, checksum, *fields) + payload


def frame_size(header: bytes | memoryview) -> int | None:
    """Return the size that a frame's header claims; None when it is not a header."""
    if len(header) < HEADER_BYTES or bytes(header[:4]) != FRAME_MAGIC:
        return None
    length: int = _HEADER.unpack_from(header)[2]
    return HEADER_BYTES + length


def claimed_deliveries(header: bytes | memoryview, first: int) -> int:
    """Return how many deliveries a damaged header claims, if it still claims to begin at `first`; otherwise 0."""
    if frame_size(header) is None:
        return 0
    _, _, _, count, claimed_first, *_ = _HEADER.unpack_from(header)
    return int(count) if claimed_first == first else 0


def decode_frame(segment: int, offset: int, data: bytes | memoryview) -> Frame | None:
    """Return the frame that `data` is, at its place; None when it is damaged."""
    _, checksum, length, count, first, total, settled, settled_total, received_ms, oldest_ms = _HEADER.unpack_from(data)
    if len(data) != HEADER_BYTES + length:
        return None
    payload = data[HEADER_BYTES:]
    if zlib.crc32(payload, _checksum_of_header(segment, offset, data)) != checksum:
        return None
    state = State(settled, settled_total, oldest_ms)
    return Frame(offset, len(data), count, first, total, received_ms, state, payload)


def _checksum_of_header(segment: int, offset: int, header: bytes | memoryview) -> int:
    return zlib.crc32(header[_CHECKED_FROM:HEADER_BYTES], zlib.crc32(_POSITION.pack(segment, offset)))
