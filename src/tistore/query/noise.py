"""The noise floor: how far a second reading of the same tokens by the same model moves a score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tistore.errors import AmbiguousVectorError, NotStoredError
from tistore.query.massive import MassiveDims
from tistore.query.references import resolve
from tistore.query.relations import DIFF_OF
from tistore.schemas.model import SECOND_READING
from tistore.schemas.site import Site
from tistore.schemas.vector import Vector

if TYPE_CHECKING:
    from tistore.query.store import Store

_AT_ONCE = 16
"""Vectors asked for in one query."""

_ROWS_SQL = """\
SELECT reader, component, layer, count(*) AS n, max(largest) AS largest,
  sum(mean * n_rows) / sum(n_rows) AS mean, max(tolerance) AS tolerance
FROM parity WHERE kind = 'noise' AND list_contains($readers, reader)
GROUP BY reader, component, layer ORDER BY reader, component, layer
"""


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """
    What reading again changes.

    Attributes:
        rows: Flat dicts of the same keys. With `measure` "row": the relative deviation
            ‖a - b‖ / ‖b‖ of a row at a site, `n` readings, `tolerance` where rounding ends. With
            `measure` "token", "clause" or "response": the size of the change of a score, `n` of
            them, and `spread`, the standard deviation over responses of the organism's score minus
            its base's, which the change is to be compared with.
        notes: Traits that were left out, and why.
    """

    rows: list[dict[str, Any]]
    notes: tuple[str, ...]


def name_again(reader: str) -> str:
    """Name a reader's second readings."""
    return reader + SECOND_READING


def noise_floor(
    store: Store, baselines: Mapping[str, str], traits: Sequence[str] | None = None
) -> NoiseFloor:
    """
    Measure how far second readings lie from the first, by row and by score.

    Args:
        store: Holds readings by `name_again(reader)`, as `tistore noise` makes them.
        baselines: For each reader, its clean base; the base itself for a base, whose spread is
            that of every organism read beside it.
        traits: Vector references; the selected vector of every trait when None.

    Raises:
        NotStoredError: None of the readers has read anything twice.
        QueryError: A reference names no vector, or several.
    """
    sites = _list_sites(store)
    readers = [reader for reader in sorted(baselines) if name_again(reader) in sites]
    if not readers:
        raise NotStoredError(
            f"nothing in {store.path} was read twice by {', '.join(sorted(baselines))}",
            mend="read a sample again: tistore noise STORE CONFIG",
        )
    vectors, notes = _choose(store, traits)
    rows = [
        _lay_out(row.pop("reader"), "row", **row)
        for row in store.sql(_ROWS_SQL, {"readers": readers}).rows()
    ]
    for reader in readers:
        known = sites[name_again(reader)]
        fitting = [
            vector
            for vector in vectors
            if known.get(vector.site) == vector.hidden and _is_of_base(store, vector, reader)
        ]
        for start in range(0, len(fitting), _AT_ONCE):
            some = fitting[start : start + _AT_ONCE]
            rows += _measure(store, reader, baselines[reader], some)
        if left_out := len(vectors) - len(fitting):
            notes.append(f"{left_out} vectors lie at sites that {reader} was not read at")
    return NoiseFloor(rows, tuple(notes))


def _choose(store: Store, traits: Sequence[str] | None) -> tuple[list[Vector], list[str]]:
    """Find the vectors asked for; of every trait the selected one, where one is."""
    vectors, massive = store.snapshot.vectors(), MassiveDims(store.snapshot)
    if traits is not None:
        return [resolve(trait, None, vectors, massive).vector for trait in traits], []
    chosen, undecided = [], []
    for trait in sorted({vector.trait for vector in vectors}):
        try:
            chosen.append(resolve(trait, None, vectors).vector)
        except AmbiguousVectorError:
            undecided.append(trait)
    listed = ", ".join(undecided)
    return chosen, [f"no best vector is known of {listed}: name one"] if undecided else []


def _measure(
    store: Store, reader: str, baseline: str, vectors: Sequence[Vector]
) -> Iterator[dict[str, Any]]:
    spreads = _measure_spread(store, reader, baseline, vectors)
    for relation, plain in DIFF_OF.items():
        found = _measure_change(store, relation, reader, vectors)
        for vector, change, spread in zip(vectors, found, spreads, strict=True):
            yield _lay_out(
                reader,
                plain.removesuffix("s"),
                vector=vector.reference,
                component=vector.component,
                layer=vector.layer,
                spread=spread,
                **change,
            )


def _measure_change(
    store: Store, relation: str, reader: str, vectors: Sequence[Vector]
) -> list[dict[str, Any]]:
    """Sum up the sizes of the differences between a reader's two readings."""
    scores = ", ".join(f"abs(project($v{i})) AS s{i}" for i in range(len(vectors)))
    sums = ", ".join(
        f"count(s{i}), max(s{i}), quantile_cont(s{i}, 0.95), avg(s{i})" for i in range(len(vectors))
    )
    audited = "AND is_response" if relation == "token_diffs" else ""
    sql = (
        f"SELECT {sums} FROM (SELECT {scores} FROM {relation} "
        f"WHERE reader = $reader AND baseline = $again {audited})"
    )
    names = {f"v{i}": vector.content_hash for i, vector in enumerate(vectors)}
    given = {"reader": reader, "again": name_again(reader), **names}
    (row,) = store.sql(sql, given).fetchall()
    keys = ("n", "largest", "q95", "mean")
    return [dict(zip(keys, row[at : at + 4], strict=True)) for at in range(0, len(row), 4)]


def _measure_spread(
    store: Store, reader: str, baseline: str, vectors: Sequence[Vector]
) -> list[float | None]:
    """Measure the standard deviation of what a query usually asks for, over responses."""
    scores = ", ".join(f"stddev_samp(project($v{i}))" for i in range(len(vectors)))
    whose = "" if reader == baseline else "AND organism = $reader"
    sql = (
        f"SELECT {scores} FROM response_diffs WHERE reader = organism AND baseline = $baseline "
        f"AND pairing = 'same' {whose}"
    )
    names = {f"v{i}": vector.content_hash for i, vector in enumerate(vectors)}
    given = {"baseline": baseline, **({} if reader == baseline else {"reader": reader}), **names}
    (row,) = store.sql(sql, given).fetchall()
    return list(row)


def _lay_out(reader: str, measure: str, **values: Any) -> dict[str, Any]:
    keys = (
        "vector", "component", "layer", "n", "largest", "q95", "mean", "spread", "tolerance",
    )  # fmt: skip
    return {"reader": reader, "measure": measure, **{key: values.get(key) for key in keys}}


def _is_of_base(store: Store, vector: Vector, reader: str) -> bool:
    """Whether a vector was fitted on a reader's base, as far as that is known."""
    models = store.snapshot.models
    fitted_on = models.get(vector.model or "")
    return fitted_on is None or fitted_on.base_id in (None, models[reader].base_id)


def _list_sites(store: Store) -> dict[str, dict[Site, int]]:
    """For each reader, list where its readings were kept, and how wide they are there."""
    found: dict[str, dict[Site, int]] = {}
    for segment in store.snapshot.segments:
        widths = {
            Site(component, layer): segment.width(component)
            for component in segment.components
            for layer in segment.layers
        }
        for reader in segment.table("responses", ["reader"])["reader"].unique().to_pylist():
            found.setdefault(reader, {}).update(widths)
    return found
