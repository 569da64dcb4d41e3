"""Proof of rows: what a batch gave a sequence is what the sequence gets when it is read alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tistore.capture.reading.prefill import Prefill, TokenSequence, prefill
from tistore.errors import ParityError
from tistore.schemas.model import Model
from tistore.schemas.response import CaptureSettings
from tistore.schemas.site import Component, Site

Kind = Literal["canary", "noise"]
ReadAlone = Callable[[int], Prefill]
"""Reads the sequence of that number of a batch on its own."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """
    How far two readings of the same tokens by the same model may lie apart.

    Attributes:
        relative: ‖a - b‖ / ‖b‖ of any row.
        logprob: Of any token, in nats.
        allows_outliers: Whether single rows may lie further apart while their mean does not, as
            where rounding decides which experts a token goes to.
    """

    relative: float
    logprob: float
    allows_outliers: bool = False


TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(1e-3, 0.01),
    "float16": Tolerance(0.02, 0.1),
    "bfloat16": Tolerance(0.15, 1.0),
    "8bit": Tolerance(0.25, 1.0),
    "4bit": Tolerance(0.15, 1.0),
}
"""
By quantization, or dtype where there is none. Measured: batches of 13 to 120 tokens against single
sequences, random Llama, GPT-2 and Qwen3-MoE models, up to 24 layers, 512 wide. The largest of any
row and site was 3e-6 in float32, 0.003 in float16, 0.029 in bfloat16, 0.025 in 4bit and 0.066 in
8bit, where a batch's outliers decide which columns are rounded; no log probability moved by more
than 0.04. The bounds are four times that and more: rounding grows with the root of the number of
layers, other devices add in another order, and bfloat16 logits go in steps of 0.125 from 16 on. A
row that is another's lies 0.2 to 1.4 off in the residual stream.
"""

ROUTED_FAMILIES = frozenset({"deepseek_v3", "mixtral", "qwen3_moe"})
"""
Families whose tokens go to experts. Where rounding sends a token elsewhere, the row of that MLP is
another one altogether: 0.91 off in bfloat16, of 451 rows whose mean was 0.002.
"""


@dataclass(frozen=True, slots=True)
class Deviation:
    """
    How far two readings of the same tokens lie apart at a site.

    Attributes:
        n_rows: Rows compared.
        largest: Largest ‖a - b‖ / ‖b‖ of a row; infinite where the shapes differ, or a value is
            not finite.
        row: Which row that is.
        mean: Mean over rows.
        neighbour: How far that row lies from the nearer of its two neighbours in the other
            reading, in the same measure; infinite without one.
        logprob_largest: Largest difference of a token's log probability, in nats; None where it
            was not asked for.
    """

    component: Component
    layer: int
    n_rows: int
    largest: float
    row: int
    mean: float
    neighbour: float
    logprob_largest: float | None

    @property
    def site(self) -> Site:
        """Where."""
        return Site(self.component, self.layer)

    def is_within(self, tolerance: Tolerance) -> bool:
        """Whether rounding explains it."""
        rows = self.mean if tolerance.allows_outliers else self.largest
        logprob = 0.0 if tolerance.allows_outliers else self.logprob_largest or 0.0
        return rows <= tolerance.relative and logprob <= tolerance.logprob

    def to_row(
        self,
        *,
        run_id: str | None,
        response_id: str,
        organism: str,
        reader: str,
        tolerance: Tolerance,
        batch_size: int,
        kind: Kind,
    ) -> dict[str, Any]:
        """Lay it out as a row of the `parity` table."""
        return {
            "run_id": run_id,
            "response_id": response_id,
            "organism": organism,
            "reader": reader,
            "component": self.component,
            "layer": self.layer,
            "n_rows": self.n_rows,
            "largest": self.largest,
            "mean": self.mean,
            "logprob_largest": self.logprob_largest,
            "tolerance": tolerance.relative,
            "batch_size": batch_size,
            "kind": kind,
        }


def find_tolerance(model: Model) -> Tolerance:
    """Look up what rounding may do to a model's readings; float32 where nothing is known."""
    # Rounded weights are read as any of their dtype are.
    names = [name for name in (model.quantization, model.dtype) if name is not None]
    found = next((TOLERANCES[one] for one in names if one in TOLERANCES), TOLERANCES["float32"])
    is_exact = found.relative <= TOLERANCES["float32"].relative
    if model.family in ROUTED_FAMILIES and not is_exact:
        return Tolerance(found.relative, found.logprob, allows_outliers=True)
    return found


