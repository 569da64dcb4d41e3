"""The gradient method: torch's Adam step by step, and the mean difference at the end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn_contrasts import change, cosine, draw_contrast
from tistore.errors import FitError
from tistore.vectors.methods import gradient
from tistore.vectors.methods.gradient import fit_gradient
from tistore.vectors.methods.mean_difference import fit_mean_difference


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.floats(-5, 5))
def test_what_it_converges_to_is_the_mean_difference(seed, width, magnitude):
    """In whatever units the activations are."""
    contrast, _ = draw_contrast(seed, width=width)
    contrast = change(contrast, lambda rows: rows * 10**magnitude)

    fit = fit_gradient(contrast, seed)

    assert cosine(fit.values, fit_mean_difference(contrast).values) >= 0.999
    assert np.linalg.norm(fit.values) == pytest.approx(1)


@pytest.mark.parametrize("steps", [1, 100])
def test_each_step_is_torchs_adam(steps):
    torch = pytest.importorskip("torch")
    contrast, _ = draw_contrast(width=256)
    positive, negative = map(torch.from_numpy, (contrast.positive, contrast.negative))
    start = np.random.default_rng(5).standard_normal(256)
    vector = torch.tensor(start, requires_grad=True)
    adam = torch.optim.Adam([vector], lr=0.01)
    for _ in range(steps):
        adam.zero_grad()
        unit = vector / vector.norm()
        separation = (positive @ unit).mean() - (negative @ unit).mean()
        (-separation + 0.01 * vector.norm()).backward()
        adam.step()

    fit = fit_gradient(contrast, 5, steps=steps)

    np.testing.assert_allclose(fit.values, (vector / vector.norm()).detach().numpy(), atol=1e-9)


def test_a_hundred_steps_are_too_few():
    """Where trait-interp stops: the start is still half of it, and seeds differ."""
    contrast, _ = draw_contrast(width=256)
    difference = fit_mean_difference(contrast).values

    early = [cosine(fit_gradient(contrast, seed, steps=100).values, difference) for seed in (0, 1)]

    assert all(0.5 < each < 0.8 for each in early)
    assert early[0] != early[1]


def test_a_fit_that_does_not_converge_is_refused(monkeypatch):
    monkeypatch.setattr(gradient, "MOST_STEPS", 50)

    with pytest.raises(FitError, match="does not converge within 50 steps"):
        fit_gradient(draw_contrast(width=256)[0])
