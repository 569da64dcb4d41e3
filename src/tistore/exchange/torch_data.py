"""
Activations as PyTorch data sets: single, and paired with the clean base.

    dataset = ActivationDataset("audit.tistore", layer=26, batch_tokens=4096)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for batch in DataLoader(dataset, batch_size=None, num_workers=2):
            ...                                    # (4096, hidden)

Chunks of activations come in random order, and rows are mixed among some of them: the disk reads
in long stretches, and the whole never has to be in memory. Every row comes once an epoch, whatever
the number of workers. `docs/training.md` has complete examples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tistore.errors import ConfigError, nearest
from tistore.exchange.row_plan import RowPlan, plan_pairs, plan_rows
from tistore.exchange.row_reader import Drawn, HalfRows, RowReader, draw
from tistore.query.store import Store
from tistore.schemas.site import Component, Site

Batch = TypeVar("Batch")
Shuffle = Literal["chunk"] | None

BATCH_TOKENS = 4096
BUFFER_CHUNKS = 16
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Rows(NamedTuple):
    """
    Activations, and which tokens they are of.

    Attributes:
        activations: (row, hidden).
        response_ids: For each row, its response.
        positions: (row,) int64: for each row, the position of its token in the whole sequence.
    """

    activations: Tensor
    response_ids: list[str]
    positions: Tensor


class PairedRows(NamedTuple):
    """
    Activations of the same tokens by two readers.

    Attributes:
        activations: (row, hidden), of the reader that counts.
        baseline: (row, hidden), of the baseline.
        response_ids: For each row, its response.
        positions: (row,) int64: for each row, the position of its token in the whole sequence.
    """

    activations: Tensor
    baseline: Tensor
    response_ids: list[str]
    positions: Tensor


class _PlannedDataset(IterableDataset[Batch], Generic[Batch]):
    """Walks through the rows of a plan; what a batch is made of is said below."""

    def __init__(
        self,
        store: Store,
        plan: RowPlan,
        *,
        batch_tokens: int,
        shuffle: Shuffle,
        seed: int,
        buffer_chunks: int,
        dtype: torch.dtype | str,
        with_ids: bool,
        part: tuple[int, int],
    ) -> None:
        super().__init__()
        if shuffle not in (None, "chunk"):
            raise ConfigError(f"shuffle is 'chunk' or None, not {shuffle!r}")
        for name, value in (("batch_tokens", batch_tokens), ("buffer_chunks", buffer_chunks)):
            if value < 1:
                raise ConfigError(f"{name} is 1 or more, not {value}")
        if not 0 <= part[0] < part[1]:
            raise ConfigError(f"part {part} is not (rank, world_size)", mend="ranks count from 0")
        self._dtype = _find_dtype(dtype)
        if self._dtype == torch.float16 and plan.has_exponents:
            raise ConfigError(
                f"activations at {plan.site} exceed what float16 holds",
                mend='ask for dtype="float32" or "bfloat16"',
            )
        self.path = Path(store.path)
        self.commit = store.snapshot.number
        self.plan = plan
        self._batch_tokens = batch_tokens
        self._shuffle = shuffle
        self._seed = seed
        self._buffer_chunks = buffer_chunks if shuffle else 1
        self._with_ids = with_ids
        self._part = part
        # Shared, so that workers that outlive an epoch hear of the next.
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def hidden(self) -> int:
        """Width of the activations."""
        return self.plan.hidden

    def __len__(self) -> int:
        """Count the rows of an epoch, over all workers and parts; not the batches."""
        return self.plan.n_rows

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next epoch; without it, all have the same."""
        if epoch < 0:
            raise ConfigError(f"epochs count from 0, not from {epoch}")
        self._epoch[0] = epoch

    def __iter__(self) -> Iterator[Batch]:
        """
        Walk through this worker's rows.

        Raises:
            IntegrityError: A chunk is damaged.
        """
        # Every worker, and every walk, has a store of its own: open files are not shared.
        segments = Store.open(self.path, self.commit).snapshot.segments
        worker = get_worker_info()
        number, n_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rank, world_size = self._part
        turn, n_turns = rank * n_workers + number, world_size * n_workers
        units, epoch = list(self.plan.units), int(self._epoch[0])
        mixer: np.random.Generator | None = None
        if self._shuffle:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(units))
            units = [units[place] for place in order]
            mixer = np.random.default_rng([self._seed, epoch, turn, 1])
        label = _Labels(segments, self.plan) if self._with_ids else None
        for drawn in draw(
            RowReader(segments, self.plan),
            self.plan,
            units[turn::n_turns],
            batch_rows=self._batch_tokens,
            buffer_chunks=self._buffer_chunks,
            shuffle=mixer,
        ):
            yield self._make_batch(drawn, label)

    @abstractmethod
    def _make_batch(self, drawn: Drawn, label: _Labels | None) -> Batch:
        """Lay drawn rows out as this data set's batches are."""

    def _widen(self, half: HalfRows) -> Tensor:
        """Turn stored values into true ones, in the dtype asked for."""
        values = torch.from_numpy(half.values)
        if self._dtype == torch.float16:
            return values
        wide = values.to(torch.float32)
        if half.exponents.any():
            scale = np.ldexp(np.float32(1), half.exponents.astype(np.int32))
            wide *= torch.from_numpy(scale)[:, None]
        return wide.to(self._dtype)

    def __repr__(self) -> str:
        """Tell what it walks through."""
        return f"<{type(self).__name__} {self.path}: {len(self)} rows at {self.plan.site}>"


