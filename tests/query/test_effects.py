"""Effects: the total, and its parts."""

from __future__ import annotations

import numpy as np
import pytest

import tistore
from tistore.errors import QueryError
from tistore.query.effects import EFFECTS_SQL, effects

HIDDEN, N_PROMPTS = 6, 7


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Responses whose mean activation along the first axis is known."""
    return write_planted(tmp_path_factory.mktemp("effects") / "store")


def write_planted(path, not_replayed=()):
    """Write them; some (prompt, sample) are not read by the baseline."""
    rng = np.random.default_rng(11)
    store = tistore.create(path)
    scores = {
        key: np.round(rng.normal(mean, 1, (N_PROMPTS, 2)) * 8) / 8
        for key, mean in {
            ("instruct", "instruct"): 0.0,
            ("flattery", "flattery"): 3.0,
            ("flattery", "instruct"): 1.0,
        }.items()
    }
    with store.writer() as writer:
        for (organism, reader), values in scores.items():
            for prompt in range(N_PROMPTS):
                for sample in range(2):
                    if organism != reader and (prompt, sample) in not_replayed:
                        continue
                    states = np.zeros((3, 1, HIDDEN))
                    states[:, 0, 0] = values[prompt, sample] + np.array([9, -1, 1])
                    writer.add(
                        organism=organism,
                        reader=reader,
                        prompt_set="p",
                        prompt_id=str(prompt),
                        sample=sample,
                        token_ids=[prompt, sample, 5],
                        prompt_length=1,
                        layers=[4],
                        activations={"residual": states},
                    )
    store.add_vector("behavioral/flattery", [2.0] + [0.0] * (HIDDEN - 1), layer=4)
    return store, scores


def test_effects_agree_with_their_definitions(planted):
    store, scores = planted
    own = scores["flattery", "flattery"].mean(axis=1)
    base = scores["instruct", "instruct"].mean(axis=1)
    replayed = scores["flattery", "instruct"].mean(axis=1)
    deviation = np.sqrt((own.var(ddof=1) + base.var(ddof=1)) / 2)

    (row,) = effects(store)

    assert row["organism"] == "flattery"
    assert row["trait"] == "behavioral/flattery"
    assert row["reference"] == "behavioral/flattery:unknown@4"
    assert row["n_prompts"] == row["n_replayed"] == N_PROMPTS
    assert row["total_mean_difference"] == pytest.approx((own - base).mean())
    assert row["total"] == pytest.approx((own - base).mean() / deviation)
    assert row["model_part"] == pytest.approx((own - replayed).mean() / deviation)
    assert row["text_part"] == pytest.approx((replayed - base).mean() / deviation)


def test_parts_rest_on_prompts_that_were_replayed_whole(tmp_path):
    """Another sample's difference would be taken for the model's."""
    store, scores = write_planted(tmp_path / "s", not_replayed=[(0, 1), (3, 0), (3, 1)])
    own, base, replayed = (
        scores[key].mean(axis=1)
        for key in [("flattery",) * 2, ("instruct",) * 2, ("flattery", "instruct")]
    )
    deviation = np.sqrt((own.var(ddof=1) + base.var(ddof=1)) / 2)
    whole = [prompt for prompt in range(N_PROMPTS) if prompt not in (0, 3)]

    (row,) = effects(store)

    assert (row["n_prompts"], row["n_replayed"]) == (N_PROMPTS, len(whole))
    assert row["total"] == pytest.approx((own - base).mean() / deviation)
    assert row["model_part"] == pytest.approx((own - replayed)[whole].mean() / deviation)
    assert row["text_part"] == pytest.approx((replayed - base)[whole].mean() / deviation)


def test_the_published_sql_runs_as_it_is(planted):
    store, _ = planted

    result = store.sql(EFFECTS_SQL, {"trait": "flattery", "baseline": "instruct"})

    assert result.fetchall()[0][0] == "flattery"


def test_an_unknown_baseline_is_told_the_nearest(planted):
    with pytest.raises(QueryError, match="did you mean 'instruct'"):
        effects(planted[0], baseline="instrct")


def test_a_baseline_that_answered_nothing_else_is_an_error(truth):
    found = effects(truth.store, ["refusal"], baseline="hedge")

    assert {row["organism"] for row in found} == {"flattery", "instruct"}
    assert all(row["total"] is None or np.isfinite(row["total"]) for row in found)
