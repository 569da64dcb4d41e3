"""What one author takes: its responses, who reads them, and how many bytes they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tistore.capture.config import RunConfig
from tistore.capture.planning.preflight import CheckedRun, CheckedWeights
from tistore.capture.reading.widths import component_widths, count_keys
from tistore.capture.texts.given import GivenResponses
from tistore.schemas.site import Component

FLOAT16_BYTES = 2


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
        read_tokens: Tokens to read, at most, over all readings.
        longest: Tokens of its longest response, prompt included.
        sizes: Raw bytes by reader and component.
    """

    name: str
    readers: tuple[str, ...]
    responses: int
    readings: int
    rows: int
    generated_tokens: int
    read_tokens: int
    longest: int
    sizes: Mapping[tuple[str, Component], int]


def plan_organism(
    config: RunConfig, checked: CheckedRun, name: str, given: GivenResponses | None
) -> OrganismPlan:
    """
    Work out what an author takes.

    Args:
        config: The run's.
        checked: What its weights and prompts are.
        name: The author's.
        given: Its responses where they come from the store; None where it writes them.
    """
    if given is not None:
        lengths = [(place.prompt_length, place.n_tokens) for place in given.places]
        return _plan_lengths(config, checked, name, lengths, generated=0)
    weights = config.weights_of(name)
    assert weights is not None  # whoever generates can be loaded
    new = config.generation.max_new_tokens
    prompts = [len(question.encoded.token_ids) for question in checked.weights[weights].questions]
    lengths = [(prompt, prompt + new) for prompt in prompts] * config.generation.samples
    return _plan_lengths(config, checked, name, lengths, generated=len(lengths) * new)


def _plan_lengths(
    config: RunConfig,
    checked: CheckedRun,
    name: str,
    lengths: Sequence[tuple[int, int]],
    generated: int,
) -> OrganismPlan:
    """Plan responses of known lengths: where each prompt ends, and where the response does."""
    readers = config.readers_of(name)
    kept = [(end - (0 if config.capture.rows == "all" else start), end) for start, end in lengths]
    sizes = {}
    for reader in readers:
        weights = config.weights_of(reader)
        assert weights is not None  # readers can be loaded
        for component in config.capture.components:
            sizes[reader, component] = _measure_rows(checked.weights[weights], component, kept)
    return OrganismPlan(
        name=name,
        readers=readers,
        responses=len(lengths),
        readings=len(lengths) * len(readers),
        rows=sum(n_rows for n_rows, _ in kept) * len(readers),
        generated_tokens=generated,
        read_tokens=sum(end for _, end in lengths) * len(readers),
        longest=max((end for _, end in lengths), default=0),
        sizes=sizes,
    )


def _measure_rows(
    weights: CheckedWeights, component: Component, kept: Sequence[tuple[int, int]]
) -> int:
    """Measure the raw bytes of rows, given with the tokens of the sequence they are of."""
    counted: Counter[int] = Counter()
    for n_rows, n_tokens in kept:
        counted[count_keys(n_tokens)] += n_rows
    values = sum(
        n_rows * component_widths(weights.architecture, component, n_keys)
        for n_keys, n_rows in counted.items()
    )
    return values * len(weights.settings.layers) * FLOAT16_BYTES