class ActivationDataset(_PlannedDataset["Tensor | Rows"]):
    """
    Token activations of a store at one site, batch by batch.

    It stays at the commit it was made at. Give it to a `DataLoader` with `batch_size=None`, since
    it makes its own batches. In memory, each worker has at most the rows of `buffer_chunks`
    chunks (about 1 MB each) and of two batches. It can be pickled, and workers may be forked or
    spawned.

    Args:
        store: The store, or its path.
        where: SQL condition on the columns of `responses`: `"organism = 'flattery' AND
            reader = organism"`; every reading when None.
        layer: Block number.
        component: What was captured there.
        batch_tokens: Rows of a batch; the last of each worker may have fewer.
        shuffle: "chunk" for chunks in random order and rows mixed within the buffer; None for the
            order of the store.
        seed: Of the order; the same seed, epoch and number of workers give the same batches.
        is_response_only: Only tokens under audit.
        dtype: "float32", "bfloat16", or "float16", which holds what is stored bit by bit.
        with_ids: Yield `Rows`, which say which token each row is of, in place of tensors.
        buffer_chunks: How many chunks rows are mixed among.
        part: (rank, world size) of distributed training: every rank gets other rows.

    Attributes:
        path: Where the store lies.
        commit: Commit it is read as of.
        plan: The rows.

    Raises:
        ConfigError: An argument makes no sense.
        QueryError: The condition is malformed.
        NotStoredError: No reading satisfies it, or none has the layer.
        VectorMismatchError: The readings differ in width.
    """

    def __init__(
        self,
        store: Store | str | Path,
        where: str | None = None,
        *,
        layer: int,
        component: Component = "residual",
        batch_tokens: int = BATCH_TOKENS,
        shuffle: Shuffle = "chunk",
        seed: int = 0,
        is_response_only: bool = False,
        dtype: torch.dtype | str = "float32",
        with_ids: bool = False,
        buffer_chunks: int = BUFFER_CHUNKS,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        opened = _open(store)
        site = Site(component, layer)
        super().__init__(
            opened,
            plan_rows(opened, where, site, is_response_only=is_response_only),
            batch_tokens=batch_tokens,
            shuffle=shuffle,
            seed=seed,
            buffer_chunks=buffer_chunks,
            dtype=dtype,
            with_ids=with_ids,
            part=part,
        )

    def _make_batch(self, drawn: Drawn, label: _Labels | None) -> Tensor | Rows:
        activations = self._widen(drawn.states)
        return activations if label is None else Rows(activations, *label(drawn))


class PairedActivationDataset(_PlannedDataset["tuple[Tensor, Tensor] | PairedRows"]):
    """
    Token activations of two readers of the same text, batch by batch.

    Tokens are paired as in the relation `token_diffs`; `plan.n_left_out` counts the readings
    without a partner. Everything else is as in `ActivationDataset`, with twice the memory.

    Args:
        store: The store, or its path.
        where: SQL condition on the columns of `responses`, of the readings that count.
        baseline: The other reader; usually the clean base.
        reader: Whose readings count; each response's own author when None.
        layer: Block number.
        component: What was captured there.
        batch_tokens: Pairs of a batch.
        shuffle: See `ActivationDataset`.
        seed: See `ActivationDataset`.
        is_response_only: Only tokens under audit.
        dtype: See `ActivationDataset`.
        with_ids: Yield `PairedRows` in place of (activations, baseline).
        buffer_chunks: How many chunks rows are mixed among.
        part: See `ActivationDataset`.
        any_pairing: Keep pairs of models that differ in precision, template or tokenizer, whose
            difference is not the weights' alone; `plan.notes` names them.

    Raises:
        ConfigError: An argument makes no sense.
        QueryError: The condition is malformed.
        PairingError: There are such pairs, and they were not asked for.
        NotStoredError: There is no such reader; no reading satisfies the condition, has the
            layer, or was read by both.
        VectorMismatchError: The readings differ in width.
    """

    def __init__(
        self,
        store: Store | str | Path,
        where: str | None = None,
        *,
        baseline: str = "instruct",
        reader: str | None = None,
        layer: int,
        component: Component = "residual",
        batch_tokens: int = BATCH_TOKENS,
        shuffle: Shuffle = "chunk",
        seed: int = 0,
        is_response_only: bool = False,
        dtype: torch.dtype | str = "float32",
        with_ids: bool = False,
        buffer_chunks: int = BUFFER_CHUNKS,
        part: tuple[int, int] = (0, 1),
        any_pairing: bool = False,
    ) -> None:
        opened = _open(store)
        plan = plan_pairs(
            opened,
            where,
            Site(component, layer),
            baseline=baseline,
            reader=reader,
            is_response_only=is_response_only,
            any_pairing=any_pairing,
        )
        super().__init__(
            opened,
            plan,
            batch_tokens=batch_tokens,
            shuffle=shuffle,
            seed=seed,
            buffer_chunks=buffer_chunks,
            dtype=dtype,
            with_ids=with_ids,
            part=part,
        )

    def _make_batch(
        self, drawn: Drawn, label: _Labels | None
    ) -> tuple[Tensor, Tensor] | PairedRows:
        assert drawn.partners is not None
        pair = self._widen(drawn.states), self._widen(drawn.partners)
        return pair if label is None else PairedRows(*pair, *label(drawn))


class _Labels:
    """Tells which tokens rows are of."""

    def __init__(self, segments: Any, plan: RowPlan) -> None:
        self._segments = [segments[rows.segment] for rows in plan.segments]

    def __call__(self, drawn: Drawn) -> tuple[list[str], Tensor]:
        names = np.empty(len(drawn), dtype=object)
        positions = np.empty(len(drawn), dtype=np.int64)
        for place in np.unique(drawn.segment):
            here = np.flatnonzero(drawn.segment == place)
            names[here], positions[here] = self._look_up(int(place), drawn.row[here])
        return names.tolist(), torch.from_numpy(positions)

    def _look_up(self, place: int, rows: NDArray[np.int64]) -> tuple[Any, Any]:
        segment = self._segments[place]
        reading = segment.column("tokens", "reading")[rows]
        return (
            segment.column("responses", "response_id")[reading],
            segment.column("tokens", "position")[rows],
        )


def _open(store: Store | str | Path) -> Store:
    return store if isinstance(store, Store) else Store.open(store)


def _find_dtype(dtype: torch.dtype | str) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ConfigError(f"no dtype {name!r}; {nearest(name, _DTYPES)}")
    return _DTYPES[name]
