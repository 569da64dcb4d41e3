"""Recursive feature machines: what a kernel machine learns to look along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.errors import ConfigError, FitError
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.fit import Fit
from tistore.vectors.methods.rows import Matrix, check_rows, label_rows, stack_rows
from tistore.vectors.methods.span import Span

BANDWIDTHS = (1.0, 10.0, 100.0)
ITERATIONS = 8
PENALTY = 1e-3
HELD_OUT = 0.2
"""Share of the scenarios on which settings are compared."""


def fit_feature_machine(contrast: Contrast, seed: int = 0) -> Fit:
    """
    Fit the direction along which a recursive feature machine's predictions change most.

    A Laplace kernel machine is fitted 8 times over, each on the average gradient outer product
    (AGOP) of the one before. Of six settings (bandwidths 1, 10 and 100, gradients centred or not)
    the one that ranks a held-out fifth of the scenarios best counts, the first of equals; its
    AGOP's first eigenvector is the direction. The sides' means give its sign. It needs the package
    xrfm, and runs on the CPU in the span of the rows.

    Args:
        contrast: Rows of both sides.
        seed: Draws which scenarios are held out; no scenario is on both sides of that split.

    Returns:
        The direction with length 1, without a bias.

    Raises:
        ConfigError: The package xrfm is not installed.
        NonFiniteError: The rows hold NaN or infinity.
        FitError: All rows are the same; there are too few scenarios to hold some of both sides out;
            or no setting has a gradient.

    Source:
        Radhakrishnan et al., Science 383, 2024; Beaglehole et al., arXiv:2502.03708.
    """
    check_rows(contrast, at_least=2)
    make_machine = _find_package()
    rows, labels = stack_rows(contrast), label_rows(contrast)
    held_out = _hold_out(contrast, seed)
    span = Span.of(rows)
    trials = [
        _try(make_machine, span, labels, held_out, bandwidth, is_centred)
        for bandwidth, is_centred in product(BANDWIDTHS, (True, False))
    ]
    candidates = [trial for trial in trials if trial.gradients.any()]
    if not candidates:
        raise FitError(
            "the feature machine predicts the same everywhere, whatever its bandwidth",
            mend="the rows lie too far apart or too close for it: fit probe or lda",
        )
    best = max(candidates, key=lambda trial: trial.auroc)
    values = span.widen(np.linalg.eigh(best.gradients)[1][:, -1])
    n_positive = len(contrast.positive)
    scores = rows @ values
    return Fit(values if scores[:n_positive].mean() >= scores[n_positive:].mean() else -values)


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """
    A machine with one setting.

    Attributes:
        auroc: Of its predictions on the rows held out.
        gradients: (dimensions, dimensions) its average gradient outer product.
    """

    auroc: float
    gradients: Matrix


def _find_package() -> Callable[..., Any]:
    try:
        from xrfm import RFM
        from xrfm.rfm_src.class_conversion import ClassificationConverter
    except ImportError as error:
        raise ConfigError(
            f"the method rfm needs the package xrfm, which cannot be loaded: {error}",
            mend="pip install 'tistore[rfm]'",
        ) from error
    return partial(_make_machine, RFM, ClassificationConverter)


def _hold_out(contrast: Contrast, seed: int) -> NDArray[np.bool_]:
    """Choose the rows to hold out, laid out as `stack_rows` does."""
    of_row = np.concatenate([contrast.positive_groups, contrast.negative_groups])
    groups = np.random.default_rng(seed).permutation(contrast.groups)
    chosen = np.isin(of_row, groups[: max(1, round(HELD_OUT * len(groups)))])
    n_positive = len(contrast.positive)
    for side in (chosen[:n_positive], chosen[n_positive:]):
        if side.all() or not side.any():
            raise FitError(
                f"{len(groups)} scenarios are too few to hold some of both sides out",
                mend="add scenarios, or fit mean_diff",
            )
    return chosen


def _try(
    make_machine: Callable[..., Any],
    span: Span,
    labels: NDArray[np.float64],
    held_out: NDArray[np.bool_],
    bandwidth: float,
    is_centred: bool,
) -> _Trial:
    from sklearn.metrics import roc_auc_score

    model = make_machine(span, bandwidth)
    rows, targets = span.rows, labels[:, None]
    model.fit(
        (rows[~held_out], targets[~held_out]),
        (rows[held_out], targets[held_out]),
        reg=PENALTY,
        iters=ITERATIONS,
        center_grads=is_centred,
        get_agop_best_model=True,
    )
    predicted = model.predict(rows[held_out])
    auroc = float(roc_auc_score(targets[held_out, 0], predicted[:, 0]))
    return _Trial(auroc, model.agop_best_model.numpy())


def _make_machine(machine: type[Any], converter: type[Any], span: Span, bandwidth: float) -> Any:
    """
    Make a machine that scales its AGOP as it would with all dimensions of the rows.

    It divides by the largest entry, which, unlike everything else it does, depends on coordinates;
    and by 1e-30 more, which drowns all gradients between rows that lie far apart.
    """

    class InSpan(machine):  # type: ignore[misc]
        def fit_M(self, *args: Any, inplace: bool = True, **settings: Any) -> Any:
            products = super().fit_M(*args, inplace=False, **settings)
            scaled = products / (_find_largest(products.numpy(), span) or 1.0)
            if not inplace:
                return scaled
            # This kernel takes the matrix itself, and not its root.
            self.M, self.sqrtM = scaled, None
            return None

    return InSpan(
        kernel="l2_high_dim",
        bandwidth=bandwidth,
        device="cpu",
        tuning_metric="auc",
        class_converter=converter(mode="zero_one", n_classes=2),
    )


def _find_largest(products: Matrix, span: Span) -> float:
    """Find the largest entry of products of gradients, had they been taken of whole rows."""
    scale = float(products.max())
    if span.basis is None or not scale:
        return scale
    # A common factor needs no more digits.
    basis, scaled = span.basis.astype(np.float32), (products / scale).astype(np.float32)
    # A positive semidefinite matrix has it on its diagonal.
    return scale * float(((scaled @ basis) * basis).sum(axis=0).max())
