"""What a planned query needs: which scores, how many bytes of them, and what the tables take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tistore.query.lens_rows import LensRows
from tistore.query.measures import Measurement
from tistore.query.plan import Item, Statement
from tistore.query.relations import LENS, PROJECTABLE, Extent, count_rows
from tistore.query.scores import ScoreRequest

_CELL_BYTES = 8  # of a column that is no score: numbers, and codes of a dictionary


@dataclass(eq=False)
class Plan:
    """
    A statement whose rows and vectors are known.

    Attributes:
        statement: The statement, narrowed.
        sql: What runs.
        names: What people call each of the planner's own names.
        lenses: Rows of each use of `lens`, by the name of its table.
        notes: What a reader of the answer should know.
    """

    statement: Statement
    sql: str
    names: Mapping[str, str]
    lenses: Mapping[str, LensRows]
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> list[tuple[Item, Extent, Measurement]]:
        """Every column of scores, with the item it belongs to."""
        return [
            (item, extent_of(item), measurement)
            for item in self.statement.items
            for measurement in item.scores.values()
        ]

    @cached_property
    def requests(self) -> list[ScoreRequest]:
        """Token scores the plan needs, each once."""
        requests = {}
        for _, extent, measurement in self.measured:
            if measurement.needs_tokens(extent.level):
                for place in extent.segments:
                    segment = extent.readings.segments[place]
                    if segment.has(measurement.direction.site):
                        request = ScoreRequest(measurement.direction, segment)
                        requests[request.key] = request
        return list(requests.values())

    @property
    def side_bytes(self) -> int:
        """Bytes of response means, token norms, and states and heads of the lens it reads."""
        means: dict[tuple[str, str], int] = {}
        norms: dict[tuple[str, str], int] = {}
        for _, extent, measurement in self.measured:
            site = measurement.direction.site
            for place in extent.segments:
                segment = extent.readings.segments[place]
                if segment.has(site) and not measurement.needs_tokens(extent.level):
                    means[segment.uuid, str(site)] = segment.mean_bytes(site)
                if segment.has(site) and measurement.needs_norms:
                    norms[segment.uuid, str(site)] = segment.norm_bytes(site)
        seen = sum(rows.read_bytes for rows in self.lenses.values())
        return sum(means.values()) + sum(norms.values()) + seen

    @property
    def table_bytes(self) -> int:
        """Memory its tables would take, scores included, about."""
        scores = sum(request.size_bytes for request in self.requests)
        items = (item for item in self.statement.items if item.source.relation != LENS)
        return scores + sum(map(item_bytes, items))


def extent_of(item: Item) -> Extent:
    """The rows an item needs."""
    assert item.narrowed is not None
    return item.narrowed.extent


def item_bytes(item: Item) -> int:
    """Memory an item's table would take, about."""
    extent = extent_of(item)
    n_columns = len(set(item.columns) & set(PROJECTABLE[extent.relation])) + len(item.scores)
    return count_rows(extent) * _CELL_BYTES * n_columns
