"""Random queries over random stores answer as DuckDB does over tables of brute-force scores."""

from __future__ import annotations

import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, event, given, note, reject, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import tistore
from tistore.errors import VectorMismatchError

from .query_columns import TOLERANCE, Catalogue, Column, Query
from .query_grammar import queries
from .query_spelling import spell_asked, spell_told
from .random_stores import COLUMNS, POINTINGS, RELATIONS, SHAPES, RandomStore, build

EXAMPLES = int(os.environ.get("TISTORE_EXAMPLES", "250"))
"""How many queries are tried; set the variable to try thousands."""

MOST_ROWS = 2000
NOISES = ("low_", "high_", "mixed_")
"""Prefixes of tables whose scores are moved a little."""

Row = tuple[Any, ...]


PATIENCE_SECONDS = 30.0


@dataclass
class Peer:
    """A random store beside a plain DuckDB that holds what it should answer."""

    random: RandomStore
    plain: duckdb.DuckDBPyConnection
    catalogue: Catalogue = field(init=False)

    def __post_init__(self) -> None:
        self.catalogue = Catalogue.of(self.random.tables)
        rng = np.random.default_rng(0)
        for name, table in self.random.tables.items():
            for prefix in ("exact_", *NOISES):
                moved = table if prefix == "exact_" else _move_scores(table, rng)
                self.plain.register("incoming", moved)
                self.plain.execute(f"CREATE TABLE {prefix}{name} AS FROM incoming")

    def __repr__(self) -> str:
        return f"<a peer of {self.random.store.path}>"

    def tell(self, query: Query, **options: Any) -> list[Row]:
        """Answer a query by brute force."""
        sql, parameters = spell_told(query.text, **options)
        if not options:
            note(f"told: {sql}")
        # Brute force may join everything with everything for minutes: such a query tells nothing.
        patience = threading.Timer(PATIENCE_SECONDS, self.plain.interrupt)
        patience.start()
        try:
            return self.plain.execute(sql, parameters).fetchall()
        except duckdb.InterruptException:
            reject()
        finally:
            patience.cancel()

    def ask(self, query: Query, is_fresh: bool = False, is_numbered: bool = False) -> list[Row]:
        """Answer a query by the store; `is_fresh`, by one without a cache."""
        sql, parameters = spell_asked(query.text, is_numbered)
        note(f"asked: {sql}  {parameters or ''}")
        store = self.random.store
        if is_fresh:
            shutil.rmtree(store.score_folder, ignore_errors=True)
            store = tistore.open(store.path)
        result = store.sql(sql, parameters)
        assert not [name for name in result.columns if "__tistore" in name]
        return result.fetchall()


def _move_scores(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    for column in COLUMNS:
        if column in table.column_names:
            values = table[column].to_numpy()
            noise = rng.uniform(-1e-5, 1e-5, len(values))
            spread = np.nanmax(values) - np.nanmin(values) if not np.isnan(values).all() else 0
            moved = pa.array(values + noise * spread, from_pandas=True)
            table = table.set_column(table.column_names.index(column), column, moved)
    return table


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Peer]]:
    """One store of every shape."""
    folder = tmp_path_factory.mktemp("random")
    found = [
        Peer(build(folder / str(place), shape), duckdb.connect(config={"threads": "1"}))
        for place, shape in enumerate(SHAPES)
    ]
    yield found
    for peer in found:
        peer.plain.close()


def assert_same_answers(
    found: Sequence[Row], wanted: Sequence[Row], outputs: Sequence[Column]
) -> None:
    """Compare rows in any order: exactly, but for scores, which may be off by the tolerance."""
    is_score = [column.kind in ("score", "loose") for column in outputs]
    spreads = np.array([c.spread for c in outputs if c.kind in ("score", "loose")])
    groups = [_group(rows, is_score) for rows in (found, wanted)]
    counts = [{key: len(scores) for key, scores in group.items()} for group in groups]
    assert counts[0] == counts[1], _first_difference(*counts)
    for key, scores in groups[0].items():
        assert _can_pair(scores, groups[1][key], spreads), (key, scores, groups[1][key], spreads)


