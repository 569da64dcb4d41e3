"""Response scores of organisms along vectors, beside a baseline's: what every audit starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tistore.audit.opponents import check_alike, check_organisms
from tistore.audit.statistics.known import average_known
from tistore.errors import InvalidRecordError, QueryError, nearest
from tistore.query.massive import MassiveDims
from tistore.query.references import resolve
from tistore.query.span_question import and_condition, quote
from tistore.schemas.model import BASE_READER
from tistore.schemas.prompt import SCENARIO_SETS
from tistore.schemas.vector import Vector
from tistore.vectors.scenario_readings import SCENARIO_AUTHOR

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]

Part = Literal["total", "model", "text"]
PartOrOwn = Literal[Part, "own"]
PARTS: tuple[Part, ...] = get_args(Part)
"""What may be compared with the baseline."""

Side = Literal["own", "replay", "base"]
SIDES: dict[PartOrOwn, tuple[Side, ...]] = {
    "own": ("own",),
    "total": ("own", "base"),
    "model": ("own", "replay"),
    "text": ("replay", "base"),
}
"""What each part is the difference of."""

_PLACE = ("prompt_set", "prompt_id", "sample")
_MATRICES = ("own", "replay", "base", "swapped")


def check_parts(parts: Iterable[str]) -> None:
    """
    Check that parts somebody names are such.

    Raises:
        QueryError: One is none.
    """
    for part in parts:
        if part not in PARTS:
            raise QueryError(f"no part {part!r}; {nearest(part, PARTS)}")


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """
    Response scores of organisms along vectors, each a mean over the response's audited tokens.

    S(m, y) is model m's reading of text y; o is the organism, i the baseline. All matrices are
    (row, vector), in score units; NaN where nobody has read that.

    Attributes:
        baseline: Name of the baseline.
        vectors: What the columns are scores along.
        rows: A row a response of an organism, polars, in order of organism, prompt set, prompt
            (2 before 10) and sample: `organism, family, prompt_set, prompt_id, sample,
            response_id, note, tags, n_tokens, finish_reason, cluster`. Rows with one cluster are
            not independent: it is the prompt, unless set otherwise. `family` is the organism's own
            name unless set otherwise.
        own: S(o, y_o), the organism reads its own text.
        replay: S(i, y_o), the baseline reads that text.
        base: S(i, y_i), the baseline reads its own answer to the same prompt, by the same sample
            number.
        swapped: S(o, y_i), the organism reads the baseline's answer.
        notes: What a reader of the numbers should know.
    """

    baseline: str
    vectors: tuple[Vector, ...]
    rows: polars.DataFrame
    own: Scores
    replay: Scores
    base: Scores
    swapped: Scores
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that all parts are of one shape."""
        shape = (len(self.rows), len(self.vectors))
        for name in _MATRICES:
            if (found := getattr(self, name).shape) != shape:
                raise InvalidRecordError(f"{name} is {found}, and there are {shape} cells")

    @property
    def organisms(self) -> list[str]:
        """Names of the organisms, sorted."""
        return sorted(self.rows["organism"].unique().to_list())

    @property
    def traits(self) -> list[str]:
        """The traits of the columns, in order."""
        return [vector.trait for vector in self.vectors]

    @property
    def total(self) -> Scores:
        """S(o, y_o) − S(i, y_i): all that differs."""
        return self.own - self.base

    @property
    def model_part(self) -> Scores:
        """S(o, y_o) − S(i, y_o): what differs on the very same tokens."""
        return self.own - self.replay

    @property
    def text_part(self) -> Scores:
        """S(i, y_o) − S(i, y_i): what the texts' difference makes, by the baseline's reading."""
        return self.replay - self.base

    def of_part(self, part: PartOrOwn) -> Scores:
        """Give the scores of a part, or the organisms' own: (row, vector)."""
        parts = {"total": self.total, "model": self.model_part, "text": self.text_part}
        return self.own if part == "own" else parts[part]

    def take(self, mask: Mask) -> Cells:
        """Keep some rows: (row,) bool."""
        import polars as pl

        kept: dict[str, Any] = {name: getattr(self, name)[mask] for name in _MATRICES}
        return replace(self, rows=self.rows.filter(pl.Series(mask)), **kept)

    def of(self, organism: str) -> Cells:
        """
        Keep one organism's rows.

        Raises:
            QueryError: There is none of that name.
        """
        check_organisms([organism], self.organisms)
        return self.take((self.rows["organism"] == organism).to_numpy())

    def complete(self, names: Iterable[str]) -> Cells:
        """
        Keep the scores of a response where all of some matrices have one; the rest become NaN.

        Averages of these matrices are then over the same responses, and differ by nothing else.

        Args:
            names: Such as "own" and "replay".
        """
        is_there = np.all([np.isfinite(getattr(self, name)) for name in names], axis=0)
        kept: dict[str, Any] = {
            name: np.where(is_there, getattr(self, name), np.nan) for name in _MATRICES
        }
        return replace(self, **kept)

    def by_prompt(self, part: PartOrOwn | None = None) -> Cells:
        """
        Average the samples of each prompt: the prompt is the unit of every inference.

        Args:
            part: What the averages are wanted for: samples that lack a side of it are left out, so
                that its sides are of the same texts.
        """
        if part is not None:
            return self.complete(SIDES[part]).by_prompt()
        keys = self.rows.select("organism", "prompt_set", "prompt_id").rows()
        places: dict[tuple[str, ...], list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        if len(places) == len(keys):
            return self
        groups = [np.array(group) for group in places.values()]
        firsts = np.array([group[0] for group in groups])
        averaged: dict[str, Any] = {
            name: np.stack([average_known(getattr(self, name)[group]) for group in groups])
            for name in _MATRICES
        }
        return replace(self, rows=self.rows[firsts.tolist()], **averaged)

    def with_families(self, families: Mapping[str, str]) -> Cells:
        """
        Say which organisms are variants of one thing, and so no control for each other.

        Args:
            families: Organism → family; those left out are families of their own.

        Raises:
            QueryError: An organism named there is not among these.
        """
        import polars as pl

        check_organisms(families, self.organisms)
        named = [families.get(name, name) for name in self.rows["organism"].to_list()]
        return replace(self, rows=self.rows.with_columns(pl.Series("family", named)))

    def with_clusters(self, column: str) -> Cells:
        """
        Take prompts that share a value of a column, such as `note`, for one cluster.

        Raises:
            QueryError: There is no such column.
        """
        import polars as pl

        if column not in self.rows.columns:
            raise QueryError(f"no column {column!r}; {nearest(column, self.rows.columns)}")
        clusters = pl.col(column).cast(pl.String).fill_null(pl.col("cluster"))
        return replace(self, rows=self.rows.with_columns(clusters.alias("cluster")))


def read_cells(
    store: Store,
    traits: Sequence[str] | None = None,
    *,
    organisms: Sequence[str] | None = None,
    baseline: str = BASE_READER,
    where: str | None = None,
    any_pairing: bool = False,
) -> Cells:
    """
    Read the response scores of organisms; from stored means, so that hardly a token is read.

    Args:
        store: Where to look.
        traits: Vector references; every trait's chosen vector when None.
        organisms: Authors; all but the baseline, and the authors of scenarios, when None.
        baseline: Whom to compare with.
        where: SQL condition on `responses`.
        any_pairing: Keep organisms that differ from the baseline in precision, template or
            tokenizer.

    Raises:
        QueryError: There is no such organism or baseline, no vector, or nothing has been read.
        PairingError: An organism and the baseline differ in more than their weights.
    """
    vectors = find_vectors(store, traits)
    found = store.sql("SELECT DISTINCT organism, reader FROM responses").fetchall()
    authors, readers = ({row[place] for row in found} for place in (0, 1))
    if baseline not in authors | readers:
        raise QueryError(f"no baseline {baseline!r}; {nearest(baseline, authors)}")
    others = sorted(authors - {baseline, SCENARIO_AUTHOR})
    check_organisms(organisms or (), authors - {baseline})
    wanted = list(organisms or others)
    models = store.snapshot.models
    told = [note for name in wanted for note in check_alike(models, name, baseline, any_pairing)]
    frame, notes = _read_scores(store, vectors, wanted, baseline, where)
    cells = _assemble(frame, vectors, wanted, baseline)
    if not len(cells.rows):
        raise QueryError(
            f"none of {', '.join(wanted) or 'the organisms'} has read a response of its own",
            mend='capture own readings: readers = ["self", "base"]',
        )
    return replace(cells, notes=(*told, *notes))


def find_vectors(store: Store, traits: Sequence[str] | None) -> tuple[Vector, ...]:
    """
    Find vectors by their references; every trait's chosen vector when None.

    Raises:
        QueryError: There is none, or none of that name.
    """
    known = store.snapshot.vectors()
    names = traits if traits is not None else sorted({vector.trait for vector in known})
    if not names:
        raise QueryError("there are no vectors to compare by", mend="add one: store.add_vector(…)")
    massive = MassiveDims(store.snapshot)
    return tuple(resolve(name, None, known, massive).vector for name in names)


def _read_scores(
    store: Store,
    vectors: Sequence[Vector],
    organisms: Sequence[str],
    baseline: str,
    where: str | None,
) -> tuple[polars.DataFrame, tuple[str, ...]]:
    """Ask for the scores of these responses, by each reader, with what is known of the prompts."""
    names = {f"v{i}": vector.exact_name for i, vector in enumerate(vectors)}
    scores = ", ".join(f"project($v{i}) AS s{i}" for i in range(len(vectors)))
    several = ", ".join(map(quote, organisms)) or "NULL"
    sql = (
        "WITH r AS (SELECT organism, reader, prompt_set, prompt_id, sample, response_id, n_tokens, "
        f"finish_reason, {scores} FROM responses "
        f"WHERE (organism IN ({several}) AND (reader = organism OR reader = {quote(baseline)}) "
        f"OR organism = {quote(baseline)} AND reader IN ({quote(baseline)}, {several})) "
        f"AND NOT starts_with(prompt_set, {quote(SCENARIO_SETS)}){and_condition(where)}) "
        "SELECT r.*, p.note, p.tags FROM r LEFT JOIN prompts AS p USING (prompt_set, prompt_id) "
        "ORDER BY ALL"
    )
    result = store.sql(sql, names)
    return result.to_polars(), result.notes


def _assemble(
    frame: polars.DataFrame, vectors: Sequence[Vector], organisms: Sequence[str], baseline: str
) -> Cells:
    """Put the four readings of each response of the organisms side by side."""
    import polars as pl

    columns = [f"s{i}" for i in range(len(vectors))]
    # A reader may have read a response several times, at other layers each time.
    frame = frame.group_by("response_id", "reader", maintain_order=True).agg(
        pl.all().drop_nulls().first()
    )
    texts = frame.filter(pl.col("organism").is_in(list(organisms)))
    keys = ["organism", *_PLACE]
    rows = (
        texts.filter(pl.col("reader").is_in([baseline]) | (pl.col("reader") == pl.col("organism")))
        # The author's own reading says which tokens are under audit.
        .sort(pl.col("reader") != pl.col("organism"), maintain_order=True)
        .unique(subset=["response_id"], keep="first", maintain_order=True)
        .sort("organism", "prompt_set", pl.col("prompt_id").str.len_chars(), "prompt_id", "sample")
        .select(*keys, "response_id", "note", "tags", "n_tokens", "finish_reason")
    )
    answers = frame.filter(pl.col("organism") == baseline)

    def pick(source: polars.DataFrame, on: Sequence[str]) -> Scores:
        joined = rows.join(
            source.select(*on, *columns), on=list(on), how="left", maintain_order="left"
        )
        values = joined.select(columns).cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return np.asarray(values, dtype=np.float64).reshape(len(rows), len(columns))

    by_baseline = answers.filter(pl.col("reader") == baseline)
    by_reader = answers.join(by_baseline, on=["response_id", "n_tokens"], how="semi")
    by_reader = by_reader.drop("organism").rename({"reader": "organism"})
    return Cells(
        baseline=baseline,
        vectors=tuple(vectors),
        rows=rows.with_columns(
            family=pl.col("organism"),
            cluster=pl.concat_str("prompt_set", pl.lit("#"), "prompt_id"),
        ),
        own=pick(texts.filter(pl.col("reader") == pl.col("organism")), ["response_id"]),
        # Means over other tokens are no readings of the same text.
        replay=pick(texts.filter(pl.col("reader") == baseline), ["response_id", "n_tokens"]),
        base=pick(by_baseline, _PLACE),
        swapped=pick(by_reader, keys),
    )
