"""Scores laid out as organism × prompt × trait, samples averaged: what is compared with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells
from tistore.audit.statistics.clusters import Labels
from tistore.errors import QueryError, nearest

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]

FEWEST_PROMPTS = 5
"""A note or tag of fewer prompts is no subset to test."""


@dataclass(frozen=True, slots=True)
class PromptKey:
    """A prompt of a prompt set."""

    prompt_set: str
    prompt_id: str


class ScoreTable:
    """
    Where each row of some cells lies among organisms and prompts.

    Args:
        cells: Scores; samples of a prompt are averaged wherever a matrix is laid out.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        rows = cells.rows
        self.organisms: list[str] = cells.organisms
        keys = rows.select("prompt_set", "prompt_id").rows()
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        self.prompts = [PromptKey(*key) for key in dict.fromkeys(keys)]
        self._first = np.array([first[one.prompt_set, one.prompt_id] for one in self.prompts])
        places = {(one.prompt_set, one.prompt_id): at for at, one in enumerate(self.prompts)}
        self._prompt = np.array([places[key] for key in keys], dtype=np.int64)
        numbers = {name: at for at, name in enumerate(self.organisms)}
        self._organism = np.array([numbers[name] for name in rows["organism"]], dtype=np.int64)

    @cached_property
    def families(self) -> Labels:
        """Number of each organism's family."""
        names = np.empty(len(self.organisms), dtype=object)
        names[self._organism] = self.cells.rows["family"].to_list()
        return np.asarray(np.unique(names.astype(str), return_inverse=True)[1])

    def family_of(self, organism: str) -> str:
        """Name the family of an organism."""
        place = int(np.flatnonzero(self._organism == self.organisms.index(organism))[0])
        return str(self.cells.rows["family"][place])

    def replayed(self, organism: str) -> bool:
        """Whether the baseline has read any of an organism's texts."""
        rows = self._organism == self.organisms.index(organism)
        return bool(np.isfinite(self.cells.replay[rows]).any())

    @cached_property
    def clusters(self) -> Labels:
        """Number of each prompt's cluster."""
        named = self.cells.rows["cluster"][self._first.tolist()].to_numpy()
        return np.asarray(np.unique(named.astype(str), return_inverse=True)[1])

    @cached_property
    def declared(self) -> dict[str, Mask]:
        """Prompts of each note and tag: `note:…`, `tag:…`, in order of their names."""
        found: dict[str, Mask] = {}
        kept = self.cells.rows.select("note", "tags")[self._first.tolist()]
        for place, (note, tags) in enumerate(kept.rows()):
            names = ([f"note:{note}"] if note else []) + [f"tag:{tag}" for tag in tags or ()]
            for name in names:
                found.setdefault(name, np.zeros(len(self.prompts), dtype=bool))[place] = True
        return dict(sorted(found.items()))

    def subsets(self, names: Sequence[str] | None) -> Mapping[str, Mask]:
        """
        Find the prompts of subsets; of all that several prompts have and several lack, when None.

        Raises:
            QueryError: No prompt has a note or tag of that name.
        """
        if names is None:
            sizes = {name: int(mask.sum()) for name, mask in self.declared.items()}
            most = len(self.prompts) - FEWEST_PROMPTS
            return {
                name: mask
                for name, mask in self.declared.items()
                if FEWEST_PROMPTS <= sizes[name] <= most
            }
        for name in names:
            if name not in self.declared:
                raise QueryError(f"no prompt has {name!r}; {nearest(name, self.declared)}")
        return {name: self.declared[name] for name in names}

    def lay_out(self, matrix: Scores) -> Scores:
        """
        Lay out a value for each response, averaging samples.

        Args:
            matrix: (row of the cells, trait).

        Returns:
            (organism, prompt, trait); NaN where there is no value.
        """
        shape = (len(self.organisms), len(self.prompts), matrix.shape[1])
        total, n = np.zeros(shape), np.zeros(shape)
        is_there = np.isfinite(matrix)
        np.add.at(total, (self._organism, self._prompt), np.where(is_there, matrix, 0.0))
        np.add.at(n, (self._organism, self._prompt), is_there)
        return np.asarray(np.divide(total, n, out=np.full(shape, np.nan), where=n > 0))
