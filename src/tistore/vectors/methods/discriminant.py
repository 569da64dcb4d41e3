"""Fisher's linear discriminant, its covariances shrunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.errors import FitError
from tistore.vectors.contrast import Contrast
from tistore.vectors.methods.fit import Fit
from tistore.vectors.methods.rows import Matrix, check_rows


def fit_discriminant(contrast: Contrast, seed: int = 0) -> Fit:
    """
    Fit the mean difference, divided by the covariance within the sides.

    The covariance of each side is shrunk towards its variances by as much as Ledoit and Wolf
    estimate on standardised dimensions: scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr",
    shrinkage="auto")`, to the last digits. A dimension that varies much within a side counts
    little, so that massive ones do no harm. Rows wider than many cost no width × width matrix.

    Args:
        contrast: Rows of both sides, two each at least.
        seed: Not used: nothing is drawn.

    Returns:
        The discriminant, and its bias with the sides' shares of the rows as priors: an activation
        is on the positive side where activation · values + bias is above 0.

    Raises:
        NonFiniteError: The rows hold NaN or infinity.
        FitError: A side has fewer than two rows, or rows that are all the same; or the rows lie so
            that the covariance cannot be inverted.

    Source:
        Ledoit and Wolf, Journal of Multivariate Analysis 88(2), 2004; Woodbury's identity.
    """
    check_rows(contrast, at_least=2)
    sides = (contrast.positive, contrast.negative)
    n_rows = sum(map(len, sides))
    positive, negative = (side.mean(axis=0, dtype=np.float64) for side in sides)
    spread = _join([_estimate(side, len(side) / n_rows) for side in sides])
    values = spread.divide(positive - negative)
    share = np.log(len(sides[0]) / len(sides[1]))
    return Fit(values, float(share - (positive + negative) / 2 @ values))


@dataclass(frozen=True, slots=True, eq=False)
class _Spread:
    """
    A covariance: a diagonal, and rows whose products with themselves are added to it.

    Attributes:
        diagonal: (width,).
        rows: (rows, width).
    """

    diagonal: NDArray[np.float64]
    rows: Matrix

    def divide(self, direction: NDArray[np.float64]) -> NDArray[np.float64]:
        """Multiply a direction by the covariance's inverse."""
        n_rows, width = self.rows.shape
        try:
            if width <= n_rows:
                dense = self.rows.T @ self.rows + np.diag(self.diagonal)
                return np.asarray(np.linalg.solve(dense, direction))
            if not self.diagonal.all():
                raise np.linalg.LinAlgError
            scaled = self.rows / self.diagonal
            inner = np.eye(n_rows) + scaled @ self.rows.T
            far = direction / self.diagonal
            return np.asarray(far - scaled.T @ np.linalg.solve(inner, self.rows @ far))
        except np.linalg.LinAlgError as error:
            raise FitError(
                "the covariance within the sides has no inverse",
                mend="add scenarios, or fit mean_diff",
            ) from error


def _join(spreads: list[_Spread]) -> _Spread:
    return _Spread(
        np.sum([spread.diagonal for spread in spreads], axis=0),
        np.concatenate([spread.rows for spread in spreads]),
    )


def _estimate(side: NDArray[np.floating], share: float) -> _Spread:
    """Estimate a side's covariance, times its share of all rows."""
    from sklearn.preprocessing import StandardScaler

    if (side == side[0]).all():
        raise FitError(
            "the rows of one side are all the same, and have no covariance",
            mend="add scenarios, or fit mean_diff",
        )
    scaler = StandardScaler()
    rows = scaler.fit_transform(side.astype(np.float64))
    shrinkage = _find_shrinkage(rows)
    target = share * shrinkage * np.vdot(rows, rows) / rows.size
    weight = np.sqrt(share * (1 - shrinkage) / len(rows))
    return _Spread(target * scaler.scale_**2, weight * rows * scaler.scale_)


def _find_shrinkage(rows: Matrix) -> float:
    """
    Estimate how far the covariance of centred rows is to be shrunk towards a multiple of one.

    scikit-learn's `ledoit_wolf_shrinkage`, from products of rows in place of those of dimensions.
    """
    n_rows, width = rows.shape
    if width == 1:
        return 0.0
    products = rows @ rows.T
    lengths = np.diag(products)
    mean_variance = lengths.sum() / rows.size
    size = (products**2).sum() / n_rows**2
    noise = ((lengths**2).sum() / n_rows - size) / (width * n_rows)
    distance = (size - width * mean_variance**2) / width
    return float(min(noise, distance) / distance) if distance > 0 and noise > 0 else 0.0
