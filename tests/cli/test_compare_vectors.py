"""`tistore vectors compare` and `lens`: what a user types and sees."""

from __future__ import annotations

import numpy as np
import pytest

from audited_store import write_audited_store
from command_line import rows, run
from lens_store import write_lens_store
from scenario_store import HIDDEN, write_scenario_store
from tistore.errors import ConfigError, NotStoredError, QueryError, VectorMismatchError
from tistore.vectors.comparing.kernel_alignment import linear_cka


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "s.tistore"
    written = write_scenario_store(path, ["tone/warm", "tone/cold"])
    for trait in ("tone/warm", "tone/cold"):
        for layer in (2, 5):
            written.add_mean_difference(trait, layer, separation=float(layer))
    return written


def test_traits_are_laid_out_as_a_square_for_people_and_as_pairs_for_programs(written):
    table = run("vectors", "compare", written.store.path).stdout
    (pair,) = rows("vectors", "compare", written.store.path)

    warm, cold = (written.store.vector(f"{name}@5").values for name in ("warm", "cold"))
    cosine = warm @ cold / np.linalg.norm(warm) / np.linalg.norm(cold)
    assert pair["cosine"] == pytest.approx(cosine, abs=1e-6)
    assert (pair["first"], pair["second"]) == ("tone/cold:mean_diff@5", "tone/warm:mean_diff@5")
    assert f"{cosine:+.2f}" in table and "+1.00" in table and "warm" in table


def test_layers_are_compared_within_each_trait(written):
    found = rows("vectors", "compare", written.store.path, "warm", "--between", "layers")

    assert [(row["first_layer"], row["second_layer"]) for row in found] == [(2, 5)]
    assert found[0]["is_drop"] is False
    table = run("vectors", "compare", written.store.path, "--between", "layers").stdout
    assert "2 | 5" in table and table.count("tone/") == 2


def test_activations_are_compared_by_cka_of_the_scenarios(written):
    (found,) = rows(
        "vectors", "compare", written.store.path, "warm", "--between", "layers", "--cka"
    )

    sides = [
        np.concatenate(
            [written.rows["tone/warm", side, layer] for side in ("positive", "negative")]
        )
        for layer in (2, 5)
    ]
    assert found["cka"] == pytest.approx(linear_cka(*sides), abs=1e-6)
    assert (found["first"], found["second"], found["n_rows"]) == ("residual@2", "residual@5", 40)


def test_questions_that_make_no_sense_say_what_would(written):
    path = written.store.path
    for arguments, error, words in (
        (["--cka", "--between", "layers"], ConfigError, "needs a trait"),
        (["warm", "--cka", "--between", "methods"], ConfigError, "do not differ between methods"),
        (["warm", "--cka", "--shift", "x"], ConfigError, "two questions"),
        (["warm", "--cka", "--between", "models"], QueryError, "no two of which differ in model"),
        (["warm", "--cka", "--between", "models"], QueryError, "--reader instruct --reader"),
        (["warm", "--cka", "--between", "layers", "--layer", "2"], QueryError, "at 1 places"),
        (["warn", "--between", "layers"], NotStoredError, "did you mean|there are"),
        (["--between", "stream"], QueryError, "no vector of a component"),
    ):
        done = run("vectors", "compare", path, *arguments)
        assert isinstance(done.exception, error), arguments
        with pytest.raises(error, match=words):
            raise done.exception


def test_a_shift_is_compared_with_every_trait_largest_first(tmp_path):
    store, _ = write_audited_store(tmp_path / "s")

    found = rows("vectors", "compare", store.path, "--shift", "flattery")

    assert {row["vector"].partition(":")[0] for row in found} == {
        "tone/flattery",
        "tone/hedging",
        "tone/early",
    }
    sizes = [abs(row["cosine"]) for row in found]
    assert sizes == sorted(sizes, reverse=True)


def test_a_vector_is_put_into_words(tmp_path):
    store, _, heads = write_lens_store(tmp_path / "s")

    found = rows("vectors", "lens", store.path, "early", "-k", "3")

    assert [(row["raised"], row["rank"]) for row in found] == [
        (raised, rank) for raised in (True, False) for rank in (1, 2, 3)
    ]
    head, values, _ = heads["instruct"]
    unit = store.vector("early").values.astype(np.float64)
    logits = values @ (unit / np.sqrt((unit**2).mean()) * (head.norm_weight + head.weight_offset))
    assert [row["token_id"] for row in found[:3]] == list(np.argsort(-logits)[:3])
    table = run("vectors", "lens", store.path, "early", "-k", "3").stdout
    assert f"'{found[0]['token']}' {found[0]['logit']:+.2f}" in table


def test_a_vector_without_a_head_says_how_to_keep_one(written, tmp_path):
    done = run("vectors", "lens", written.store.path, "warm")

    assert isinstance(done.exception, NotStoredError)
    assert "tistore lens STORE --heads" in str(done.exception)
    store, _, _ = write_lens_store(tmp_path / "s")
    store.add_vector("tone/wide", np.ones(HIDDEN), layer=2)
    assert isinstance(run("vectors", "lens", store.path, "wide").exception, VectorMismatchError)