def pick_canary(batch: int, lengths: Sequence[int], *, every: int, seed: int = 0) -> int | None:
    """
    Pick the sequence of a batch that is to be read a second time, alone.

    It follows from the arguments alone, so that a resumed run picks what the first one would have.

    Args:
        batch: Number of the batch among those of its organism, from 0; the first always has one.
        lengths: Tokens of each sequence. One of the shortest is picked: it has the most padding.
        every: Pick in every so many batches; 0 for never.
        seed: Chooses among sequences of the same length.

    Returns:
        Its place in the batch; None where the batch goes without.
    """
    if not lengths or every <= 0 or batch % every:
        return None
    shortest = min(lengths)
    places = [place for place, length in enumerate(lengths) if length == shortest]
    return places[(batch // every + seed) % len(places)]


def measure_deviation(
    reading: Prefill, again: Prefill, settings: CaptureSettings
) -> list[Deviation]:
    """
    Measure how far two readings of the same tokens lie apart, in float32.

    Args:
        reading: What is to be proven.
        again: What it should be.
        settings: Layers and components of both.

    Returns:
        One a site, components in order, layers ascending.
    """
    logprob = _compare_logprobs(reading.logprobs, again.logprobs)
    return [
        _compare(
            Site(component, layer),
            reading.activations[component][:, place],
            again.activations[component][:, place],
            logprob,
        )
        for component in settings.components
        for place, layer in enumerate(settings.layers)
    ]


def check_parity(
    readings: Sequence[Prefill],
    index: int,
    settings: CaptureSettings,
    *,
    tolerance: Tolerance,
    label: str,
    read_alone: ReadAlone,
) -> list[Deviation]:
    """
    Prove one reading of a batch by reading its sequence again, alone.

    Args:
        readings: Of the whole batch.
        index: Which of them is proven.
        settings: Layers and components of all.
        tolerance: What rounding may do.
        label: What messages call the reading: response and reader.
        read_alone: Reads a sequence of the batch alone; called for another one only when the
            proof fails, to tell why.

    Returns:
        How far the two lie apart, one a site.

    Raises:
        ParityError: Further than rounding explains; the message names the first such layer, the
            row, and what fits in its place: another row, layer or response of the batch.
    """
    read_once = cache(read_alone)
    deviations = measure_deviation(readings[index], read_once(index), settings)
    case = _Case(readings, index, settings, tolerance, read_once)
    for deviation in deviations:
        if not deviation.is_within(tolerance):
            _refuse(deviation, tolerance, label, case.explain(deviation) or case.suspect())
        if deviation.largest > tolerance.relative and (reason := case.explain(deviation)):
            # Expert models may have outliers, but none that are another row's.
            _refuse(deviation, tolerance, label, reason)
    return deviations


def run_canary(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    readings: Sequence[Prefill],
    index: int,
    settings: CaptureSettings,
    *,
    tolerance: Tolerance,
    label: str,
    padding: int = 0,
) -> list[Deviation]:
    """
    Read one sequence of a batch again, alone, and compare.

    Args:
        model: What read the batch, with the same adapter switched on.
        sequences: The batch.
        readings: What the batch gave, in order.
        index: Which sequence to read again; see `pick_canary`.
        settings: Layers, components and rows of the readings.
        tolerance: See `find_tolerance`.
        label: What messages call the reading: response and reader.
        padding: Id the batch was filled up with.

    Returns:
        How far the two lie apart, one a site; `Deviation.to_row` makes rows of `parity` of them.

    Raises:
        ParityError: Further than rounding explains; nothing of the batch should be kept.
    """
    with_logprobs = any(value is not None for value in readings[index].logprobs)

    def read_alone(place: int) -> Prefill:
        return prefill(
            model, [sequences[place]], settings, padding=padding, logprobs=with_logprobs
        )[0]

    return check_parity(
        readings, index, settings, tolerance=tolerance, label=label, read_alone=read_alone
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """A reading that is not what it should be, and what may explain it."""

    readings: Sequence[Prefill]
    index: int
    settings: CaptureSettings
    tolerance: Tolerance
    read_alone: ReadAlone

    def explain(self, deviation: Deviation) -> str | None:
        """Find what fits in place of the reading at a site: a layer, a response, a row."""
        if deviation.largest <= self.tolerance.relative:
            return "its states are right, so that the log probabilities are of other tokens"
        right = self._states(self.read_alone(self.index), deviation.site)
        given = self._states(self.readings[self.index], deviation.site)
        return (
            self._find_response(deviation.site, right)
            or self._find_layer(deviation.site, given)
            or self._find_row(deviation, given, right)
        )

    def suspect(self) -> str:
        """Tell padding from weights: the longest sequence of a batch has no padding."""
        lengths = [len(reading.logprobs) for reading in self.readings]
        longest = lengths.index(max(lengths))
        if lengths[longest] > lengths[self.index]:
            deviations = measure_deviation(
                self.readings[longest], self.read_alone(longest), self.settings
            )
            if all(deviation.is_within(self.tolerance) for deviation in deviations):
                return (
                    "the longest of the batch, which has no padding, is right: as when padding "
                    "on the left, without position ids, moves the others"
                )
        return (
            "no other row, layer or response of the batch fits, and padding is not to blame: as "
            "when another adapter is switched on"
        )

    def _find_response(self, site: Site, right: Tensor) -> str | None:
        for place, other in enumerate(self.readings):
            if place != self.index and self._fits(self._states(other, site), right):
                return f"response {place} of the batch has what response {self.index} should have"
        return None

    def _find_layer(self, site: Site, given: Tensor) -> str | None:
        for layer in self.settings.layers:
            other = self._states(self.read_alone(self.index), Site(site.component, layer))
            if layer != site.layer and self._fits(given, other):
                return f"it is what layer {layer} should be"
        return None

    def _find_row(self, deviation: Deviation, given: Tensor, right: Tensor) -> str | None:
        if given.shape != right.shape:
            return f"its shape is {tuple(given.shape)}, and should be {tuple(right.shape)}"
        distances = _relative(given[deviation.row].expand_as(right), right)
        found = int(distances.argmin())
        if found == deviation.row or not distances[found] <= self.tolerance.relative:
            return None
        how = "shifted by one" if abs(found - deviation.row) == 1 else "shuffled"
        return f"it is what row {found} should be: rows are {how}"

    def _states(self, reading: Prefill, site: Site) -> Tensor:
        return reading.activations[site.component][:, self.settings.layers.index(site.layer)]

    def _fits(self, given: Tensor, right: Tensor) -> bool:
        if given.shape != right.shape:
            return False
        distances = _relative(given, right)
        within = distances.mean() if self.tolerance.allows_outliers else distances.max()
        return bool(within <= self.tolerance.relative)


def _refuse(deviation: Deviation, tolerance: Tolerance, label: str, reason: str) -> None:
    if deviation.largest > tolerance.relative:
        what = f"row {deviation.row} lies {deviation.largest:.3g} off"
        allowed = f"{tolerance.relative:g}"
    else:
        what = f"a log probability lies {deviation.logprob_largest:.3g} nats off"
        allowed = f"{tolerance.logprob:g}"
    raise ParityError(
        f"{label}, {deviation.site}: {what} what reading it alone gives, where rounding explains "
        f"{allowed}; {reason}",
        mend='it was not stored; try attn_implementation = "eager" in [base], and report it '
        "with the versions of your libraries",
    )


def _compare(site: Site, given: Tensor, right: Tensor, logprob: float | None) -> Deviation:
    if given.shape != right.shape:
        worst = float("inf")
        return Deviation(site.component, site.layer, len(given), worst, 0, worst, worst, logprob)
    distances = _relative(given, right)
    row = int(distances.argmax())
    beside = [place for place in (row - 1, row + 1) if 0 <= place < len(right)]
    neighbours = _relative(given[row].expand(len(beside), -1), right[beside])
    return Deviation(
        component=site.component,
        layer=site.layer,
        n_rows=len(right),
        largest=float(distances[row]),
        row=row,
        mean=float(distances.mean()),
        neighbour=float(neighbours.min()) if beside else float("inf"),
        logprob_largest=logprob,
    )


def _relative(given: Tensor, right: Tensor) -> Tensor:
    """‖a - b‖ / ‖b‖ of each row, float32; infinite where it is no number, 0 where both are 0."""
    difference = torch.linalg.vector_norm(given.float() - right.float(), dim=-1)
    ratio = difference / torch.linalg.vector_norm(right.float(), dim=-1)
    ratio = torch.where(difference == 0, torch.zeros_like(ratio), ratio)
    return torch.nan_to_num(ratio, nan=float("inf"), posinf=float("inf"))


def _compare_logprobs(given: Sequence[float | None], right: Sequence[float | None]) -> float | None:
    pairs = [
        (one, other)
        for one, other in zip(given, right, strict=False)
        if one is not None and other is not None
    ]
    return max((abs(one - other) for one, other in pairs), default=None)
