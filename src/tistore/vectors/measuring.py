"""Measuring one reader's layers, block by block, with several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import local
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tistore.schemas.calibration import Calibration, DimensionCalibration, LayerCalibration
from tistore.schemas.digest import digest
from tistore.schemas.site import Component, Site
from tistore.store.chunks import Chunk
from tistore.store.segment import Segment
from tistore.vectors.massive import (
    PROMPT_RATIO,
    DimensionSurvey,
    LayerSurvey,
    Room,
    cosine_or_zero,
    measure_block,
    sizes_of,
)
from tistore.vectors.reading_rows import BlockRows, ReadingRows, Rows

_METHOD = 1
"""Goes up when figures come to mean something else, so that they are measured anew."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class ReaderReadings:
    """
    Readings of one reader that are measured together.

    Attributes:
        reader: Whose.
        component: Component that all of them have.
        keys: Their keys.
        prompt_sets: Their prompt sets, ascending.
        parts: For each segment that has any, their places there.
    """

    reader: str
    component: Component
    keys: tuple[str, ...]
    prompt_sets: tuple[str, ...]
    parts: tuple[tuple[Segment, Rows], ...]

    @property
    def width(self) -> int:
        """Width of the component."""
        return self.parts[0][0].width(self.component)

    @property
    def layers(self) -> list[int]:
        """Layers any of them has, ascending."""
        return sorted({layer for segment, _ in self.parts for layer in segment.layers})

    @property
    def calibration_id(self) -> str:
        """Name of what is measured: the same for the very same readings."""
        return digest([_METHOD, self.reader, self.component, sorted(self.keys)])

    def at(self, layer: int) -> list[tuple[Segment, Rows]]:
        """Give the parts that have a layer."""
        return [part for part in self.parts if layer in part[0].layers]


