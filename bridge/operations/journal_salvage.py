"""What can still be read of a damaged journal file: never writes to it, gives nothing that is not whole.

Rule 1: only the file and its write-ahead log are read, as bytes, page by page; no page needs another one to be
        whole, but for the overflow pages of its own rows. So SQLite's header, schema and index may all be gone.
Rule 2: a group is given only if its checksum is right, a parked delivery only if it can be decoded whole.
Rule 3: a group that the file itself says is on Kafka (`trimmed`) is left out; what is given twice by an old and a
        new copy of a page is given once. A repeat is possible all the same, with the id of its original.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bridge.event import Delivery

_LEAF = 0x0D
_SQLITE_MAGIC = b"SQLite format 3\0"
_WAL_HEADER, _FRAME_HEADER = 32, 24
_GROUP_COLUMNS, _PARKED_COLUMNS = 8, 4
_DEFAULT_PAGE = 4096
_SMALLEST_PAGE, _LARGEST_PAGE = 512, 65536

_decode_group = msgspec.msgpack.Decoder(list[Delivery]).decode
_decode_one = msgspec.msgpack.Decoder(Delivery).decode


class Salvage(NamedTuple):
    """What was found: deliveries that flowed, in the order of acknowledgement; parked ones; unreadable rows."""

    flowing: list[Delivery]
    parked: list[tuple[str, Delivery]]
    unreadable: int

    @property
    def deliveries(self) -> list[Delivery]:
        """All of them: what was parked is older than what flowed."""
        return [*(delivery for _, delivery in self.parked), *self.flowing]


class _Broken(Exception):
    """A row cannot be read."""


def salvage(path: Path) -> Salvage:
    """Read what can be read of a journal file and the write-ahead log beside it. Raises OSError."""
    main = path.read_bytes()
    log = path.with_name(path.name + "-wal")
    wal = log.read_bytes() if log.exists() else b""
    size = _page_size(main, wal)
    pages = {number + 1: main[at : at + size] for number, at in enumerate(range(0, len(main), size))}
    versions = list(pages.items())
    for number, page in _frames(wal, size):
        versions.append((number, page))
        pages[number] = page
    return _collect(versions, pages, size)


def _collect(versions: list[tuple[int, bytes]], pages: dict[int, bytes], size: int) -> Salvage:
    groups: dict[int, list[Delivery]] = {}
    parked: dict[int, tuple[str, Delivery]] = {}
    broken: set[int] = set()
    trimmed = 0
    for number, page in versions:
        for rowid, row in _rows(number, page, pages, size):
            try:
                if isinstance(row, _Broken):
                    broken.add(rowid)
                elif len(row) == _GROUP_COLUMNS:
                    if zlib.crc32(row[7]) != row[5]:
                        broken.add(rowid)
                        continue
                    groups[rowid] = _decode_group(row[7])
                    trimmed = max(trimmed, row[6])
                elif len(row) == _PARKED_COLUMNS and isinstance(row[3], bytes):
                    parked[rowid] = str(row[1], "utf-8"), _decode_one(row[3])
            except (TypeError, UnicodeDecodeError, msgspec.MsgspecError):
                broken.add(rowid)
    flowing = [each for last in sorted(groups) if last > trimmed for each in groups[last]]
    lost = {rowid for rowid in broken if rowid not in groups and rowid not in parked and rowid > trimmed}
    return Salvage(flowing, [parked[number] for number in sorted(parked)], len(lost))


def _page_size(main: bytes, wal: bytes) -> int:
    size = int.from_bytes(wal[8:12], "big") if len(wal) >= _WAL_HEADER else 0
    if main.startswith(_SQLITE_MAGIC):
        size = int.from_bytes(main[16:18], "big")
        size = _LARGEST_PAGE if size == 1 else size
    plausible = _SMALLEST_PAGE <= size <= _LARGEST_PAGE and size & (size - 1) == 0
    return size if plausible else _DEFAULT_PAGE


def _frames(wal: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    for at in range(_WAL_HEADER, len(wal), _FRAME_HEADER + size):
        page = wal[at + _FRAME_HEADER : at + _FRAME_HEADER + size]
        if len(page) == size:
            yield int.from_bytes(wal[at : at + 4], "big"), page


def _rows(number: int, page: bytes, pages: dict[int, bytes], size: int) -> Iterator[tuple[int, list[Any] | _Broken]]:
    """Yield the rows of a table's leaf page: the row's id, and its columns or that they are broken."""
    start = 100 if number == 1 else 0
    if len(page) < start + 8 or page[start] != _LEAF:
        return
    for cell in range(int.from_bytes(page[start + 3 : start + 5], "big")):
        pointer = start + 8 + 2 * cell
        at = int.from_bytes(page[pointer : pointer + 2], "big")
        if not start + 8 <= at < len(page):
            continue
        rowid = 0
        try:
            length, at = _varint(page, at)
            rowid, at = _varint(page, at)
            yield rowid, _columns(_payload(page, at, length, pages, size))
        except (_Broken, IndexError):
            yield rowid, _Broken()


def _payload(page: bytes, at: int, length: int, pages: dict[int, bytes], size: int) -> bytes:
    """Return a row's bytes, of which a long one has its rest on overflow pages."""
    if length > len(pages) * size:  # a damaged length must not lead round and round
        raise _Broken
    if length <= size - 35:
        return page[at : at + length]
    least = (size - 12) * 32 // 255 - 23
    here = least + (length - least) % (size - 4)
    here = here if here <= size - 35 else least
    found = bytearray(page[at : at + here])
    following = int.from_bytes(page[at + here : at + here + 4], "big")
    while len(found) < length:
        overflow = pages.get(following)
        if overflow is None or len(overflow) < size:
            raise _Broken
        found += overflow[4 : 4 + length - len(found)]
        following = int.from_bytes(overflow[:4], "big")
    return bytes(found)


def _columns(payload: bytes) -> list[Any]:
    """Decode SQLite's record format; a NULL (the row's own id) is None."""
    end, at = _varint(payload, 0)
    kinds: list[int] = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    columns: list[Any] = []
    for kind in kinds:
        width = (kind - 12) // 2 if kind >= 12 else (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[kind]  # noqa: PLR2004
        part = payload[at : at + width]
        if len(part) != width:
            raise _Broken
        at += width
        if kind >= 12:  # noqa: PLR2004 - text and blobs
            columns.append(part)
        elif kind in (8, 9):
            columns.append(kind - 8)
        else:
            columns.append(int.from_bytes(part, "big", signed=True) if kind else None)
    return columns


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for step in range(8):
        byte = data[at + step]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at + step + 1
    return value << 8 | data[at + 8], at + 9
