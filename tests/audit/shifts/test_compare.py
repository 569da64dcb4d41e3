"""`compare` gives the figures that the activations themselves give, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

import tistore
from departing_store import (
    HIDDEN,
    LAYERS,
    write_departing_store,
    write_store_of_odd_readings,
    write_store_of_partial_replays,
)
from tistore.audit.cells import read_cells
from tistore.audit.shifts.compare import CompareOptions, compare
from tistore.audit.shifts.layers import compare_layers
from tistore.errors import NotStoredError, PairingError, QueryError, VectorMismatchError
from tistore.schemas.model import Model
from tistore.store.segment import Segment

QUICK = CompareOptions(parts=("total", "model", "text"), resamples=200, directions=500)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_departing_store(tmp_path_factory.mktemp("compare") / "s.tistore")


@pytest.fixture(scope="module")
def found(made):
    return compare(made.store, "loud", layers="all", options=QUICK)


def pick(found, **wanted):
    rows = [row for row in found.rows if wanted.items() <= row.items()]
    assert len(rows) == 1, rows
    return rows[0]


SIDES = {"total": ("own", "base"), "model": ("own", "replay"), "text": ("replay", "base")}


@pytest.mark.parametrize("part", sorted(SIDES))
def test_effects_are_those_of_the_activations_that_went_in(made, found, part):
    first, second = (made.by_prompt(side, "tone/loud", 5) for side in SIDES[part])
    one = np.array([first[prompt] for prompt in first])
    other = np.array([second[prompt] for prompt in first])

    row = pick(found, trait="tone/loud", layer=5, part=part)

    paired = scipy.stats.ttest_rel(one, other).statistic / np.sqrt(24) * (1 - 3 / (4 * 23 - 1))
    welch = scipy.stats.ttest_ind(one, other, equal_var=False).statistic
    assert row["n_prompts"] == row["n_clusters"] == 24
    assert row["mean_difference"] == pytest.approx((one - other).mean(), abs=1e-5)
    assert row["paired"] == pytest.approx(paired, rel=1e-4, abs=1e-4)
    assert row["unpaired"] == pytest.approx(
        welch * np.sqrt(2 / 24) * (1 - 3 / (4 * 46 - 1)), rel=1e-4, abs=1e-4
    )
    assert row["organism_deviation"] == pytest.approx(one.std(ddof=1), rel=1e-4)
    assert row["baseline_mean"] == pytest.approx(other.mean(), rel=1e-4)
    assert row["paired_low"] < row["paired"] < row["paired_high"]


def test_scores_are_those_that_sql_gives(made, found):
    cells = read_cells(made.store, ["tone/loud@5", "tone/shy"], organisms=["loud"]).by_prompt()

    for at, trait in enumerate(["tone/loud", "tone/shy"]):
        for part, values in (("total", cells.total), ("model", cells.model_part)):
            row = pick(found, trait=trait, layer=5, part=part)
            assert row["mean_difference"] == pytest.approx(values[:, at].mean(), abs=1e-5)


def test_trait_interps_definitions_are_its_formulas(made):
    found = compare(
        made.store, "loud", traits=["tone/shy"],
        options=CompareOptions(definition="trait-interp", resamples=50, directions=50),
    )  # fmt: skip

    first, second = (made.by_prompt(side, "tone/shy", 5) for side in ("own", "replay"))
    one, other = (np.array([side[prompt] for prompt in first]) for side in (first, second))
    row = pick(found, part="model")
    spread = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
    assert row["definition"] == "trait-interp"
    assert row["unpaired"] == pytest.approx((one.mean() - other.mean()) / spread, rel=1e-3)
    assert row["paired"] == pytest.approx((one - other).mean() / (one - other).std(), rel=1e-3)


def test_the_cosine_is_that_of_the_mean_difference_of_the_activations(made, found):
    means = {
        side: np.mean(
            [
                np.mean([made.states[side, prompt, s][:, 1].mean(axis=0) for s in (0, 1)], axis=0)
                for prompt in made.by_prompt(side, "tone/loud", 5)
            ],
            axis=0,
        )
        for side in ("own", "replay", "base")
    }
    vector = made.store.vector("tone/loud@5").values

    for part, (first, second) in SIDES.items():
        shift = means[first] - means[second]
        expected = shift @ vector / np.linalg.norm(shift) / np.linalg.norm(vector)
        row = pick(found, trait="tone/loud", layer=5, part=part)
        assert row["cosine"] == pytest.approx(expected, abs=1e-3)


def test_each_layer_has_its_own_vector_where_there_is_one(made, found):
    assert {row["layer"] for row in found.rows} == set(LAYERS)
    assert pick(found, trait="tone/loud", layer=2, part="model")["vector"].endswith("@2")
    assert pick(found, trait="tone/shy", layer=2, part="model")["vector"].endswith("@5")
    alone = compare(made.store, "loud", traits=["loud"], options=QUICK)
    assert {row["layer"] for row in alone.rows} == {5}


def test_the_layer_with_the_largest_effect_of_a_trait_and_part_is_marked(found):
    for trait in ("tone/loud", "tone/shy"):
        for part in SIDES:
            rows = [row for row in found.rows if (row["trait"], row["part"]) == (trait, part)]
            marked = [row for row in rows if row["is_largest"]]
            assert len(marked) == 1
            assert abs(marked[0]["unpaired"]) == max(abs(row["unpaired"]) for row in rows)


def test_prompts_that_share_a_topic_make_few_clusters_and_no_interval(made):
    found = compare(
        made.store, "loud", traits=["shy"],
        options=CompareOptions(cluster="topic", resamples=50, directions=50),
    )  # fmt: skip

    assert {(row["n_prompts"], row["n_clusters"]) for row in found.rows} == {(24, 3)}
    assert found.rows[0]["paired_low"] is None
    assert any("too narrow" in note for note in found.notes)


def test_no_token_is_read(made, monkeypatch):
    def refuse(*arguments, **named):
        raise AssertionError("a token was read")

    monkeypatch.setattr(Segment, "read", refuse)
    monkeypatch.setattr(Segment, "stream", refuse)
    fresh = tistore.open(made.store.path)

    assert compare(fresh, "loud", options=QUICK).rows


def test_conditions_narrow_the_responses(made):
    found = compare(made.store, "loud", where="NOT contains(prompt_id, 'trigger')", options=QUICK)

    assert {row["n_prompts"] for row in found.rows} == {12}


def test_rows_are_flat_and_have_the_same_keys(found):
    keys = list(found.rows[0])

    assert all(list(row) == keys for row in found.rows)
    assert not any(isinstance(value, (list, dict)) for row in found.rows for value in row.values())
    assert not {"p", "q"} & set(keys)


def test_without_replays_the_model_part_is_said_to_be_missing(made):
    found = compare(made.store, "other", options=QUICK)

    assert {row["part"] for row in found.rows} == {"total"}
    assert any("no model part" in note for note in found.notes)


def test_what_is_not_there_is_refused_with_what_is(made):
    with pytest.raises(QueryError, match="'lout'.*loud"):
        compare(made.store, "lout")
    with pytest.raises(QueryError, match="baseline itself"):
        compare(made.store, "instruct")
    with pytest.raises(NotStoredError, match="layer 9.*2, 5"):
        compare(made.store, "loud", layers=[9])
    with pytest.raises(QueryError, match="text, total"):
        CompareOptions(parts=("whole",))
    with pytest.raises(QueryError, match="left to compare"):
        compare(made.store, "loud", where="prompt_id = 'nobody'")


def test_models_that_differ_in_precision_are_compared_only_when_that_is_asked_for(tmp_path):
    rng = np.random.default_rng(4)
    store = tistore.create(tmp_path / "mixed.tistore")
    with store.writer() as writer:
        for author in (Model("instruct", dtype="bfloat16"), Model("loud", dtype="float32")):
            for prompt in "123":
                writer.add(
                    organism=author, reader=author, prompt_set="a", prompt_id=prompt,
                    token_ids=[1, 2, 3], prompt_length=1, layers=[3],
                    activations={"residual": rng.standard_normal((3, 1, HIDDEN))},
                )  # fmt: skip
    store.add_vector("tone/loud", rng.standard_normal(HIDDEN), layer=3)

    with pytest.raises(PairingError, match="precision"):
        compare(store, "loud", options=QUICK)
    found = compare(store, "loud", any_pairing=True, options=QUICK)
    assert any("precision" in note for note in found.notes)


def test_a_vector_of_another_width_is_refused(tmp_path):
    made = write_departing_store(tmp_path / "s.tistore", n_prompts=6, samples=1)
    made.store.add_vector("tone/wide", np.ones(HIDDEN + 1), layer=5)

    with pytest.raises(VectorMismatchError, match="wide"):
        compare(made.store, "loud", traits=["wide"], options=QUICK)


def test_means_over_other_tokens_are_not_of_the_same_tokens_and_scenarios_are_no_audit(tmp_path):
    found = compare(write_store_of_odd_readings(tmp_path / "s.tistore"), "loud", options=QUICK)

    assert {row["part"]: row["n_prompts"] for row in found.rows} == {
        "total": 8,
        "model": 6,
        "text": 6,
    }


def test_a_part_compares_the_same_samples_on_both_sides(tmp_path):
    store = write_store_of_partial_replays(tmp_path / "s.tistore")

    model, layers = (
        compare(store, "loud", options=CompareOptions(parts=("model",))).rows,
        compare_layers(store, "loud", which="model").layers,
    )

    assert [row["mean_difference"] for row in (*model, *layers)] == [1.0, 1.0]
    assert model[0]["baseline_mean"] == pytest.approx(np.mean(np.arange(6) / 8) - 1)


def test_a_sample_read_twice_weighs_no_more_than_one_read_once(tmp_path):
    rng = np.random.default_rng(2)
    store = tistore.create(tmp_path / "s.tistore")
    means = {}
    with store.writer() as writer:
        for author in ("loud", "instruct"):
            for prompt in "123456":
                for sample in (0, 1):
                    states = np.float16(rng.standard_normal((8, 2, HIDDEN)))
                    means[author, prompt, sample] = states[2:, 1].astype(float).mean(axis=0)
                    for layers in ([2, 5], [5]) if sample == 0 else ([2, 5],):
                        writer.add(
                            organism=author, reader=author, prompt_set="a", prompt_id=prompt,
                            sample=sample, token_ids=[sample, *range(7)], prompt_length=2,
                            layers=layers, activations={"residual": states[:, -len(layers) :]},
                        )  # fmt: skip
    store.add_vector("tone/one", np.eye(HIDDEN)[0], layer=5)

    row = pick(compare(store, "loud", options=QUICK), part="total")

    scores = [np.mean([means["loud", p, s][0] for s in (0, 1)]) for p in "123456"]
    assert row["organism_mean"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert row["organism_deviation"] == pytest.approx(np.std(scores, ddof=1), abs=1e-5)