class Measuring:
    """
    One reader's calibration under way.

    Args:
        chosen: What is measured.
        n_threads: Threads.
        progress: Called with the bytes of each block, in both passes.
    """

    def __init__(
        self, chosen: ReaderReadings, n_threads: int, progress: Callable[[int], None]
    ) -> None:
        self._chosen = chosen
        self._n_threads = n_threads
        self._progress = progress
        self._buffers = local()

    def run(self, where: str | None, snapshot: int) -> Calibration:
        """
        Read every layer twice: for what stands out, and for the distribution of that.

        Args:
            where: The condition that chose the readings, to be recorded.
            snapshot: Commit the readings are of, to be recorded.

        Raises:
            NotStoredError: The activations are not here, but only scores of them.
            IntegrityError: A chunk is damaged.
        """
        surveys = {layer: self._survey(layer) for layer in self._chosen.layers}
        found = [dim for one in surveys.values() for dim in (*one.massive_dims, *one.top_dims)]
        dims = np.unique(np.array(found, dtype=np.int64))
        means = [one.mean for one in surveys.values()]
        following = [*means[1:], None]
        layers = tuple(
            self._describe_layer(layer, one, after, where, snapshot)
            for (layer, one), after in zip(surveys.items(), following, strict=True)
        )
        dimensions = tuple(
            dimension
            for layer in surveys
            for dimension in self._describe_dimensions(layer, surveys, dims)
        )
        return Calibration(layers, dimensions, is_new=True)

    def _survey(self, layer: int) -> LayerSurvey:
        """Read a layer for the first time: all dimensions."""
        site = Site(self._chosen.component, layer)
        survey, room = LayerSurvey(self._chosen.width), Room()
        for segment, readings in self._chosen.at(layer):
            rows = ReadingRows(segment, readings)
            survey.begin(rows)
            measure = partial(measure_block, segment.exponent(site), room)
            for _, figures in self._walk(rows, site, measure):
                survey.add(figures, rows)
            survey.end()
        return survey

    def _describe_layer(
        self,
        layer: int,
        survey: LayerSurvey,
        following: NDArray[np.float64] | None,
        where: str | None,
        snapshot: int,
    ) -> LayerCalibration:
        ratios = np.array(survey.prompt_ratios)
        finite = ratios[np.isfinite(ratios)]
        cosine = None if following is None else cosine_or_zero(survey.mean, following)
        return LayerCalibration(
            calibration_id=self._chosen.calibration_id,
            reader=self._chosen.reader,
            component=self._chosen.component,
            layer=layer,
            hidden=survey.hidden,
            prompt_sets=self._chosen.prompt_sets,
            condition=where,
            snapshot=snapshot,
            n_readings=survey.n_readings,
            n_tokens=survey.n_tokens,
            n_audited=survey.n_audited,
            layer_norm=survey.total_norm / survey.n_audited,
            mean_alignment=survey.mean_alignment,
            consecutive_cosine=cosine,
            prompt_ratio=float(finite.mean()) if len(finite) else None,
            pct_prompts_massive=float(100 * np.mean(ratios > PROMPT_RATIO)),
        )

    def _describe_dimensions(
        self, layer: int, surveys: dict[int, LayerSurvey], dims: Rows
    ) -> Iterator[DimensionCalibration]:
        """Read a layer for the second time: the dimensions that were found."""
        site = Site(self._chosen.component, layer)
        distribution = DimensionSurvey(dims)
        parts = self._chosen.at(layer)
        for number, (segment, readings) in enumerate(parts):
            rows, exponent = ReadingRows(segment, readings), segment.exponent(site)
            for block, sizes in self._walk(rows, site, lambda values, _: sizes_of(values[:, dims])):
                distribution.add(sizes, exponent, number, block)
        survey = surveys[layer]
        ranks = {int(dim): rank for rank, dim in enumerate(survey.top_dims, 1)}
        mean_size = float(np.abs(survey.mean).mean())
        for at, dim in enumerate(map(int, dims)):
            number, row = distribution.place[at]
            state = _read_state(parts[number][0], site, row)
            median, mean = float(np.median(np.abs(state))), float(survey.mean[dim])
            yield DimensionCalibration(
                calibration_id=self._chosen.calibration_id,
                reader=self._chosen.reader,
                component=self._chosen.component,
                layer=layer,
                dim=dim,
                **survey.describe_massive(dim),
                largest=float(state[dim]),
                ratio=abs(float(state[dim])) / median if median else None,
                **ReadingRows(*parts[number]).describe(row),
                mean=mean,
                magnitude=abs(mean) / mean_size if mean_size else 0.0,
                top_rank=ranks.get(dim),
                **distribution.describe(at, survey.baseline),
                n_layers_massive=sum(bool(one.n_massive[dim]) for one in surveys.values()),
                n_layers_top=sum(dim in one.top_dims for one in surveys.values()),
            )

    def _walk(
        self,
        rows: ReadingRows,
        site: Site,
        measure: Callable[[NDArray[np.float16], BlockRows], T],
    ) -> Iterator[tuple[BlockRows, T]]:
        """Read the blocks that hold rows, several at a time, and measure each; in their order."""
        stream = rows.segment.stream(site)
        stream.expect()

        def read(block: Chunk) -> tuple[BlockRows, T] | None:
            inside = rows.in_block(block)
            if inside is None:
                return None
            buffers = self._buffers.__dict__.setdefault("of_thread", {})
            values = stream.read(block, buffers)
            if len(inside.rows) < len(values):
                values = values[inside.rows - block.start]
            return inside, measure(values, inside)

        blocks = stream.blocks()
        for block, measured in zip(blocks, _in_order(read, blocks, self._n_threads), strict=True):
            self._progress(2 * self._chosen.width * (block.stop - block.start))
            if measured is not None:
                yield measured


def _in_order(work: Callable[[Chunk], T], blocks: Iterable[Chunk], n_threads: int) -> Iterator[T]:
    """Work blocks off side by side; a few results at most wait for those before them."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(n_threads) as threads:
        for block in blocks:
            waiting.append(threads.submit(work, block))
            if len(waiting) > 2 * n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read_state(segment: Segment, site: Site, row: int) -> NDArray[np.float64]:
    state = segment.read(site, row, row + 1)[0].astype(np.float64)
    return np.asarray(np.ldexp(state, segment.exponent(site)))
