"""One fixed state of a store: what every reader reads from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from tistore.errors import NotStoredError, nearest
from tistore.schemas.choice import Choice
from tistore.schemas.head import Head
from tistore.schemas.model import Model
from tistore.schemas.response import ResponseSlot
from tistore.schemas.site import Site
from tistore.schemas.tables import LOG_TABLES, STREAMED_TABLES
from tistore.schemas.vector import Vector
from tistore.store.contents import Contents, Entry, TableFile
from tistore.store.files import FileRecord, Files, read_checked
from tistore.store.keys import row_content, row_key
from tistore.store.log import Commit, Keys, add_keys
from tistore.store.segment import Segment
from tistore.store.table_cache import TableCache
from tistore.store.tables import decode_table
from tistore.store.unembedding import TABLE as UNEMBEDDING_TABLE
from tistore.store.unembedding import Unembedding


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A committed response's text, whichever readers have read it."""

    response_id: str
    token_ids: list[int]
    prompt_length: int
    text: str | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class ReadingPlace:
    """Where a reading lies: its segment and its row in that segment's responses."""

    segment: Segment
    index: int


class Snapshot:
    """
    The store as of one commit. Immutable: two questions to it see the same data.

    Args:
        files: The store's files.
        commits: The log from its start to the wanted commit.
        known: An earlier snapshot of the same log, whose segments are kept open.
    """

    def __init__(
        self, files: Files, commits: Sequence[Commit], known: Snapshot | None = None
    ) -> None:
        self._files = files
        self.commits = tuple(commits)
        self._known = (known.number, known.keys) if known else (0, {})
        before = known.contents if known else Contents()
        self.contents: Contents = before.after(self.commits[self._known[0] :])
        # Files are immutable: what one snapshot has decoded, the next need not.
        self._decoded: dict[str, pa.Table] = known._decoded if known else {}
        self._read_vectors: dict[str, tuple[Vector, ...]] = known._read_vectors if known else {}
        self.kept_columns: TableCache = known.kept_columns if known else TableCache()
        self.segments: tuple[Segment, ...] = self._open_segments(known)

    def _open_segments(self, known: Snapshot | None) -> tuple[Segment, ...]:
        """Open what an earlier snapshot has not opened yet."""
        entries = self.contents.segments
        if known and self.contents.retired is known.contents.retired:
            # Nothing was replaced: what is new comes last. Of many, only it is looked at.
            new = islice(entries.values(), len(known.segments), None)
            return (*known.segments, *map(self._open_segment, new))
        opened = {segment.uuid: segment for segment in known.segments} if known else {}
        return tuple(
            opened.get(uuid) or self._open_segment(entry) for uuid, entry in entries.items()
        )

    def _open_segment(self, entry: Entry) -> Segment:
        return Segment(self._files, entry, self.kept_columns)

    @property
    def number(self) -> int:
        """Number of the last commit; 0 for an empty store."""
        return self.commits[-1].number if self.commits else 0

    @cached_property
    def keys(self) -> Keys:
        """Unique keys of everything committed: for each kind, key → hash of its content."""
        number, keys = self._known
        return add_keys(keys, self.commits[number:])

    @cached_property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file below the log that is part of this state."""
        return self.contents.files

    @cached_property
    def kept_files(self) -> tuple[FileRecord, ...]:
        """These, and those of every earlier state that can still be opened."""
        return self.contents.kept_files

    def table(self, name: str) -> pa.Table:
        """
        Read a table of the log: models, prompts, vectors, …; its files in commit order.

        Rows that a later commit has removed are not in it.

        Raises:
            NotStoredError: There is no such table.
            IntegrityError: A file is missing or damaged.
        """
        if name in STREAMED_TABLES:
            raise NotStoredError(
                f"table {name} is too large to be read whole",
                mend="read it block by block: snapshot.unembedding(head_hash).blocks()",
            )
        if name not in LOG_TABLES:
            raise NotStoredError(f"no table {name!r}; {nearest(name, LOG_TABLES)}")
        tables = [self.live_rows(file) for file in self.table_files(name)]
        schema = LOG_TABLES[name]
        # Files from before a column was added lack it: it is NULL there.
        whole = pa.concat_tables([schema.empty_table(), *tables], promote_options="default")
        return whole.select(schema.names)

    def vectors(self) -> tuple[Vector, ...]:
        """Every vector, in the order they were added; chosen ones say so."""
        return self._vectors

    @cached_property
    def _vectors(self) -> tuple[Vector, ...]:
        found: list[Vector] = []
        for file in self.table_files("vectors"):
            path = file.record.path
            if path not in self._read_vectors:
                self._read_vectors[path] = read_vectors(self._decode(file.record))
            found += (
                vector
                for vector in self._read_vectors[path]
                # Hashes of large vectors take time: they are worked out where they can matter.
                if "vectors" not in self.contents.removals
                or not self._is_removed("vectors", file.number, vector.key, vector.content_hash)
            )
        return tuple(map(self._mark, found))

    def _mark(self, vector: Vector) -> Vector:
        """Let the chosen vector of a trait and model say so."""
        choice = self.choices.get((vector.trait, vector.model))
        if choice is None or not choice.means(vector):
            return vector
        return replace(vector, chosen=choice.reason)

    @cached_property
    def choices(self) -> dict[tuple[str, str | None], Choice]:
        """The last choice for each trait and model, whether its vector is still there or not."""
        rows = map(Choice.from_row, self.table("choices").to_pylist())
        return {(choice.trait, choice.model): choice for choice in rows}

    def live_rows(self, file: TableFile) -> pa.Table:
        """Read a file of a table of the log, without the rows that later commits removed."""
        table, name, number = self._decode(file.record), file.table, file.number
        if name not in self.contents.removals:
            return table
        light = table.drop_columns(["values"]) if "values" in table.column_names else table
        is_live = [
            not self._is_removed(name, number, row_key(name, row), row_content(name, row))
            for row in light.to_pylist()
        ]
        return table if all(is_live) else table.filter(pa.array(is_live, pa.bool_()))

    def _is_removed(self, name: str, number: int, key: str, content: str) -> bool:
        """Whether a commit after `number` removes a row."""
        return self.contents.removals.get(name, {}).get((key, content), 0) > number

    def gone(self, name: str) -> set[tuple[str, str]]:
        """What was removed from a table and is not there again: keys and hashes of contents."""
        live = self.keys.get(name, {})
        removed = self.contents.removals.get(name, {})
        return {(key, content) for key, content in removed if live.get(key) != content}

    def _decode(self, record: FileRecord) -> pa.Table:
        if record.path not in self._decoded:
            self._decoded[record.path] = decode_table(read_checked(self._files, record))
        return self._decoded[record.path]

    @cached_property
    def models(self) -> dict[str, Model]:
        """Every model that has written or read a response, by name."""
        return {row["name"]: Model.from_row(row) for row in self.table("models").to_pylist()}

    @cached_property
    def heads(self) -> dict[str, Head]:
        """Every head, by its hash."""
        return {row["head_hash"]: Head.from_row(row) for row in self.table("heads").to_pylist()}

    @cached_property
    def reader_heads(self) -> dict[str, str]:
        """The hash of each reader's head; readers whose head was not kept are not in it."""
        table = self.table("reader_heads")
        return dict(zip(table["reader"].to_pylist(), table["head_hash"].to_pylist(), strict=True))

    def unembedding(self, head_hash: str) -> Unembedding:
        """
        Open a head's unembedding; nothing of it is read yet.

        Raises:
            NotStoredError: There is no such head.
        """
        if head_hash not in self._unembeddings:
            raise NotStoredError(f"no head {head_hash!r}; {nearest(head_hash, self.heads)}")
        return self._unembeddings[head_hash]

    @cached_property
    def _unembeddings(self) -> dict[str, Unembedding]:
        """Every head's: the file lies in the commit that has its key."""
        by_key = {row_key("heads", {"head_hash": name}): head for name, head in self.heads.items()}
        found = {}
        for file in self.table_files(UNEMBEDDING_TABLE):
            for key in self.commits[file.number - 1].body["keys"].get("heads", {}):
                head = by_key[key]
                found[head.head_hash] = Unembedding(self._files, file.record, head)
        return found

    def find_response(self, slot: ResponseSlot) -> StoredResponse | None:
        """Look up the response of a slot; None when there is none yet."""
        place = self._slots.get((slot.organism, slot.prompt_set, slot.prompt_id, slot.sample))
        if place is None:
            return None
        columns = ["response_id", "token_ids", "prompt_length", "text", "finish_reason"]
        table = place.segment.table("responses", columns)
        return StoredResponse(**table.slice(place.index, 1).to_pylist()[0])

    def find_reading(self, response_id: str, reader: str, site: Site) -> ReadingPlace:
        """
        Look up a reading that holds a site.

        Raises:
            NotStoredError: No such response, reader or site; the message says which.
        """
        of_response = self._readings.get(response_id)
        if of_response is None:
            raise NotStoredError(f"no response {response_id!r} in this store")
        places = of_response.get(reader)
        if places is None:
            raise NotStoredError(
                f"response {response_id} was not read by {reader!r}; {nearest(reader, of_response)}"
            )
        for place in places:
            if place.segment.has(site):
                return place
        stored = sorted({layer for place in places for layer in place.segment.layers})
        raise NotStoredError(
            f"no {site} for response {response_id} read by {reader}; "
            f"its layers are {', '.join(map(str, stored))}"
        )

    @cached_property
    def _slots(self) -> dict[tuple[Any, ...], ReadingPlace]:
        columns = ("organism", "prompt_set", "prompt_id", "sample")
        return {key: place for key, place in self._walk(columns)}

    @cached_property
    def _readings(self) -> dict[str, dict[str, list[ReadingPlace]]]:
        found: dict[str, dict[str, list[ReadingPlace]]] = {}
        for (response_id, reader), place in self._walk(("response_id", "reader")):
            found.setdefault(response_id, {}).setdefault(reader, []).append(place)
        return found

    def _walk(self, columns: tuple[str, ...]) -> list[tuple[tuple[Any, ...], ReadingPlace]]:
        walked = []
        for segment in self.segments:
            table = segment.table("responses", columns)
            values = zip(*(table[column].to_pylist() for column in columns), strict=True)
            walked += [(key, ReadingPlace(segment, index)) for index, key in enumerate(values)]
        return walked

    def table_files(self, name: str) -> tuple[TableFile, ...]:
        """List the files of a table of the log, in the order of its rows."""
        return tuple(self.contents.tables.get(name, {}).values())


def read_vectors(table: pa.Table) -> tuple[Vector, ...]:
    """Read the rows of a `vectors` table; values are taken over whole, not number by number."""
    rows = table.drop_columns(["values"]).to_pylist()
    values = (row.values.to_numpy() for row in table["values"])
    return tuple(
        Vector.from_row({**row, "values": numbers})
        for row, numbers in zip(rows, values, strict=True)
    )


def read_activations(
    snapshot: Snapshot, response_id: str, reader: str, site: Site
) -> np.ndarray[Any, np.dtype[Any]]:
    """
    Read one reading's activations at a site.

    Returns:
        [rows, width] float16; float32 where the layer is stored with an exponent, since float16
        could not hold its values.

    Raises:
        NotStoredError: No such response, reader or site.
    """
    place = snapshot.find_reading(response_id, reader, site)
    responses = place.segment.table("responses", ["row_start", "n_rows"])
    start = responses["row_start"][place.index].as_py()
    stop = start + responses["n_rows"][place.index].as_py()
    values = place.segment.read(site, start, stop)
    exponent = place.segment.exponent(site)
    return np.ldexp(values.astype(np.float32), exponent) if exponent else values
