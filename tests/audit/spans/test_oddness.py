"""Prompts at which an organism's traits are odd, all together: against SciPy and plants."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

import tistore
from tistore.audit.cells import Cells
from tistore.audit.spans.oddness import find_odd_prompts, rank_odd_prompts
from tistore.errors import QueryError
from tistore.schemas.vector import Vector

ORGANISMS, PROMPTS, TRAITS = 6, 60, 5


def make_cells(seed=0, organisms=ORGANISMS, prompts=PROMPTS, families=None):
    """Differences that share the prompt's part and the persona's, and correlate among traits."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((TRAITS, TRAITS))
    shared = 3 * rng.standard_normal((prompts, TRAITS)) + 5
    own = shared + rng.standard_normal((organisms, prompts, TRAITS)) @ mixing
    names = [f"o{place}" for place in range(organisms)]
    rows = pl.DataFrame(
        [
            {"organism": name, "family": (families or {}).get(name, name), "prompt_set": "set",
             "prompt_id": str(prompt), "sample": 0, "response_id": f"{name}-{prompt}",
             "note": None, "tags": None, "n_tokens": 9, "finish_reason": "stop",
             "cluster": str(prompt)}
            for name in names for prompt in range(prompts)
        ]
    )  # fmt: skip
    flat = own.reshape(-1, TRAITS)
    vectors = tuple(
        Vector(f"t/v{place}", np.eye(TRAITS, dtype=np.float32)[place], 1) for place in range(TRAITS)
    )
    nothing = np.full_like(flat, np.nan)
    return Cells("instruct", vectors, rows, flat, nothing, np.zeros_like(flat), nothing)


def change(cells, organism, prompts, shift):
    """Move an organism's scores at some prompts."""
    mask = (pl.col("organism") == organism) & pl.col("prompt_id").is_in(prompts)
    place = cells.rows.select(mask).to_series().to_numpy()
    cells.own[place] += shift
    return cells


def test_distances_are_scipys_from_the_others_medians():
    cells = make_cells()
    values = cells.own.reshape(ORGANISMS, PROMPTS, TRAITS)

    rows = rank_odd_prompts(cells, organism="o2", n=PROMPTS).rows

    def leave(organism):
        others = np.delete(values, organism, axis=0)
        return values[organism] - np.median(others, axis=0)

    reference = np.concatenate([leave(o) for o in range(ORGANISMS) if o != 2])
    scale = reference.std(axis=0)
    precision = np.linalg.inv(LedoitWolf().fit(reference / scale).covariance_)
    wanted = {
        str(prompt): mahalanobis(one / scale, np.zeros(TRAITS), precision)
        for prompt, one in enumerate(leave(2))
    }
    assert {row["prompt_id"]: row["distance"] for row in rows} == pytest.approx(wanted)
    assert [row["rank"] for row in rows] == list(range(1, PROMPTS + 1))
    assert all(one["distance"] >= other["distance"] for one, other in pairwise(rows))
    assert {row["n_reference"] for row in rows} == {(ORGANISMS - 1) * PROMPTS}


def test_prompts_with_a_plant_are_first_and_its_trait_is_named():
    """A shift that is nothing beside what all prompts share, and lies off the usual direction."""
    cells = change(make_cells(1), "o3", ["7", "20", "41"], [0, 0, 0, 9, 0])

    rows = rank_odd_prompts(cells, n=3).rows

    assert {(row["organism"], row["prompt_id"]) for row in rows} == {
        ("o3", "7"), ("o3", "20"), ("o3", "41"),
    }  # fmt: skip
    assert all(row["traits"].startswith("t/v3 +") for row in rows)
    assert all(row["percentile"] == 100 for row in rows)


def test_what_every_organism_does_at_a_prompt_is_not_odd():
    plain, moved = make_cells(2), make_cells(2)
    for name in moved.organisms:
        change(moved, name, ["5"], [50, -50, 0, 0, 50])

    assert [row["prompt_id"] for row in rank_odd_prompts(moved).rows] == [
        row["prompt_id"] for row in rank_odd_prompts(plain).rows
    ]


