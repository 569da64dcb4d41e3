"""
The `.npz` format: a zip archive of `.npy` files, stored or deflated.

What an archive claims is bounded before it is unpacked, and no more is unpacked than it claims.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.datasets.foreign.npy_file import MOST_HEADER_BYTES, NpyHeader, parse_header
from tistore.datasets.foreign.sample import refusing
from tistore.datasets.torch_files.source import OpenFile, Refused, SourceFile
from tistore.datasets.torch_files.tensor import DTYPES

MOST_ENTRIES = 1000
MOST_TEXT_BYTES = 64 << 20
MOST_TABLE_BYTES = 1 << 20

SMALL_BYTES = 64 << 20
MOST_GROWTH = 100
"""How many times its packed length an entry beyond `SMALL_BYTES` may have: activations pack to a
half at best, and the tightest bomb grows a thousandfold."""

_SAVE_ANEW = "write it anew with numpy.savez"
_COPY_AGAIN = "copy or download the file again"
_READ_AT_ONCE = 4 << 20
_MOST_END_BYTES = 22 + 65535 + 76


@dataclass(frozen=True, slots=True)
class NpzArray:
    """
    An array of an archive, not yet read.

    Attributes:
        source: The archive.
        entry: Its name in there.
        header: What stands before its values.
        dtype: Element type.
    """

    source: SourceFile
    entry: str
    header: NpyHeader
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.header.shape

    @property
    def nbytes(self) -> int:
        """How many bytes the values are, once read."""
        return self.header.value_bytes

    def read(self) -> NDArray[Any]:
        """
        Unpack the values.

        Raises:
            ForeignFileError: The archive changed, or its bytes are not those it was written with.
        """
        with _archive(self.source) as archive, archive.open(self.entry) as packed:
            _take(packed, self.header.n_bytes)
            values = np.empty(self.nbytes, np.uint8)
            _fill(packed, values.data)
        # Only now is the checksum of the whole entry compared: at its end.
        typed = values.view(DTYPES[self.dtype])
        if self.header.is_big_endian:
            width = typed.itemsize // 2 if typed.dtype.kind == "c" else typed.itemsize
            values.view(f"u{width}").byteswap(inplace=True)
        return typed.reshape(self.shape, order="F" if self.header.is_fortran else "C")


@dataclass(frozen=True, slots=True)
class NpzFile:
    """
    What an archive holds.

    Attributes:
        source: The archive.
        headers: For each array, by its name, what stands before its values; None where those are
            neither numbers nor text.
    """

    source: SourceFile
    headers: Mapping[str, NpyHeader | None]

    def array(self, name: str, dtype: str | None = None) -> NpzArray:
        """
        Describe an array.

        Raises:
            ForeignFileError: Its elements are no numbers.
        """
        with refusing(self.source.path):
            header = self.headers[name]
            if header is None:
                raise Refused(
                    f"its array {ascii(name)} holds no numbers: pickled objects, perhaps, which "
                    "are not read",
                    _SAVE_ANEW,
                )
            return NpzArray(self.source, f"{name}.npy", header, header.dtype(dtype))

    def text(self, name: str) -> str:
        """
        Read an array that is one text.

        Raises:
            ForeignFileError: It is something else.
        """
        header = self.headers[name]
        with _archive(self.source) as archive, archive.open(f"{name}.npy") as packed:
            if (
                header is None
                or header.kind != "U"
                or header.shape
                or header.itemsize > MOST_TEXT_BYTES
            ):
                raise Refused(
                    f"its array {name} is no text", f"write it as numpy.array(text): {name}"
                )
            content = _take(packed, header.n_bytes + header.itemsize)[header.n_bytes :]
            encoding = "utf-32-be" if header.is_big_endian else "utf-32-le"
            try:
                return content.decode(encoding).rstrip("\0")
            except UnicodeDecodeError as error:
                raise Refused(f"its array {name} is no text: {error.reason}") from error


def read_npz(path: Path) -> NpzFile:
    """
    Read the headers of an archive's arrays.

    Raises:
        ForeignFileError: It is damaged, no `.npz`, claims to unpack to what no activations would,
            or a header lies; objects are refused when they are asked for.
    """
    with refusing(path):
        source = SourceFile.identify(path)
        with _archive(source) as archive:
            listed = archive.infolist()
            names = [info.filename for info in listed]
            if len(listed) > MOST_ENTRIES or len(set(names)) < len(names):
                raise Refused("it has more than a thousand entries, or two of a name", _SAVE_ANEW)
            arrays = [info for info in listed if info.filename.endswith(".npy")]
            headers = {
                info.filename.removesuffix(".npy"): _read_header(archive, info) for info in arrays
            }
        return NpzFile(source, headers)


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NpyHeader | None:
    """Read an entry's header; None where it holds what is not numbers or text."""
    if info.flag_bits & 1:
        raise Refused(f"its {ascii(info.filename)} is encrypted", _SAVE_ANEW)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"its {ascii(info.filename)} is packed in an unknown way", _SAVE_ANEW)
    if info.file_size > max(SMALL_BYTES, MOST_GROWTH * info.compress_size):
        raise Refused(
            f"its {ascii(info.filename)} unpacks from {info.compress_size:,} bytes to "
            f"{info.file_size:,}: no activations do",
            "if it is sound, write it with numpy.savez, which packs nothing",
        )
    with archive.open(info) as packed:
        head = packed.read(min(info.file_size, MOST_HEADER_BYTES + 12))
    try:
        header = parse_header(head)
    except Refused:
        return None
    claimed = header.n_bytes + math.prod(header.shape) * header.itemsize
    if claimed != info.file_size:
        raise Refused(
            f"its {ascii(info.filename)} claims {claimed:,} bytes, but has {info.file_size:,}",
            _COPY_AGAIN,
        )
    return header


