"""
The zip archive that `torch.save` writes, read strictly.

Entries lie stored, not compressed, so nothing can grow on reading. What the table of contents says
is held against the file: every entry inside it, none over another, each where its own header is.

Source: APPNOTE.TXT 6.3.10 of PKWARE; torch/csrc/serialize of PyTorch.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tistore.datasets.torch_files.source import OpenFile, Refused

SIGNATURE = b"PK\x03\x04"

MOST_ENTRIES = 200_000
MOST_TABLE_BYTES = 64 << 20

_END = struct.Struct("<4s4H2LH")
_END_64_PLACE = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_TABLE_ROW = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")

_ENCRYPTED = 0x1
_BIG_FIELD = 0xFFFFFFFF
_ZIP64_EXTRA = 1

COPY_AGAIN = "copy or download the file again"
SAVE_AGAIN = "write it anew with torch.save"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One file of the archive.

    Attributes:
        name: With the archive's folder: "archive/data/0".
        start: Byte of the file where its content begins.
        size: Length of its content in bytes.
        crc32: Checksum of its content; None where it was written without.
    """

    name: str
    start: int
    size: int
    crc32: int | None


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table of contents: what it claims, before its header is looked at."""

    name: bytes
    flags: int
    method: int
    crc32: int
    packed_size: int
    size: int
    header: int


def read_entries(file: OpenFile) -> dict[str, Entry]:
    """
    List an archive's entries by name, without the archive's own folder.

    Raises:
        Refused: The archive is damaged, compressed, encrypted, or says one thing twice.
    """
    table_start, table_bytes, n_rows = _find_table(file)
    table = file.bytes_at(table_start, table_bytes)
    rows = sorted(_table_rows(table, n_rows), key=lambda row: row.header)
    entries: dict[str, Entry] = {}
    free_from = 0
    for row in rows:
        entry = _locate(file, row)
        if row.header < free_from or entry.start + entry.size > table_start:
            raise Refused(f"its entry {_show(row.name)} lies over another part of it", SAVE_AGAIN)
        free_from = entry.start + entry.size
        _, slash, name = entry.name.partition("/")
        if name in entries:
            raise Refused(f"it has two entries named {_show(row.name)}", SAVE_AGAIN)
        if slash and name:
            entries[name] = entry
    if len({entry.name.partition("/")[0] for entry in entries.values()}) > 1:
        raise Refused("its entries lie in several folders, where torch writes one", SAVE_AGAIN)
    return entries


def read_entry(file: OpenFile, entry: Entry, most_bytes: int) -> bytes:
    """
    Read a whole entry and hold it against its checksum.

    Raises:
        Refused: It is longer than `most_bytes`, or not what was written.
    """
    if entry.size > most_bytes:
        raise Refused(
            f"its {_show(entry.name)} has {entry.size:,} bytes, more than the {most_bytes:,} "
            "that are read",
            "save tensors, not lists of numbers or text, or split the file",
        )
    content = file.bytes_at(entry.start, entry.size)
    if entry.crc32 is not None and zlib.crc32(content) != entry.crc32:
        raise Refused(f"its {_show(entry.name)} does not match its checksum", COPY_AGAIN)
    return content


def _find_table(file: OpenFile) -> tuple[int, int, int]:
    """Find the table of contents: its first byte, its length, how many rows."""
    end = file.size - _END.size
    if end < 0:
        raise Refused("it is a zip archive cut short", COPY_AGAIN)
    fields = _END.unpack(file.bytes_at(end, _END.size))
    # torch writes no comment. Looking for one would let a second table hide in it.
    if fields[0] != b"PK\x05\x06" or fields[7]:
        raise Refused(
            "it is a zip archive without its end: cut short, or something was added to it",
            COPY_AGAIN,
        )
    _, disk, table_disk, n_here, n_rows, table_bytes, table_start, _ = fields
    place = _END_64_PLACE.size
    if end >= place and file.bytes_at(end - place, 4) == b"PK\x06\x07":
        _, disk, end, _ = _END_64_PLACE.unpack(file.bytes_at(end - place, place))
        wide = _END_64.unpack(file.bytes_at(end, _END_64.size))
        if wide[0] != b"PK\x06\x06":
            raise Refused("it is a zip archive with a damaged end", COPY_AGAIN)
        table_disk, n_here, n_rows, table_bytes, table_start = wide[5:]
    if disk or table_disk or n_here != n_rows:
        raise Refused("it is one part of an archive split over several files", SAVE_AGAIN)
    if table_start + table_bytes != end:
        raise Refused("its table of contents is not where the archive says", COPY_AGAIN)
    if n_rows > MOST_ENTRIES or table_bytes > MOST_TABLE_BYTES:
        raise Refused(f"it has {n_rows:,} entries, more than the {MOST_ENTRIES:,} that are read")
    return table_start, table_bytes, n_rows


def _table_rows(table: bytes, n_rows: int) -> Iterator[_Row]:
    place = 0
    for _ in range(n_rows):
        if place + _TABLE_ROW.size > len(table):
            raise Refused("its table of contents is shorter than it says", COPY_AGAIN)
        row = _TABLE_ROW.unpack_from(table, place)
        signature, _, _, flags, method, _, _, crc32, packed, size, *lengths = row
        name_bytes, extra_bytes, comment_bytes, *_, header = lengths
        if signature != b"PK\x01\x02":
            raise Refused("its table of contents is damaged", COPY_AGAIN)
        place += _TABLE_ROW.size
        name = table[place : place + name_bytes]
        extra = table[place + name_bytes : place + name_bytes + extra_bytes]
        size, packed, header = _widen([size, packed, header], extra)
        place += name_bytes + extra_bytes + comment_bytes
        yield _Row(name, flags, method, crc32, packed, size, header)
    if place != len(table):
        raise Refused("its table of contents is longer than it says", COPY_AGAIN)


def _widen(fields: list[int], extra: bytes) -> list[int]:
    """Take the fields that do not fit 32 bits from the zip64 extra field, in their fixed order."""
    if _BIG_FIELD not in fields:
        return fields
    place = 0
    while place + 4 <= len(extra):
        kind, n_bytes = struct.unpack_from("<2H", extra, place)
        if kind == _ZIP64_EXTRA:
            wide = iter(
                struct.unpack_from("<Q", extra, at)[0]
                for at in range(place + 4, min(place + 4 + n_bytes, len(extra)) - 7, 8)
            )
            return [next(wide, field) if field == _BIG_FIELD else field for field in fields]
        place += 4 + n_bytes
    return fields


def _locate(file: OpenFile, row: _Row) -> Entry:
    """Follow a row to its header, which must tell the same story, and past it."""
    name = _check_name(row.name)
    if row.flags & _ENCRYPTED:
        raise Refused(f"its entry {_show(row.name)} is encrypted", "decrypt it first")
    if row.method != 0 or row.packed_size != row.size:
        raise Refused(
            f"its entry {_show(row.name)} is compressed, and torch.save compresses nothing",
            "was it packed anew? unpack it and pack it with zip -0",
        )
    if row.header + _HEADER.size + len(row.name) > file.size:
        raise Refused(f"its entry {_show(row.name)} lies beyond its end", COPY_AGAIN)
    header = file.bytes_at(row.header, _HEADER.size + len(row.name))
    signature, _, flags, method, _, _, _, packed, size, name_bytes, extra_bytes = (
        _HEADER.unpack_from(header)
    )
    agrees = (
        signature == SIGNATURE
        and header[_HEADER.size :] == row.name
        and name_bytes == len(row.name)
        and method == 0
        and not flags & _ENCRYPTED
        # Zero when the sizes follow the content, as torch writes it; all ones with zip64.
        and {packed, size} <= {0, _BIG_FIELD, row.size}
    )
    if not agrees:
        raise Refused(f"its entry {_show(row.name)} is not where the archive says", COPY_AGAIN)
    start = row.header + _HEADER.size + name_bytes + extra_bytes
    # Written without checksums (torch.serialization.set_crc32_options), all of them are 0.
    return Entry(name, start, row.size, row.crc32 or None)


def _check_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"its entry {_show(raw)} has a name that is not text") from error
    parts = name.removesuffix("/").split("/")
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise Refused(f"its entry {_show(raw)} has a name torch never writes: a path out of it?")
    return name


def _show(name: bytes | str) -> str:
    """Quote a name from the file: short, and nothing a terminal would act on."""
    text = name if isinstance(name, str) else name.decode("utf-8", "replace")
    return ascii(text if len(text) <= 60 else text[:57] + "...")
