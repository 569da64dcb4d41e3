"""A difference is measured at every stored layer, and prompts are compared between layers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from made_store import make_store
from tistore.audit.shifts.layers import compare_layers, correlate_prompts
from tistore.errors import QueryError, VectorMismatchError

FEW = {"resamples": 200}
SIDES = {
    "total": (("shy", "shy"), ("instruct", "instruct")),
    "model": (("shy", "shy"), ("shy", "instruct")),
    "text": (("shy", "instruct"), ("instruct", "instruct")),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("layers") / "s.tistore")


@pytest.mark.parametrize("part", sorted(SIDES))
def test_each_layer_has_its_effect_and_its_agreement_with_the_vectors_own(made, part):
    found = compare_layers(made.store, "shy", traits=["tone/first"], which=part, **FEW)

    first, second = SIDES[part]
    differences = {
        layer: (made.means(*first, layer) - made.means(*second, layer))[:, 0] for layer in (1, 3)
    }
    assert [row["layer"] for row in found.layers] == [1, 3]
    assert [row["is_own"] for row in found.layers] == [False, True]
    for row in found.layers:
        values = differences[row["layer"]]
        assert row["mean_difference"] == pytest.approx(values.mean(), rel=1e-5)
        g = values.mean() / values.std(ddof=1) * (1 - 3 / (4 * 4 - 1))
        assert row["g"] == pytest.approx(g, rel=1e-5)
        assert row["low"] < values.mean() < row["high"]
        assert row["r_own"] == pytest.approx(pearsonr(values, differences[3])[0], rel=1e-5)
    (pair,) = found.pairs
    assert (pair["layer"], pair["other_layer"], pair["n_prompts"]) == (1, 3, 5)
    assert pair["r"] == pytest.approx(pearsonr(differences[1], differences[3])[0], rel=1e-5)


def test_the_vector_fitted_at_a_layer_is_used_there(tmp_path):
    made = make_store(tmp_path / "s.tistore")
    for axis, layer, separation in ((2, 1, 0.1), (0, 3, 0.9)):
        made.store.add_vector(
            "tone/third", np.eye(3)[axis], layer=layer, method="probe", separation=separation
        )

    found = compare_layers(made.store, "loud", traits=["tone/third"], **FEW)

    early = next(row for row in found.layers if row["layer"] == 1)
    difference = made.means("loud", "loud", 1) - made.means("instruct", "instruct", 1)
    assert early["vector"] == "tone/third:probe@1"
    assert early["mean_difference"] == pytest.approx(difference[:, 2].mean(), rel=1e-5)


def test_correlations_need_three_prompts_and_some_spread():
    nan = np.nan
    assert correlate_prompts(np.array([1, 2, nan]), np.array([1, 2, 3.0])) is None
    assert correlate_prompts(np.array([1.0, 1, 1]), np.array([1, 2, 3.0])) is None
    assert correlate_prompts(np.array([1, 2, 3, nan]), np.array([3, 2, 1, 5.0])) == -1


def test_what_cannot_be_compared_is_an_error(made):
    with pytest.raises(QueryError, match="no part 'modal'; did you mean 'model'"):
        compare_layers(made.store, "shy", which="modal")
    with pytest.raises(QueryError, match="the baseline itself"):
        compare_layers(made.store, "instruct")


def test_a_vector_of_another_width_is_refused(tmp_path):
    made = make_store(tmp_path / "s.tistore")
    made.store.add_vector("tone/wide", np.ones(4), layer=3)

    with pytest.raises(VectorMismatchError, match="is 4 wide"):
        compare_layers(made.store, "shy", traits=["tone/wide"], **FEW)
