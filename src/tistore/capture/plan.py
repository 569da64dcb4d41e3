"""What a run would take, worked out without loading any weights."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from tistore.capture.adapter_files import check_adapter
from tistore.capture.architecture import load_architecture, load_tokenizer
from tistore.capture.config import RunConfig
from tistore.capture.given import GivenResponses, read_given
from tistore.capture.layers import select_layers
from tistore.capture.workload import Question, encode_questions, read_selections
from tistore.errors import ConfigError, NoRoomError, StoreError
from tistore.schemas.response import CaptureSettings
from tistore.store.base import BaseStore
from tistore.store.writer import SPARE_BYTES

FLOAT16_BYTES = 2
SEGMENT_BYTES = 256 * 1024 * 1024
FILES_PER_SEGMENT = 10
"""Three arrays of two files each, three tables, and the commit."""

BFLOAT16_RATIO = 0.75
"""Compressed size over raw, of activations that were bfloat16: measured 0.70 to 0.73."""
OTHER_RATIO = 0.92
"""The same where all ten bits of the fraction are in use: measured 0.86 to 0.92."""
ROW_BYTES = 64
"""Of tables and norms, for each row of activations."""


@dataclass(frozen=True, slots=True)
class OrganismPlan:
    """
    What one author takes.

    Attributes:
        name: The organism's.
        readers: Who reads its responses.
        responses: Responses to make, or to take from the store.
        readings: Readings to store.
        rows: Rows of activations, at most, over all readings.
        generated_tokens: Tokens to write, at most; none where responses are in the store.
    """

    name: str
    readers: tuple[str, ...]
    responses: int
    readings: int
    rows: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What a run takes: upper bounds, since responses may end early.

    Attributes:
        organisms: Each author's part, in the order they answer.
        settings: Layers, components and rows that are kept.
        hidden: Width of the model.
        dtype: Of the parameters, as loaded.
        generated_tokens: Tokens to write.
        size_bytes: Raw float16 activations.
        compressed_bytes: What they are expected to take on disk, tables included.
        files: Files in the store, about.
        free_bytes: What is free where the store would lie.
    """

    organisms: tuple[OrganismPlan, ...]
    settings: CaptureSettings
    hidden: int
    dtype: str
    generated_tokens: int
    size_bytes: int
    compressed_bytes: int
    files: int
    free_bytes: int

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


def plan(
    config: RunConfig,
    *,
    path: Path | None = None,
    given: Mapping[str, GivenResponses] | None = None,
) -> Plan:
    """
    Work out what a run takes. No weights are loaded and no store is changed.

    Args:
        config: The run's.
        path: Where the store is or would be; the current folder when left out.
        given: Responses in the store that the run is to read; looked up at `path` when left out.

    Raises:
        ModelLoadError: The base or an adapter is not there.
        SiteNotFoundError: The base has no such layer.
        ConfigError: Prompt sets share a name, or lack a prompt that is asked for; or responses
            are to come from a store that is not there, or has none.
        DatasetError: A prompt set cannot be read.
        CaptureError: A stored response does not fit the base.
    """
    architecture = load_architecture(config.base)
    settings = resolve_settings(config, architecture)
    for name, adapter in config.adapters.items():
        check_adapter(name, adapter)
    questions = encode_questions(load_tokenizer(config.base), read_selections(config))
    if given is None:
        given = _find_given(config, path)
    organisms = tuple(
        _plan_given(config, name, given[name])
        if name in given
        else _plan_organism(config, name, questions)
        for name in config.answerers
    )
    rows = sum(organism.rows for organism in organisms)
    n_sites = len(settings.layers) * len(settings.components)
    size_bytes = rows * n_sites * architecture.hidden_size * FLOAT16_BYTES
    dtype = _name_dtype(config, architecture)
    ratio = BFLOAT16_RATIO if dtype == "bfloat16" else OTHER_RATIO
    return Plan(
        organisms=organisms,
        settings=settings,
        hidden=architecture.hidden_size,
        dtype=dtype,
        generated_tokens=sum(organism.generated_tokens for organism in organisms),
        size_bytes=size_bytes,
        compressed_bytes=math.ceil(size_bytes * ratio) + rows * ROW_BYTES,
        files=math.ceil(size_bytes / SEGMENT_BYTES) * FILES_PER_SEGMENT + 1,
        free_bytes=measure_free(path or Path()),
    )


def resolve_settings(config: RunConfig, architecture: PreTrainedConfig) -> CaptureSettings:
    """
    Work out which layers a run keeps.

    Raises:
        SiteNotFoundError: The base has no such layer.
    """
    layers = select_layers(config.capture.layers, architecture.num_hidden_layers)
    return CaptureSettings(layers, config.capture.components, config.capture.rows)


def check_room(needed_bytes: int, free_bytes: int | None) -> None:
    """
    Refuse a run that would fill the disk.

    The writer keeps some room free; a run that would meet that limit is refused here, before
    anything is generated in vain.

    Raises:
        NoRoomError: Less is free than needed; both are named.
    """
    needed_bytes += SPARE_BYTES
    if free_bytes is not None and needed_bytes > free_bytes:
        raise NoRoomError(
            f"the run needs about {needed_bytes / 1e9:.2f} GB, and {free_bytes / 1e9:.2f} GB "
            "are free",
            mend="free some space, or capture fewer layers, prompts or organisms",
        )


def measure_free(path: Path) -> int:
    """Measure what is free where a path is, or would be."""
    there = path.resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _plan_organism(config: RunConfig, name: str, questions: Sequence[Question]) -> OrganismPlan:
    readers = config.readers_of(name)
    generation = config.generation
    responses = len(questions) * generation.samples
    prompt_tokens = sum(len(question.encoded.token_ids) for question in questions)
    kept = prompt_tokens * generation.samples if config.capture.rows == "all" else 0
    rows = responses * generation.max_new_tokens + kept
    return OrganismPlan(
        name=name,
        readers=readers,
        responses=responses,
        readings=responses * len(readers),
        rows=rows * len(readers),
        generated_tokens=responses * generation.max_new_tokens,
    )


def _plan_given(config: RunConfig, name: str, given: GivenResponses) -> OrganismPlan:
    readers = config.readers_of(name)
    keeps_all = config.capture.rows == "all"
    rows = sum(p.n_tokens - (0 if keeps_all else p.prompt_length) for p in given.places)
    return OrganismPlan(
        name=name,
        readers=readers,
        responses=len(given.places),
        readings=len(given.places) * len(readers),
        rows=rows * len(readers),
        generated_tokens=0,
    )


def _find_given(config: RunConfig, path: Path | None) -> dict[str, GivenResponses]:
    """Look up the responses that are to come from the store, where any are."""
    names = [name for name in config.answerers if config.is_given(name)]
    if not names:
        return {}
    try:
        store = BaseStore.open(path or Path())
    except StoreError as error:
        raise ConfigError(
            f"the responses of {names[0]!r} are to come from the store: {error.message}",
            mend="import them first with `tistore import responses`, and name the store",
        ) from error
    return read_given(store, config)


def _name_dtype(config: RunConfig, architecture: PreTrainedConfig) -> str:
    if config.base.dtype != "auto":
        return config.base.dtype
    return str(architecture.dtype or "float32").removeprefix("torch.")
