"""Both sides of a contrast in one array, so that labels and folds are masks over its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tistore.errors import ConfigError
from tistore.vectors.contrast import Contrast, Groups, Rows

Marks = NDArray[np.bool_]
Folds = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """
    Rows, and on which side each is.

    Attributes:
        rows: (n, width).
        is_positive: (n,) whether a row shows the trait.
        groups: (n,) situation each row tells of.
    """

    rows: Rows
    is_positive: Marks
    groups: Groups

    @classmethod
    def of(cls, contrast: Contrast) -> Self:
        """Lay the sides one after the other, the positive first."""
        n_positive, n_negative = len(contrast.positive), len(contrast.negative)
        return cls(
            np.concatenate([contrast.positive, contrast.negative]),
            np.repeat([True, False], [n_positive, n_negative]),
            np.concatenate([contrast.positive_groups, contrast.negative_groups]),
        )

    def contrast(self, is_kept: Marks | None = None) -> Contrast:
        """Part the rows, or some of them, by side."""
        kept = np.ones(len(self.rows), dtype=np.bool_) if is_kept is None else is_kept
        positive, negative = kept & self.is_positive, kept & ~self.is_positive
        return Contrast(
            self.rows[positive], self.rows[negative], self.groups[positive], self.groups[negative]
        )

    def relabelled(self, is_positive: Marks) -> Self:
        """Keep the rows and give them other labels."""
        return replace(self, is_positive=is_positive)

    def take(self, is_kept: Marks) -> Self:
        """Keep some rows."""
        return replace(
            self,
            rows=self.rows[is_kept],
            is_positive=self.is_positive[is_kept],
            groups=self.groups[is_kept],
        )

    @property
    def is_paired(self) -> bool:
        """Whether every group has rows on both sides."""
        return bool(self.is_two_sided.all())

    @cached_property
    def group_index(self) -> Groups:
        """For each row, the place of its group among the groups in ascending order."""
        return np.unique(self.groups, return_inverse=True)[1]

    @cached_property
    def n_groups(self) -> int:
        """How many situations there are."""
        return int(self.group_index.max()) + 1

    @cached_property
    def is_two_sided(self) -> Marks:
        """For each group, whether it has rows on both sides: (n_groups,)."""
        on_side = [
            np.bincount(self.group_index[side], minlength=self.n_groups) > 0
            for side in (self.is_positive, ~self.is_positive)
        ]
        return np.asarray(on_side[0] & on_side[1])

    @cached_property
    def kind(self) -> NDArray[np.int64]:
        """For each group: 0 with rows on both sides, 1 positive ones only, 2 negative ones."""
        has_positive = np.bincount(self.group_index, weights=self.is_positive) > 0
        return np.where(self.is_two_sided, 0, np.where(has_positive, 1, 2))


def deal_folds(labelled: LabelledRows, folds: int, seed: int) -> Folds:
    """
    Deal whole groups into folds at random: no two rows of one situation are ever parted.

    Groups are dealt in turn, those with both sides first, larger ones before smaller: folds differ
    by at most one group of either side.

    Args:
        labelled: What to deal.
        folds: How many folds, at least 2.
        seed: Of the order.

    Returns:
        (n,) fold of each row, from 0.

    Raises:
        ConfigError: There are fewer groups than folds on a side.
    """
    if folds < 2:
        raise ConfigError(f"{folds} folds leave nothing to hold out", mend="take 2 or more")
    kind = labelled.kind
    n_least = min(int((kind != 2).sum()), int((kind != 1).sum()))
    if n_least < folds:
        raise ConfigError(
            f"{n_least} scenarios on a side cannot be dealt into {folds} folds",
            mend="add scenarios, or take fewer folds",
        )
    generator = np.random.default_rng([seed, folds])
    size = np.bincount(labelled.group_index)
    order = generator.permutation(labelled.n_groups)
    order = order[np.argsort(-size[order], kind="stable")]
    fold_of = np.empty(labelled.n_groups, dtype=np.int64)
    n_both = int((kind == 0).sum())
    for which in range(3):
        chosen = order[kind[order] == which]
        # A side's own groups go on where those with both sides ended.
        start = n_both if which else 0
        fold_of[chosen] = (start + np.arange(len(chosen))) % folds
    return np.asarray(fold_of[labelled.group_index])
