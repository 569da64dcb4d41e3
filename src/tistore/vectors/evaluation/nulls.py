"""What AUROC comes out where there is nothing to find: permuted labels, random directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tistore.vectors.evaluation.cross_fit import score_folds
from tistore.vectors.evaluation.labelled import Folds, LabelledRows, Marks
from tistore.vectors.evaluation.metrics import auroc
from tistore.vectors.methods.fit import Method
from tistore.vectors.methods.mean_difference import fit_mean_difference

Null = NDArray[np.float64]


def permute_labels(labelled: LabelledRows, folds: Folds, times: int, seed: int) -> Marks:
    """
    Draw labels as they might be if nothing told the sides apart.

    The two sides of a situation that has both are swapped, or not, by the toss of a coin.
    Situations of one side exchange their labels with others of their fold. Folds, pairs and the
    rows themselves stay.

    Args:
        labelled: Rows and their labels.
        folds: (n,) fold of each row.
        times: How many permutations.
        seed: Of the draws.

    Returns:
        (times, n) labels.
    """
    generator = np.random.default_rng([seed, times])
    index, kind = labelled.group_index, labelled.kind
    is_swapped = generator.random((times, labelled.n_groups)) < 0.5
    labels = labelled.is_positive ^ is_swapped[:, index]
    # Situations of one side get their labels below, whatever the coin said.
    fold_of = np.empty(labelled.n_groups, dtype=np.int64)
    fold_of[index] = folds
    for fold in np.unique(folds):
        single = np.flatnonzero((fold_of == fold) & (kind != 0))
        sides = np.tile(kind[single] == 1, (times, 1))
        of_group = np.zeros((times, labelled.n_groups), dtype=np.bool_)
        of_group[:, single] = generator.permuted(sides, axis=1)
        rows = np.isin(index, single)
        labels[:, rows] = of_group[:, index[rows]]
    return np.asarray(labels)


def permutation_null(
    labelled: LabelledRows, folds: Folds, method: Method, *, times: int, seed: int = 0
) -> Null:
    """
    Fit and evaluate anew with permuted labels.

    Args:
        labelled: Rows and their labels.
        folds: (n,) fold of each row.
        method: Fits a direction.
        times: How many permutations; see `permute_labels`.
        seed: Of the draws, and given to the method.

    Returns:
        (times,) held-out AUROC.
    """
    labels = permute_labels(labelled, folds, times, seed)
    if method is fit_mean_difference:
        return auroc(_score_mean_differences(labelled, folds, labels), labels, folds)
    return np.array(
        [score_folds(labelled.relabelled(one), folds, method, seed).auroc for one in labels]
    )


def _score_mean_differences(
    labelled: LabelledRows, folds: Folds, labels: Marks
) -> NDArray[np.float64]:
    """
    Score all rows along the mean differences of all labels at once.

    A mean difference is a sum of rows with weights, and so its scores are products of rows. They
    are not divided by its length, nor is a midpoint taken off: no AUROC within a fold sees either.

    Returns:
        (labels, n).
    """
    rows = labelled.rows.astype(np.float64)
    products = rows @ rows.T
    scores = np.empty(labels.shape)
    for fold in np.unique(folds):
        outside = folds != fold
        sides = [labels & outside, ~labels & outside]
        weights = [side / side.sum(axis=1, keepdims=True) for side in sides]
        scores[:, ~outside] = (weights[0] - weights[1]) @ products[:, ~outside]
    return scores


def random_null(labelled: LabelledRows, folds: Folds, *, times: int, seed: int = 0) -> Null:
    """
    Score the same rows along directions drawn at random, as likely one way as the other.

    Returns:
        (times,) AUROC, rows compared within folds.
    """
    directions = np.random.default_rng([seed, times, 1]).standard_normal(
        (times, labelled.rows.shape[1])
    )
    return auroc(directions @ labelled.rows.T, labelled.is_positive, folds)


def share_as_large(null: Null, observed: float) -> float:
    """
    Find the p-value of an observed AUROC under a null: (1 + those no smaller) / (1 + all).

    Source:
        Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9(1), 2010.
    """
    # Equal sets of scores may differ in the last digit when they are summed in another order.
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + len(null)))