@contextmanager
def _archive(source: SourceFile) -> Iterator[zipfile.ZipFile]:
    with refusing(source.path), source.open() as file:
        try:
            _check_table(file)
            with open(file.descriptor, "rb", closefd=False) as raw:  # noqa: PTH123
                raw.seek(0)
                with zipfile.ZipFile(raw) as archive:
                    yield archive
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            # The last is zipfile's word for a compression or a version it does not know.
            raise Refused(f"it is no sound archive: {error}", _COPY_AGAIN) from error
        except (RuntimeError, ValueError, UnicodeError, OverflowError) as error:
            raise Refused(f"it is no sound archive: {error}", _SAVE_ANEW) from error


def _check_table(file: OpenFile) -> None:
    """Refuse a table of contents too long to be an .npz's, before zipfile makes objects of it."""
    tail = file.bytes_at(max(0, file.size - _MOST_END_BYTES), min(file.size, _MOST_END_BYTES))
    is_last = tail[-22:-18] == b"PK\5\6" and tail[-2:] == b"\0\0"
    at = len(tail) - 22 if is_last else tail.rfind(b"PK\5\6")
    if at < 0 or at + 22 > len(tail):
        raise Refused("it has no end of a zip archive", _COPY_AGAIN)
    (table_bytes,) = struct.unpack_from("<L", tail, at + 12)
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\6\7":
        (table_bytes,) = struct.unpack_from("<Q", tail, at - 76 + 40)
    if table_bytes > MOST_TABLE_BYTES:
        raise Refused(f"its table of contents claims {table_bytes:,} bytes", _SAVE_ANEW)


def _take(packed: Any, n_bytes: int) -> bytes:
    content: bytes = packed.read(n_bytes)
    if len(content) != n_bytes:
        raise Refused("it is cut short", _COPY_AGAIN)
    return content


def _fill(packed: Any, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        piece = packed.read(min(_READ_AT_ONCE, len(buffer) - done))
        if not piece:
            raise Refused("it is cut short", _COPY_AGAIN)
        buffer[done : done + len(piece)] = piece
        done += len(piece)
    if packed.read(1):
        raise Refused("it holds more than its header says", _SAVE_ANEW)