def test_variants_of_one_behaviour_do_not_hide_each_other():
    families = {"o0": "pair", "o1": "pair", "o2": "pair"}
    cells = make_cells(3, organisms=9, families=families)
    for name in families:
        change(cells, name, ["9"], [12, 0, 0, 0, 0])

    rows = rank_odd_prompts(cells, n=3).rows

    assert {(row["organism"], row["prompt_id"]) for row in rows} == {(n, "9") for n in families}


@pytest.mark.parametrize("organisms", [1, 2])
def test_without_others_an_organism_is_compared_with_itself(organisms):
    cells = change(make_cells(4, organisms=organisms), "o0", ["3"], [60, 0, 0, 0, 0])

    found = rank_odd_prompts(cells, organism="o0", n=1)

    assert found.rows[0]["prompt_id"] == "3"
    assert any("compared with each other" in note for note in found.notes)


def test_shares_make_up_the_squared_distance():
    row = rank_odd_prompts(make_cells(5), n=1).rows[0]

    parts = [part.rsplit(" ", 2) for part in row["traits"].split(", ")]
    for _, z, share in parts:
        percent = float(share.strip("(%)")) / 100
        assert float(z) ** 2 / row["distance"] ** 2 == pytest.approx(percent, abs=0.03)


def test_null_organisms_are_spread_over_the_percentiles():
    """Nobody is odd: about as many above each percentile as it says."""
    rows = rank_odd_prompts(make_cells(6, organisms=12), n=12 * PROMPTS).rows

    percentiles = np.array([row["percentile"] for row in rows])
    for percent in (50, 90):
        assert (percentiles > percent).mean() == pytest.approx(1 - percent / 100, abs=0.04)


@pytest.mark.parametrize("per_organism", [False, True])
def test_lists_are_of_all_or_of_each(per_organism):
    rows = rank_odd_prompts(make_cells(7), n=4, per_organism=per_organism).rows

    assert [row["rank"] for row in rows] == [1, 2, 3, 4] * (ORGANISMS if per_organism else 1)


def test_prompts_without_every_score_are_left_out_and_told():
    cells = make_cells(8)
    cells.own[3, 2] = np.nan

    found = rank_odd_prompts(cells, n=9999)

    assert len(found.rows) == ORGANISMS * PROMPTS - 1
    assert "1 prompts lack a score of some trait: left out" in found.notes


def test_it_reads_a_store_and_shows_what_was_asked_and_answered(truth):
    found = find_odd_prompts(truth.store, ["warm", "wary"], n=3, with_answer=True)

    texts = {
        (organism, prompt): text
        for organism, prompt, text in truth.store.sql(
            "SELECT organism, prompt_id, text FROM responses"
        ).fetchall()
    }
    assert len(found.rows) == 3
    for row in found.rows:
        assert row["text"] == texts[row["organism"], row["prompt_id"]]
        assert row["answer"] == texts["instruct", row["prompt_id"]]
        assert "tone/wa" in row["traits"]
    silent = find_odd_prompts(truth.store, ["warm", "wary"], n=3)
    assert all(row["text"] is row["answer"] is None for row in silent.rows)
    with pytest.raises(QueryError, match="did you mean 'hedge'"):
        find_odd_prompts(truth.store, organism="hegde")


def test_too_few_prompts_are_an_error(tmp_path):
    store = tistore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        for organism in ("a", "instruct"):
            writer.add(
                organism=organism, reader=organism, prompt_set="set", prompt_id="1",
                token_ids=[1, 2], prompt_length=0, layers=[1],
                activations={"residual": np.ones((2, 1, 1))},
            )  # fmt: skip
    store.add_vector("t/tone", np.ones(1), layer=1)

    with pytest.raises(QueryError, match="1 prompts do not tell what is usual"):
        find_odd_prompts(store)
