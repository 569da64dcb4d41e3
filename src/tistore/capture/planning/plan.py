"""What a run would take, worked out without loading any weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tistore.capture.config import RunConfig
from tistore.capture.models.machine import measure_free, measure_host
from tistore.capture.planning.footprint import (
    RUNTIME_BYTES,
    Footprint,
    measure_adapter,
    measure_footprint,
    measure_head,
    name_dtype,
)
from tistore.capture.planning.organism_plan import OrganismPlan, plan_organism
from tistore.capture.planning.pairs import refuse_mixed_pairs
from tistore.capture.planning.preflight import CheckedRun, check_run
from tistore.capture.running.agenda import Agenda
from tistore.capture.running.passes import list_passes
from tistore.capture.texts.given import GivenResponses, read_given
from tistore.errors import ConfigError, NoRoomError, NotAStoreError, StoreNotFoundError
from tistore.schemas.response import CaptureSettings
from tistore.store.base import BaseStore
from tistore.store.writer import FLUSH_BYTES, SPARE_BYTES

FILES_PER_COMPONENT = 6
"""Three arrays of two files each."""
FILES_PER_SEGMENT = 4
"""Beside those: three tables, and the commit."""

BFLOAT16_RATIO = 0.75
"""Compressed size over raw, of activations that were bfloat16: measured 0.70 to 0.73."""
OTHER_RATIO = 0.92
"""The same where all ten bits of the fraction are in use: measured 0.86 to 0.92."""
ROW_BYTES = 64
"""Of tables and norms, for each row of activations."""
COPIES_PER_COMMIT = 2
"""Of what waits for a commit: rounded, and laid out as the bytes of a shard."""

SELF_ARM = "self"


@dataclass(frozen=True, slots=True)
class Limit:
    """
    Something a run needs some of.

    Attributes:
        name: What.
        needed_bytes: How much of it.
        there_bytes: How much there is; None where that cannot be told here.
    """

    name: str
    needed_bytes: int
    there_bytes: int | None

    @property
    def is_exceeded(self) -> bool:
        """Whether there is less than is needed."""
        return self.there_bytes is not None and self.needed_bytes > self.there_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What a run takes: upper bounds, since responses may end early.

    Attributes:
        organisms: Each author's part, in the order they answer.
        settings: Layers, components and rows that are kept of the base.
        hidden: Width of the base.
        dtype: Of its parameters, as loaded.
        generated_tokens: Tokens to write.
        size_bytes: Raw float16 activations.
        compressed_bytes: What readings are expected to take in the store, tables included.
        heads_bytes: What the final norms and unembeddings take there: one of each weights that
            read; adapters that change them have their own.
        files: Files in the store, about.
        free_bytes: What is free where the store would lie.
        reserve_bytes: What the run leaves free.
        footprints: What each model with weights of its own takes where it runs, by name.
        waiting_bytes: Most that waits to be written at a time, in the machine's own memory.
        readings_left: Readings that the store does not have yet.
        notes: What is worth knowing, and no reason to stop.
    """

    organisms: tuple[OrganismPlan, ...]
    settings: CaptureSettings
    hidden: int
    dtype: str
    generated_tokens: int
    size_bytes: int
    compressed_bytes: int
    heads_bytes: int
    files: int
    free_bytes: int
    reserve_bytes: int
    footprints: Mapping[str, Footprint]
    waiting_bytes: int
    readings_left: int
    notes: tuple[str, ...] = field(default=())

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks that are read."""
        return self.settings.layers

    @property
    def responses(self) -> int:
        """Responses to make, or to take from the store."""
        return sum(organism.responses for organism in self.organisms)

    @property
    def readings(self) -> int:
        """Readings to store."""
        return sum(organism.readings for organism in self.organisms)

    @property
    def rows(self) -> int:
        """Rows of activations, at most."""
        return sum(organism.rows for organism in self.organisms)

    @property
    def read_tokens(self) -> int:
        """Tokens to read, at most."""
        return sum(organism.read_tokens for organism in self.organisms)

    @property
    def component_bytes(self) -> dict[str, int]:
        """Raw bytes of each component."""
        counted: Counter[str] = Counter()
        for organism in self.organisms:
            for (_, component), size in organism.sizes.items():
                counted[component] += size
        return dict(counted)

    @property
    def arm_bytes(self) -> dict[str, int]:
        """Raw bytes of each reading arm: read by their authors, and by each other model."""
        counted: Counter[str] = Counter()
        for organism in self.organisms:
            for (reader, _), size in organism.sizes.items():
                counted[SELF_ARM if reader == organism.name else reader] += size
        return dict(counted)

    @property
    def stored_bytes(self) -> int:
        """What the store is expected to take: readings, tables and heads."""
        return self.compressed_bytes + self.heads_bytes

    @property
    def share_left(self) -> float:
        """Of the readings, those that the store does not have yet: 1 for a new store."""
        return self.readings_left / max(self.readings, 1)

    @property
    def peak_disk_bytes(self) -> int:
        """Most that the store grows by: what is left, and one segment that is not committed."""
        left = math.ceil(self.compressed_bytes * self.share_left)
        return left + self.heads_bytes + min(FLUSH_BYTES, self.size_bytes)

    @property
    def largest(self) -> Footprint:
        """Of the model that takes most where it runs."""
        return max(self.footprints.values(), key=lambda footprint: footprint.total)

    @property
    def host_bytes(self) -> int:
        """Most of the machine's own memory that is needed at a time."""
        on_host = (f.total for f in self.footprints.values() if not f.memory.is_gpu)
        return self.waiting_bytes + max(on_host, default=RUNTIME_BYTES)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What the run needs, beside what there is."""
        on_gpu = [f for f in self.footprints.values() if f.memory.is_gpu]
        return (
            Limit("disk", self.peak_disk_bytes + self.reserve_bytes, self.free_bytes),
            *(Limit("GPU memory", f.total, f.memory.total) for f in on_gpu),
            Limit("host memory", self.host_bytes, measure_host()),
        )

    @property
    def is_possible(self) -> bool:
        """Whether there is enough of everything."""
        return not any(limit.is_exceeded for limit in self.limits)


def plan(
    config: RunConfig,
    *,
    path: Path | None = None,
    given: Mapping[str, GivenResponses] | None = None,
    checked: CheckedRun | None = None,
) -> Plan:
    """
    Work out what a run takes. No weights are loaded and no store is changed.

    Args:
        config: The run's.
        path: Where the store is or would be; the current folder when left out.
        given: Responses in the store that the run is to read; looked up at `path` when left out.
        checked: What `check_run` found; it is asked when left out.

    Raises:
        ModelLoadError, SiteNotFoundError, ConfigError, DatasetError: As `check_run` does.
        CaptureError: The same; or a stored response does not fit its model.
    """
    checked = checked or check_run(config)
    refuse_mixed_pairs(config, checked)
    store = _find_store(path)
    if given is None:
        given = _read_given(config, store)
    organisms = tuple(
        plan_organism(config, checked, name, given.get(name)) for name in config.answerers
    )
    base = checked.weights[config.base.name]
    size_bytes = sum(sum(organism.sizes.values()) for organism in organisms)
    return Plan(
        organisms=organisms,
        settings=base.settings,
        hidden=int(base.architecture.hidden_size),
        dtype=name_dtype(base.config, base.skeleton),
        generated_tokens=sum(organism.generated_tokens for organism in organisms),
        size_bytes=size_bytes,
        compressed_bytes=_estimate_stored(config, checked, organisms),
        heads_bytes=_measure_heads(config, checked, organisms),
        files=_count_files(size_bytes, len(base.settings.components)),
        free_bytes=measure_free(path or Path()),
        reserve_bytes=max(round(config.capture.reserve_gb * 1e9), SPARE_BYTES),
        footprints=_plan_footprints(config, checked, organisms),
        waiting_bytes=config.capture.queue_mb * 10**6 + COPIES_PER_COMMIT * FLUSH_BYTES,
        readings_left=(
            sum(organism.readings for organism in organisms)
            if store is None
            else _count_left(store, config, checked, given)
        ),
        notes=checked.notes,
    )


def check_plan(planned: Plan) -> None:
    """
    Refuse a run that there is not enough disk or memory for.

    Raises:
        NoRoomError: Something is short; need and have of each are named.
    """
    short = [limit for limit in planned.limits if limit.is_exceeded]
    if not short:
        return
    said = "; ".join(
        f"{limit.name}: the run needs about {limit.needed_bytes / 1e9:.2f} GB, and "
        f"{(limit.there_bytes or 0) / 1e9:.2f} GB are there"
        for limit in short
    )
    raise NoRoomError(said, mend=" ".join(_MENDS[limit.name] for limit in short))


_MENDS = {
    "disk": "free some space, or capture fewer layers, prompts or organisms.",
    "GPU memory": 'set quantization = "4bit" in [base], or use more or larger GPUs.',
    "host memory": "run it on the machine with the GPUs, or on a larger one.",
}


def check_room(needed_bytes: int, free_bytes: int | None, reserve_bytes: int = SPARE_BYTES) -> None:
    """
    Refuse a run that would fill the disk.

    A run stops before it takes what is to stay free; one that would have to is refused here,
    before anything is loaded and generated in vain.

    Raises:
        NoRoomError: Less is free than needed; both are named.
    """
    needed_bytes += reserve_bytes
    if free_bytes is not None and needed_bytes > free_bytes:
        raise NoRoomError(
            f"the run needs about {needed_bytes / 1e9:.2f} GB of disk, {reserve_bytes / 1e9:.2f} "
            f"GB of them to stay free, and {free_bytes / 1e9:.2f} GB are free",
            mend="free some space, capture fewer layers, prompts or organisms, or lower "
            "reserve_gb in [capture]",
        )


def _plan_footprints(
    config: RunConfig, checked: CheckedRun, organisms: Sequence[OrganismPlan]
) -> dict[str, Footprint]:
    longest = max((organism.longest for organism in organisms), default=0)
    footprints = {}
    for name, weights in checked.weights.items():
        sizes = {adapter.name: measure_adapter(adapter) for adapter in weights.adapters}
        # An author's adapter and its readers' are in memory together, and then taken off.
        together = (
            sum(sizes.get(one, 0) for one in {stage.author, *stage.readers})
            for each in list_passes(config)
            for stage in each.stages
        )
        footprints[name] = measure_footprint(
            weights.config,
            weights.skeleton,
            weights.settings,
            config.generation,
            adapter_bytes=max(together, default=0),
            longest=longest,
        )
    return footprints


def _estimate_stored(
    config: RunConfig, checked: CheckedRun, organisms: Sequence[OrganismPlan]
) -> int:
    stored = 0.0
    for organism in organisms:
        for (reader, _), size in organism.sizes.items():
            weights = checked.weights[config.weights_of(reader) or config.base.name]
            is_bfloat16 = name_dtype(weights.config, weights.skeleton) == "bfloat16"
            stored += size * (BFLOAT16_RATIO if is_bfloat16 else OTHER_RATIO)
    return math.ceil(stored) + sum(organism.rows for organism in organisms) * ROW_BYTES


def _measure_heads(
    config: RunConfig, checked: CheckedRun, organisms: Sequence[OrganismPlan]
) -> int:
    if not config.capture.head:
        return 0
    reading = {config.weights_of(reader) for organism in organisms for reader in organism.readers}
    return sum(
        measure_head(weights.config, weights.skeleton)
        for name, weights in checked.weights.items()
        if name in reading
    )


def _count_files(size_bytes: int, n_components: int) -> int:
    segments = math.ceil(size_bytes / FLUSH_BYTES)
    return segments * (FILES_PER_COMPONENT * n_components + FILES_PER_SEGMENT) + 1


def _find_store(path: Path | None) -> BaseStore | None:
    try:
        return BaseStore.open(path or Path())
    except (StoreNotFoundError, NotAStoreError):
        return None


def _read_given(config: RunConfig, store: BaseStore | None) -> dict[str, GivenResponses]:
    """Look up the responses that are to come from the store, where any are."""
    names = [name for name in config.answerers if config.is_given(name)]
    if not names:
        return {}
    if store is None:
        raise ConfigError(
            f"the responses of {names[0]!r} are to come from the store, and there is none",
            mend="import them first with `tistore import responses`, and name the store",
        )
    return read_given(store, config)


def _count_left(
    store: BaseStore,
    config: RunConfig,
    checked: CheckedRun,
    given: Mapping[str, GivenResponses],
) -> int:
    """Count the readings that a store lacks."""
    return sum(not store.holds(key) for key in Agenda(store, config, checked, dict(given)).keys)
