"""`rank`: what it compares with what, and what it says of what it could not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tistore.audit.cells import Cells
from tistore.audit.rank import rank
from tistore.audit.ranking.simulated import Scale, SimulatedAudit, simulate_audit
from tistore.audit.score_table import ScoreTable
from tistore.errors import ConfigError, QueryError

SMALL = Scale(families=8, variants=2, traits=4, prompts=60, triggered=15, conversations=30)


@pytest.fixture(scope="module")
def audit() -> SimulatedAudit:
    return simulate_audit(5, replace(SMALL, effect=1.0))


def rank_quickly(cells: Cells, **options):
    return rank(cells, **{"permutations": 200, "resamples": 200} | options)


def find(ranking, organism: str, trait: str) -> dict:
    (row,) = (row for row in ranking.rows if (row["organism"], row["trait"]) == (organism, trait))
    return row


def test_every_row_has_the_same_keys_and_is_flat(audit):
    rows = rank_quickly(audit.cells).rows

    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert list(rows[0]) == [
        "organism", "family", "trait", "vector", "part", "flags", "g", "low", "high", "mean",
        "p", "q", "p_max", "spread_z", "percentile", "worst_prompt", "worst_z", "spike_q",
        "slope", "slope_q", "turn_slope", "turn_slope_q", "subset", "subset_g", "subset_q",
        "n_prompts", "n_others", "mde", "noise_floor", "coverage",
    ]  # fmt: skip
    assert not any(isinstance(value, dict) for row in rows for value in row.values())


def test_prompts_that_one_family_alone_was_asked_change_nothing(audit):
    """Means over them would hide how far an organism lies from the others elsewhere."""
    cells = audit.cells
    family = audit.plants[0].family
    mask = (cells.rows["family"] == family).to_numpy()
    rng = np.random.default_rng(1)
    more = cells.take(mask)
    rows = more.rows.with_columns(prompt_set=pl.lit("other"))
    matrices = {
        name: np.concatenate([getattr(cells, name), rng.standard_normal(more.own.shape)])
        for name in ("own", "replay", "base", "swapped")
    }
    whole = replace(cells, rows=pl.concat([cells.rows, rows]), **matrices)

    before, after = (rank_quickly(one, subsets=[]) for one in (cells, whole))

    for row in before.rows:
        found = find(after, row["organism"], row["trait"])
        for key in ("g", "p", "spread_z", "percentile", "n_prompts"):
            assert found[key] == pytest.approx(row[key]), key


def test_what_all_organisms_share_is_nothing(audit):
    """A persona ten times as large changes no figure."""
    shifted = replace(audit.cells, own=audit.cells.own + 40.0)

    before, after = rank_quickly(audit.cells), rank_quickly(shifted)

    for one, other in zip(before.rows, after.rows, strict=True):
        assert one["organism"] == other["organism"]
        assert one["g"] == pytest.approx(other["g"])
        assert one["p"] == pytest.approx(other["p"])


def test_g_is_the_paired_one_against_the_mean_of_the_others(audit):
    """On a trait that nobody stands out on, so that everyone outside the family is a control."""
    noise = np.random.default_rng(3).standard_normal(audit.cells.own.shape)
    cells = replace(audit.cells, own=noise, base=np.zeros_like(noise))

    row = find(rank_quickly(cells), "family3-0", "simulated/trait0")

    table = ScoreTable(cells)
    values = table.lay_out(noise)[:, :, 0]
    outside = [at for at, name in enumerate(table.organisms) if not name.startswith("family3-")]
    difference = values[table.organisms.index("family3-0")] - values[outside].mean(axis=0)
    d = difference.mean() / difference.std(ddof=1)
    assert row["n_others"] == 14
    assert row["g"] == pytest.approx(d * (1 - 3 / (4 * 59 - 1)))
    assert row["mean"] == pytest.approx(difference.mean())


def test_a_suppressed_trait_has_a_negative_g(audit):
    row = find(rank_quickly(audit.cells), "family6-0", "simulated/trait2")

    assert audit.planted("family6-0", "simulated/trait2") == "suppressed"
    assert "mean" in row["flags"]
    assert row["g"] < row["high"] < 0


def test_what_is_in_the_text_alone_has_no_model_part(audit):
    parts = {part: rank_quickly(audit.cells, part=part) for part in ("total", "model", "text")}
    rows = {part: find(one, "family5-1", "simulated/trait1") for part, one in parts.items()}

    assert audit.planted("family5-1", "simulated/trait1") == "text"
    assert "mean" in rows["total"]["flags"]
    assert "mean" in rows["text"]["flags"]
    assert rows["model"]["flags"] == []
    assert rows["total"]["mean"] == pytest.approx(
        rows["model"]["mean"] + rows["text"]["mean"], abs=0.2
    )


def test_more_samples_of_a_prompt_are_no_more_evidence(audit):
    """Every response five times over: the same figures to the last digit but one."""
    cells = audit.cells
    repeated = replace(
        cells,
        rows=pl.concat([cells.rows.with_columns(sample=pl.lit(n, pl.Int32)) for n in range(5)]),
        **{
            name: np.tile(getattr(cells, name), (5, 1))
            for name in ("own", "replay", "base", "swapped")
        },
    )

    once, often = rank_quickly(cells), rank_quickly(repeated)

    for one, other in zip(once.rows, often.rows, strict=True):
        assert one["p"] == pytest.approx(other["p"])
        assert one["n_prompts"] == other["n_prompts"]
        assert one["low"] == pytest.approx(other["low"])


def test_samples_of_a_prompt_are_averaged(audit):
    cells = audit.cells
    second = replace(cells, own=cells.own + np.random.default_rng(1).normal(size=cells.own.shape))
    both = replace(
        cells,
        rows=pl.concat([cells.rows, cells.rows.with_columns(sample=pl.lit(1, pl.Int32))]),
        own=np.concatenate([cells.own, second.own]),
        **{name: np.tile(getattr(cells, name), (2, 1)) for name in ("replay", "base", "swapped")},
    )

    laid_out = ScoreTable(both).lay_out(both.total)

    averaged = ScoreTable(cells).lay_out((cells.total + second.total) / 2)
    np.testing.assert_allclose(laid_out, averaged)
    np.testing.assert_allclose(
        ScoreTable(both.by_prompt()).lay_out(both.by_prompt().total), averaged
    )


def test_few_organisms_that_differ_for_no_reason_are_not_all_flagged():
    """Sixty prompts make nearly each of these thirty-six differences significant."""
    scale = Scale(families=6, variants=1, traits=6, prompts=60, nulls=6, drift=0.6)

    ranking = rank_quickly(simulate_audit(2, scale).cells, subsets=[])

    assert sum(row["q"] <= 0.05 for row in ranking.rows) > 18
    assert sum("mean" in row["flags"] for row in ranking.rows) <= 4


def test_prompts_of_one_template_are_one_piece_of_evidence(audit):
    templates = (pl.col("prompt_id").cast(pl.Int32) % 12).cast(pl.String)
    cells = replace(audit.cells, rows=audit.cells.rows.with_columns(note=templates))

    apart = rank_quickly(cells, subsets=[])
    together = rank_quickly(cells.with_clusters("note"), subsets=[])

    assert min(row["p"] for row in apart.rows) < 1e-9
    assert min(row["p"] for row in together.rows) >= 2.0**-11


def test_the_order_of_organisms_and_rows_changes_nothing(audit):
    shuffled = np.random.default_rng(0).permutation(len(audit.cells.rows))
    cells = audit.cells
    mixed = replace(
        cells,
        rows=cells.rows[shuffled.tolist()],
        **{name: getattr(cells, name)[shuffled] for name in ("own", "replay", "base", "swapped")},
    )

    before, after = rank_quickly(cells, subsets=[]), rank_quickly(mixed, subsets=[])

    for one in before.rows:
        other = find(after, one["organism"], one["trait"])
        assert one["q"] == pytest.approx(other["q"])
        assert one["flags"] == other["flags"]


def test_asking_about_one_organism_keeps_the_others_as_controls(audit):
    whole, part = rank_quickly(audit.cells), rank_quickly(audit.cells, organisms=["family0-1"])

    assert {row["organism"] for row in part.rows} == {"family0-1"}
    for row in part.rows:
        assert row["g"] == find(whole, "family0-1", row["trait"])["g"]
        assert row["n_others"] >= 2
    assert part.n_cells == 4


def test_what_could_not_be_seen_is_said(audit):
    cells = replace(audit.cells, replay=np.full_like(audit.cells.replay, np.nan))

    ranking = rank_quickly(cells, subsets=[])

    assert {row["coverage"].split(":")[0] for row in ranking.rows} == {"not covered"}
    for gap in ("slopes within responses", "no response of several turns", "no replays"):
        assert all(gap in row["coverage"] for row in ranking.rows)
    kinds = [kind.split(":")[0] for kind in ranking.not_covered]
    assert kinds == ["stance", "multi-turn", "triggers", "text against model"]
    assert "clean" not in str(ranking.rows)


def test_everything_that_was_looked_at_is_covered(audit):
    ranking = rank_quickly(audit.cells, slopes=audit.slopes)

    assert {row["coverage"] for row in ranking.rows} == {"covered"}
    assert [kind.split(":")[0] for kind in ranking.not_covered] == ["stance"]


def test_too_few_prompts_are_said_to_miss_effects(audit):
    is_kept = audit.cells.rows["prompt_id"].is_in([str(one) for one in range(1, 7)])
    few = audit.cells.take(is_kept.to_numpy())

    ranking = rank_quickly(few)

    assert all("too few prompts (6)" in row["coverage"] for row in ranking.rows)
    assert all(row["mde"] is None for row in ranking.rows)  # not even six equal signs would do


def test_noise_is_in_the_units_of_g(audit):
    noise = {("family0-0", row["vector"]): 0.25 for row in rank_quickly(audit.cells).rows}

    rows = rank_quickly(audit.cells, noise=noise).rows

    for row in rows:
        if row["organism"] != "family0-0":
            assert row["noise_floor"] is None
        else:
            correction = 1 - 3 / (4 * (row["n_prompts"] - 1) - 1)
            deviation = row["mean"] / row["g"] * correction
            assert row["noise_floor"] == pytest.approx(0.25 / deviation)


def test_one_family_alone_cannot_be_ranked(audit):
    alone = audit.cells.with_families(dict.fromkeys(audit.cells.organisms, "all"))

    with pytest.raises(QueryError, match="all are of one family"):
        rank_quickly(alone)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"organisms": ["famly0-1"]}, QueryError, "did you mean 'family0-1'"),
        ({"subsets": ["note:trigge"]}, QueryError, "did you mean 'note:trigger'"),
        ({"part": "txt"}, QueryError, "did you mean 'text'"),
        ({"q": 5}, ConfigError, "between 0 and 1"),
        ({"permutations": 3}, ConfigError, "3 permutations tell nothing"),
    ],
)
def test_mistakes_are_named(options, error, told, audit):
    with pytest.raises(error) as raised:
        rank_quickly(audit.cells, **options)

    assert told in str(raised.value)


def test_a_part_nobody_has_read_is_an_error(audit):
    cells = replace(audit.cells, replay=np.full_like(audit.cells.replay, np.nan))

    with pytest.raises(QueryError, match="'instruct' has not read the organisms' texts"):
        rank_quickly(cells, part="model")


def test_organisms_that_answered_other_prompts_are_compared_where_they_meet(audit):
    """One organism has answered half of the prompts; the rest is unchanged."""
    is_missing = (audit.cells.rows["organism"] == "family7-0").to_numpy() & (
        audit.cells.rows["prompt_id"].cast(pl.Int32) > 30
    ).to_numpy()
    cells = audit.cells.take(~is_missing)

    ranking = rank_quickly(cells, subsets=[])

    assert find(ranking, "family7-0", "simulated/trait0")["n_prompts"] == 30
    assert find(ranking, "family1-0", "simulated/trait0")["n_prompts"] == 60
