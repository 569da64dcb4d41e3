"""The feature machine, against xrfm used without our span, and without xrfm."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from drawn_contrasts import change, cosine, draw_contrast
from tistore.errors import ConfigError, FitError
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods import feature_machine
from tistore.vectors.methods.feature_machine import fit_feature_machine


def fit_whole_rows(contrast: Contrast, held_out: np.ndarray) -> np.ndarray:
    """Trait-interp's recipe, on all dimensions and in float64."""
    xrfm = pytest.importorskip("xrfm")
    from xrfm.rfm_src.class_conversion import ClassificationConverter

    rows = np.vstack([contrast.positive, contrast.negative])
    labels = np.repeat([1.0, 0.0], [len(contrast.positive), len(contrast.negative)])[:, None]
    found = []
    for bandwidth in (1.0, 10.0, 100.0):
        for center_grads in (True, False):
            model = xrfm.RFM(
                kernel="l2_high_dim",
                bandwidth=bandwidth,
                device="cpu",
                tuning_metric="auc",
                class_converter=ClassificationConverter("zero_one", 2),
            )
            parts = [(rows[mask], labels[mask]) for mask in (~held_out, held_out)]
            model.fit(
                *parts, reg=1e-3, iters=8, center_grads=center_grads, get_agop_best_model=True
            )
            auroc = roc_auc_score(labels[held_out], model.predict(rows[held_out]))
            found.append((auroc, model.agop_best_model.numpy()))
    best = max(auroc for auroc, _ in found)
    first = next(gradients for auroc, gradients in found if auroc == best)
    axis = np.linalg.svd(first)[0][:, 0]
    return axis * np.sign((contrast.positive @ axis).mean() - (contrast.negative @ axis).mean())


@pytest.mark.parametrize("scale", [0.01, 0.1])
def test_the_span_of_the_rows_holds_all_that_it_learns(scale):
    """Wider than many: what xrfm finds in all dimensions, from a matrix as large as the rows."""
    contrast = change(draw_contrast(n=20, width=120)[0], lambda rows: rows * scale)

    fit = fit_feature_machine(contrast, 4)

    held_out = feature_machine._hold_out(contrast, 4)
    np.testing.assert_allclose(fit.values, fit_whole_rows(contrast, held_out), atol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 10])
def test_rows_far_apart_or_close_have_a_direction_all_the_same(factor):
    """xrfm alone takes the gradients of such rows for nothing, and gives an arbitrary axis."""
    contrast, planted = draw_contrast(n=40, width=60, shift=6.0)

    fit = fit_feature_machine(change(contrast, lambda rows: rows * factor), 0)

    assert cosine(fit.values, planted) > 0.5


def test_rows_too_far_apart_for_any_bandwidth_are_refused():
    contrast, _ = draw_contrast()

    with pytest.raises(FitError, match="predicts the same everywhere"):
        fit_feature_machine(change(contrast, lambda rows: rows * 1e8))


def test_no_scenario_is_on_both_sides_of_the_split():
    contrast, _ = draw_contrast(n=30)
    doubled = Contrast(
        contrast.positive,
        contrast.negative,
        contrast.positive_groups // 2,
        contrast.negative_groups // 2,
    )

    for seed in range(20):
        held_out = feature_machine._hold_out(doubled, seed)
        groups = np.concatenate([doubled.positive_groups, doubled.negative_groups])
        assert not set(groups[held_out]) & set(groups[~held_out])
        assert len(set(groups[held_out])) == 3
    assert (feature_machine._hold_out(doubled, 0) != feature_machine._hold_out(doubled, 1)).any()


def test_it_finds_a_direction_that_means_do_not_show():
    """Both sides have the same mean; the positive one is spread along the planted direction."""
    contrast, planted = draw_contrast(n=80, width=10, shift=0.0)
    signs = np.where(np.arange(80) % 2, 4.0, -4.0)[:, None]
    spread = Contrast(
        contrast.positive + signs * planted,
        contrast.negative,
        contrast.positive_groups,
        contrast.negative_groups,
    )

    assert abs(cosine(fit_feature_machine(spread, 0).values, planted)) > 0.95


def test_too_few_scenarios_to_hold_some_out_are_refused():
    rows = np.random.default_rng(0).normal(size=(4, 3))
    one, other = np.zeros(2, dtype=np.int64), np.ones(2, dtype=np.int64)

    with pytest.raises(FitError, match="2 scenarios are too few to hold some of both sides out"):
        fit_feature_machine(Contrast(rows[:2], rows[2:], one, other))


def test_without_xrfm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xrfm", None)

    with pytest.raises(ConfigError, match="needs the package xrfm") as caught:
        fit_feature_machine(draw_contrast()[0])
    assert caught.value.mend == "pip install 'tistore[rfm]'"
