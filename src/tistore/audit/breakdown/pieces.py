"""Scores of pieces of responses, an organism's and a baseline's beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tistore.audit.breakdown.question import Question
from tistore.audit.cells import Cells
from tistore.audit.opponents import check_opponents, write_condition
from tistore.audit.prompt_clusters import label_clusters
from tistore.errors import QueryError
from tistore.query.massive import MassiveDims
from tistore.query.references import Direction, resolve
from tistore.schemas.vector import Vector

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store

_KEYS = ("organism", "reader", "prompt_set", "prompt_id", "sample", "response_id")
_PLACE = ("prompt_set", "prompt_id", "sample")
_AS_THEY_ARE = "SELECT * FROM once"
_COUNTS = ("n_tokens", "n_in_all", "n_turns")

POSITION_STEP = 100
"""Slopes along positions are told for so many tokens."""

FEWEST_TOKENS = 10
"""Shorter responses have no slope along positions."""


@dataclass(frozen=True, slots=True)
class Cut:
    """
    How readings are cut into pieces that have a score each.

    Attributes:
        relation: Whose rows are taken.
        names: Columns that tell a response's pieces apart.
        others: Further columns of a piece.
        steps: SQL of what is done with the rows, which are called `once`. {keys} stands for what a
            reading is known by; {average}, {slope} and {turn_slope} for what becomes of its scores.
        is_shared: Whether the baseline's own answers have the same pieces.
    """

    relation: str
    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    steps: str = _AS_THEY_ARE
    is_shared: bool = False


_NUMBERED = (
    "SELECT *, "
    "row_number() OVER (PARTITION BY response_id, reader ORDER BY position) - 1 AS place, "
    "dense_rank() OVER (PARTITION BY response_id, reader ORDER BY turn) AS assistant_turn "
    "FROM once"
)
_TURNS = (
    f"SELECT {{keys}}, assistant_turn, count(*) AS n_tokens, {{average}} "
    f"FROM ({_NUMBERED}) GROUP BY ALL"
)
_AUDITED = ("position", "turn")

RESPONSES = Cut("responses", (), ("n_tokens",), is_shared=True)
TOKENS = Cut("tokens", ("position",), ("turn", "token"))
CLAUSES = Cut("clauses", ("token_start",), ("clause", "token_end", "n_tokens", "text"))
TURNS = Cut("tokens", ("assistant_turn",), ("n_tokens",), _TURNS, is_shared=True)
POSITION_SLOPES = Cut(
    "tokens",
    (),
    ("n_tokens",),
    f"SELECT {{keys}}, count(*) AS n_tokens, {{slope}} FROM ({_NUMBERED}) GROUP BY ALL "
    f"HAVING count(*) >= {FEWEST_TOKENS}",
    is_shared=True,
)
TURN_SLOPES = Cut(
    "tokens",
    (),
    ("n_turns",),
    f"SELECT {{keys}}, count(*) AS n_turns, {{turn_slope}} FROM ({_TURNS}) GROUP BY ALL "
    "HAVING count(*) >= 2",
    is_shared=True,
)


def cut_stretches(bin_tokens: int) -> Cut:
    """Cut responses into stretches of so many tokens; `n_in_all` is the length of the response."""
    return Cut(
        "tokens",
        ("stretch",),
        ("n_tokens", "n_in_all"),
        f"SELECT {{keys}}, place // {bin_tokens} AS stretch, count(*) AS n_tokens, n_in_all, "
        "{average} FROM (SELECT *, count(*) OVER (PARTITION BY response_id, reader) AS n_in_all "
        f"FROM ({_NUMBERED})) GROUP BY ALL",
        is_shared=True,
    )


def _find_directions(store: Store, traits: Sequence[str] | None) -> list[Direction]:
    """
    Find what references mean; every trait's own vector when None.

    Raises:
        QueryError: There are none.
    """
    known = store.snapshot.vectors()
    names = traits if traits is not None else sorted({vector.trait for vector in known})
    if not names:
        raise QueryError("there are no vectors to compare by", mend="add one: store.add_vector(…)")
    massive = MassiveDims(store.snapshot)
    found = [resolve(name, None, known, massive) for name in names]
    # The same vector may have been asked for by several names.
    return list({id(one.vector): one for one in found}.values())


def read_pieces(store: Store, question: Question, cut: Cut) -> Cells:
    """
    Score the pieces of an organism's responses by both readers, and those of the baseline's.

    Returns:
        A row a piece; none where no response has any. `rows` have `prompt_set, prompt_id, sample,
        response_id, note, tags, cluster` and the columns of the cut; where the pieces are shared,
        those of the baseline's own answer as `base_…`, too.

    Raises:
        QueryError: There is no such organism, baseline or vector.
        PairingError: The two differ in more than their weights.
    """
    notes = check_opponents(store, question.organism, question.baseline, question.any_pairing)
    directions = _find_directions(store, question.traits)
    vectors = tuple(direction.vector for direction in directions)
    remarks = [direction.remark for direction in directions if direction.remark]
    names = {f"v{at}": one.exact_name for at, one in enumerate(vectors)}
    result = store.sql(_write_sql(question, cut, len(vectors)), names)
    frame = result.to_polars().filter(~_is_empty(len(vectors)))
    prompts = _list_prompts(store)
    cells = _assemble(frame, prompts, question, cut, vectors)
    return replace(cells, notes=tuple(dict.fromkeys((*notes, *remarks, *result.notes))))


def require_pieces(cells: Cells, question: Question) -> Cells:
    """
    Give the cells back if there are any.

    Raises:
        QueryError: There are none.
    """
    if len(cells.rows):
        return cells
    raise QueryError(
        f"nothing of {question.organism!r} is left to compare",
        mend="take other conditions" if question.where else "capture own readings and replays",
    )


def _list_prompts(store: Store) -> polars.DataFrame:
    import polars as pl

    table = store.snapshot.table("prompts").select(["prompt_set", "prompt_id", "note", "tags"])
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.unique(["prompt_set", "prompt_id"], keep="last")


def _is_empty(n_vectors: int) -> polars.Expr:
    import polars as pl

    return pl.all_horizontal(pl.col(f"s{at}").is_null() for at in range(n_vectors))


def _write_sql(question: Question, cut: Cut, n_vectors: int) -> str:
    columns = _AUDITED if cut.steps != _AS_THEY_ARE else (*cut.names, *cut.others)
    keys, listed = ", ".join(_KEYS), ", ".join(columns)
    scores = [f"s{at}" for at in range(n_vectors)]
    projected = ", ".join(f"project($v{at}) AS s{at}" for at in range(n_vectors))
    condition = write_condition(question.organism, question.baseline, question.where)
    if cut.relation == "tokens":
        condition += "\n  AND is_response"
    # A reader may have read a response several times, at other layers each time.
    by, others = columns[:1], ", ".join(f"any_value({name}) AS {name}" for name in columns[1:])
    once = ", ".join(f"any_value({name}) AS {name}" for name in scores)
    steps = cut.steps.format(
        keys=keys,
        average=", ".join(f"avg({name}) AS {name}" for name in scores),
        slope=", ".join(
            f"{POSITION_STEP} * regr_slope({name}, place) AS {name}" for name in scores
        ),
        turn_slope=", ".join(f"regr_slope({name}, assistant_turn) AS {name}" for name in scores),
    )
    return (
        f"WITH scored AS (\n  SELECT {keys}, {listed}, {projected}\n  FROM {cut.relation} "
        f"WHERE {condition}\n), once AS (\n  SELECT {keys}, {by[0]}, {others}, {once} FROM scored "
        f"GROUP BY {keys}, {by[0]}\n)\n{steps}"
    )


def _assemble(
    frame: polars.DataFrame,
    prompts: polars.DataFrame,
    question: Question,
    cut: Cut,
    vectors: Sequence[Vector],
) -> Cells:
    """Put the readings of each piece side by side."""
    import polars as pl

    columns = [f"s{at}" for at in range(len(vectors))]
    same = ["response_id", *cut.names]
    is_text = pl.col("organism") == question.organism
    texts = frame.filter(is_text)
    rows = (
        texts.sort(pl.col("reader") != question.organism, maintain_order=True)
        .unique(subset=same, keep="first", maintain_order=True)
        .select("organism", *_PLACE, *same, *cut.others)
        .sort("prompt_set", pl.col("prompt_id").str.len_chars(), "prompt_id", "sample", *cut.names)
        .join(prompts, on=["prompt_set", "prompt_id"], how="left", maintain_order="left")
    )
    rows = label_clusters(rows, question.cluster)
    answers = frame.filter(~is_text)
    alike = [*_PLACE, *cut.names]

    def pick(source: polars.DataFrame, on: Sequence[str]) -> NDArray[np.float64]:
        joined = rows.join(source.select(*on, *columns), on=list(on), how="left",
                           maintain_order="left")  # fmt: skip
        values = joined.select(columns).cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return np.asarray(values, dtype=np.float64).reshape(len(rows), len(columns))

    own = pick(texts.filter(pl.col("reader") == question.organism), same)
    nothing = np.full_like(own, np.nan)
    base = pick(answers, alike) if cut.is_shared else nothing
    if cut.is_shared:
        renamed = {name: f"base_{name}" for name in cut.others}
        of_base = answers.select(*alike, *cut.others).rename(renamed)
        rows = rows.join(of_base, on=alike, how="left", maintain_order="left")
    # Means of the same text over other tokens under audit are not of the same tokens.
    counted = [name for name in cut.others if name in _COUNTS]
    replay = pick(texts.filter(pl.col("reader") == question.baseline), [*same, *counted])
    return Cells(question.baseline, tuple(vectors), rows, own, replay, base, nothing)