def _group(rows: Sequence[Row], is_score: Sequence[bool]) -> dict[str, list[list[Any]]]:
    """Scores of the rows whose other columns are the same."""
    groups: dict[str, list[list[Any]]] = defaultdict(list)
    for row in rows:
        assert len(row) == len(is_score), (row, is_score)
        exact = [_normal(v) for v, skip in zip(row, is_score, strict=True) if not skip]
        groups[repr(exact)].append([v for v, keep in zip(row, is_score, strict=True) if keep])
    return groups


def _normal(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) else value


def _first_difference(found: dict[str, int], wanted: dict[str, int]) -> str:
    differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    key = min(differing)
    return f"{len(differing)} differ: {key} {found.get(key, 0)} times, not {wanted.get(key, 0)}"


def _can_pair(found: list[list[Any]], wanted: list[list[Any]], spreads: np.ndarray) -> bool:
    """Whether rows can be paired so that no score is off by more than the tolerance."""
    if not len(spreads):
        return True
    left, right = (np.array(rows, dtype=np.float64) for rows in (found, wanted))
    known = [np.isnan(side) for side in (left, right)]
    if any(value is not None and value != value for row in found for value in row):
        return False  # NULL is the only way to say that nothing was measured
    is_off = np.zeros((len(left), len(right)), dtype=bool)
    for place, spread in enumerate(spreads):
        distance = np.abs(np.subtract.outer(left[:, place], right[:, place]))
        both_null = np.logical_and.outer(known[0][:, place], known[1][:, place])
        is_off |= ~((distance <= TOLERANCE * spread + 1e-12) | both_null)
    if not is_off.diagonal().any():
        return True
    rows, columns = linear_sum_assignment(is_off)
    return not is_off[rows, columns].any()


def is_stable(peer: Peer, query: Query, wanted: list[Row]) -> bool:
    """Whether an answer stays the same when all scores are moved a little."""
    for prefix in NOISES:
        try:
            assert_same_answers(peer.tell(query, prefix=prefix), wanted, query.outputs)
        except AssertionError:
            return False
    return True


def is_without_effect(peer: Peer, query: Query, wanted: list[Row]) -> bool:
    """Whether the scores of some item at some layer do not show in the answer."""
    used = {(call.item, POINTINGS[call.pointing].site) for call in query.text.calls}
    for silenced in used:
        try:
            assert_same_answers(peer.tell(query, silenced=silenced), wanted, query.outputs)
        except AssertionError:
            continue
        return True
    return False


def test_plain_tables_have_the_stores_own_rows(peers):
    """The oracle's columns that are no scores are the store's, all of them."""
    for peer in peers:
        for relation in RELATIONS:
            found = peer.random.store.sql(f"SELECT * FROM {relation} ORDER BY ALL").table

            wanted = peer.plain.sql(
                f"SELECT {', '.join(found.column_names)} FROM exact_{relation} ORDER BY ALL"
            )
            assert found.to_pylist() == wanted.to_arrow_table().to_pylist()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    database=None,
    print_blob=True,
    # The everyday run asks the same queries each time; a long one asks others.
    derandomize="TISTORE_EXAMPLES" not in os.environ,
)
@given(place=st.integers(0, len(SHAPES) - 1), way=st.integers(0, 9), data=st.data())
def test_random_queries_agree_with_brute_force(peers, place, way, data):
    """The same rows, and scores within the tolerance, whatever is asked."""
    peer = peers[place]
    query = data.draw(queries(peer.catalogue))
    wanted = peer.tell(query)
    if len(wanted) > MOST_ROWS or (query.is_fragile and not is_stable(peer, query, wanted)):
        event("left out: too long or too close")
        reject()
    for form in query.forms:
        event(form)

    try:
        found = peer.ask(query, is_fresh=way == 9, is_numbered=way == 8)
    except VectorMismatchError as error:
        event("no reading has the layer")
        assert "was not captured" in str(error)
        assert is_without_effect(peer, query, wanted), error
        return

    event("rows" if wanted else "no rows")
    assert_same_answers(found, wanted, query.outputs)
