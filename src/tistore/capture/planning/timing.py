"""How long a run would take: from a short probe of the model, or from an earlier run's log."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import TypeVar

import numpy as np

from tistore.capture.config import RunConfig
from tistore.capture.models.load import LoadedBase, load_base
from tistore.capture.models.machine import find_existing
from tistore.capture.planning.organism_plan import FLOAT16_BYTES
from tistore.capture.planning.plan import Plan
from tistore.capture.planning.preflight import CheckedWeights
from tistore.capture.reading.generate import Draft, choose_padding, generate
from tistore.capture.reading.prefill import Prefill, TokenSequence, prefill
from tistore.errors import StoreError, StoreNotFoundError
from tistore.schemas.response import CaptureSettings
from tistore.store.base import BaseStore

Result = TypeVar("Result")

PROBE_RESPONSES = 16
"""Responses of the probe's batch, at most: enough to keep a device busy, and quick."""
PROBE_NEW_TOKENS = 16
PROBE_TOKENS = 4096
"""Tokens that the probe reads at a time, at most."""
REPEATS = 3
FEWEST_INTERVALS = 3
"""Between commits: fewer tell nothing about a night."""


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest of what was seen."""

    low: float
    high: float

    def scaled(self, factor: float) -> Range:
        """Scale both ends."""
        return Range(self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Timing:
    """
    How long what is left of a run would take, in seconds.

    Attributes:
        source: What it was told from.
        total: All of it. Its low end has writing go on behind the model without a pause; its high
            end has nothing overlap.
        load: Loading the base.
        generate: Writing the responses; None where nobody probed.
        read: Reading them, over all readers; None where nobody probed.
        write: Rounding, compressing and storing; None where nobody probed.
        generated_per_second: Tokens written in a second, by the whole batch.
        read_per_second: Tokens read in a second.
        written_per_second: Raw bytes stored in a second.
    """

    source: str
    total: Range
    load: float | None = None
    generate: Range | None = None
    read: Range | None = None
    write: Range | None = None
    generated_per_second: float | None = None
    read_per_second: float | None = None
    written_per_second: float | None = None


def probe_run(config: RunConfig, weights: CheckedWeights, planned: Plan, folder: Path) -> Timing:
    """
    Load the base, run it for a moment, and extrapolate.

    One small batch is written and read a few times by the clean base, and stored in a temporary
    store, which is removed again. A full batch of the run's is larger, and a GPU gets faster with
    it: there the estimate is on the safe side.

    Args:
        config: The run's.
        weights: Its base, checked.
        planned: What the run takes.
        folder: Where the store would lie; the disk that is probed.

    Raises:
        ModelLoadError: The base cannot be loaded.
        NoRoomError: It does not fit into the device's memory, or the disk is full.
        StoreError: The folder cannot be written to.
    """
    load, loaded = _measure(lambda: load_base(config))
    generate_one = _probe_generation(config, loaded, weights) if planned.generated_tokens else None
    sequences = _make_sequences(weights, planned)
    read_one, readings = _probe_reading(config, loaded, weights.settings, sequences)
    write_one = _probe_writing(folder, weights.settings, sequences, readings)
    left = planned.share_left
    generate = generate_one and generate_one.scaled(planned.generated_tokens * left)
    read = read_one.scaled(planned.read_tokens * left)
    write = write_one.scaled(planned.size_bytes * left)
    model_low = load + read.low + (generate.low if generate else 0.0)
    model_high = load + read.high + (generate.high if generate else 0.0)
    return Timing(
        source="a probe of the base",
        total=Range(max(model_low, write.low), model_high + write.high),
        load=load,
        generate=generate,
        read=read,
        write=write,
        generated_per_second=1 / generate_one.low if generate_one else None,
        read_per_second=1 / read_one.low,
        written_per_second=1 / write_one.low,
    )


def find_timing(path: Path | None, config: RunConfig, planned: Plan) -> Timing | None:
    """
    Estimate from what a store knows of earlier runs; see `recall_timing`.

    Returns:
        None where no store lies at the path, or it knows of no such run.
    """
    if path is None:
        return None
    try:
        store = BaseStore.open(path)
    except StoreNotFoundError:
        return None
    return recall_timing(store, config, planned)


def recall_timing(store: BaseStore, config: RunConfig, planned: Plan) -> Timing | None:
    """
    Estimate from the last run into a store with the same base, component and layer settings.

    Commits tell how many rows came how quickly; the range is that of the middle half of them.

    Returns:
        None where there is no such run, or it was too short.
    """
    run_id = _find_last_run(store, config)
    if run_id is None:
        return None
    rows = {
        segment.uuid: segment.n_rows
        for segment in store.snapshot.segments
        if run_id in segment.table("responses", ["run_id"])["run_id"].to_pylist()
    }
    commits = [
        (datetime.fromisoformat(commit.body["created_at"]).timestamp(), n_rows)
        for commit in store.snapshot.commits
        if (n_rows := sum(rows.get(entry["uuid"], 0) for entry in commit.body["segments"]))
    ]
    if len(commits) <= FEWEST_INTERVALS:
        return None
    times, counts = zip(*commits, strict=True)
    seconds_per_row = np.diff(times) / np.array(counts[1:])
    low, high = np.quantile(seconds_per_row, [0.25, 0.75])
    return Timing(
        source=f"run {run_id}",
        total=Range(float(low), float(high)).scaled(planned.rows * planned.share_left),
    )


def _find_last_run(store: BaseStore, config: RunConfig) -> str | None:
    wanted = json.loads(config.model_dump_json())
    found: list[tuple[datetime, str]] = []
    for row in store.snapshot.table("runs").to_pylist():
        ran = json.loads(row["config"])
        if row["kind"] != "ingest" or ran.get("base", {}).get("path") != wanted["base"]["path"]:
            continue
        ran_capture, capture = ran.get("capture", {}), wanted["capture"]
        if all(ran_capture.get(key) == capture[key] for key in ("layers", "components", "rows")):
            found.append((row["started_at"], row["run_id"]))
    return max(found)[1] if found else None


def _probe_generation(config: RunConfig, loaded: LoadedBase, weights: CheckedWeights) -> Range:
    """Measure the seconds that each token of a response takes, all responses together."""
    new = min(config.generation.max_new_tokens, PROBE_NEW_TOKENS)
    settings = config.generation.model_copy(update={"max_new_tokens": new})
    prompts = sorted(q.encoded.token_ids for q in weights.questions)
    middle = sorted(prompts, key=len)[len(prompts) // 2]
    drafts = [Draft(middle, seed) for seed in range(PROBE_RESPONSES)]
    seconds = []
    with loaded.reading_as(loaded.name) as model:
        generate(model, loaded.tokenizer, drafts, settings)  # the first pass of anything is slow
        for _ in range(REPEATS):
            took, made = _measure(lambda: generate(model, loaded.tokenizer, drafts, settings))
            # A batch goes on until its longest response ends.
            steps = max(len(answer.token_ids) for answer in made)
            seconds.append(took / (steps * len(drafts)))
    return Range(min(seconds), max(seconds))


def _make_sequences(weights: CheckedWeights, planned: Plan) -> list[TokenSequence]:
    """Make up sequences as long as the run's are on average, of any tokens."""
    length = max(2, round(planned.read_tokens / max(planned.readings, 1)))
    count = max(1, min(PROBE_RESPONSES, planned.responses, PROBE_TOKENS // length))
    draw = Random("probe")
    n_vocabulary = min(len(weights.tokenizer), int(weights.architecture.vocab_size))
    rows = planned.rows / max(planned.readings, 1)
    prompt_length = min(max(1, round(length - rows)), length - 1)
    return [
        TokenSequence(tuple(draw.randrange(n_vocabulary) for _ in range(length)), prompt_length)
        for _ in range(count)
    ]


def _probe_reading(
    config: RunConfig,
    loaded: LoadedBase,
    settings: CaptureSettings,
    sequences: Sequence[TokenSequence],
) -> tuple[Range, list[Prefill]]:
    """Measure the seconds that reading a token takes."""
    n_tokens = sum(len(sequence.token_ids) for sequence in sequences)
    padding = choose_padding(loaded.tokenizer)
    seconds = []
    with loaded.reading_as(loaded.name) as model:
        for _ in range(REPEATS + 1):
            took, readings = _measure(
                lambda: prefill(
                    model, sequences, settings, padding=padding, logprobs=config.capture.logprobs
                )
            )
            seconds.append(took / n_tokens)
    # The first one of anything is slow.
    return Range(min(seconds[1:]), max(seconds[1:])), readings


def _probe_writing(
    folder: Path,
    settings: CaptureSettings,
    sequences: Sequence[TokenSequence],
    readings: Sequence[Prefill],
) -> Range:
    """Measure the seconds that storing a raw byte takes."""
    values = sum(states.numel() for reading in readings for states in reading.activations.values())
    there = find_existing(folder)
    seconds = []
    try:
        with tempfile.TemporaryDirectory(prefix=".tistore-probe-", dir=there) as place:
            store = BaseStore.create(Path(place) / "probe.tistore")
            for number in range(REPEATS + 1):
                took, _ = _measure(
                    lambda number=number: _write(store, settings, sequences, readings, number)  # type: ignore[misc]
                )
                seconds.append(took / (values * FLOAT16_BYTES))
    except OSError as error:
        raise StoreError(
            f"cannot write to {there} to time it: {error.strerror}",
            mend="name a folder that can be written to with --store",
        ) from error
    # The first one of anything is slow.
    return Range(min(seconds[1:]), max(seconds[1:]))


def _write(
    store: BaseStore,
    settings: CaptureSettings,
    sequences: Sequence[TokenSequence],
    readings: Sequence[Prefill],
    number: int,
) -> None:
    with store.writer() as writer:
        for place, (sequence, reading) in enumerate(zip(sequences, readings, strict=True)):
            writer.add(
                organism="probe",
                reader="probe",
                prompt_set="probe",
                prompt_id=str(place),
                sample=number,
                token_ids=sequence.token_ids,
                prompt_length=sequence.prompt_length,
                layers=settings.layers,
                activations=reading.activations,
                logprobs=reading.logprobs,
            )


def _measure(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result
