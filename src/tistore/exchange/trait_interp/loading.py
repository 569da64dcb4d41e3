"""Reading a raw file's values, and the little that lies beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tistore.errors import ForeignFileError
from tistore.exchange.token_strings import TokenStrings
from tistore.exchange.trait_interp.documents import ReadDocument, read_response_document
from tistore.exchange.trait_interp.past import FileStamp, stamp_file
from tistore.exchange.trait_interp.planned import PlannedReading
from tistore.exchange.trait_interp.raw_file import RawFile, read_raw_file
from tistore.exchange.trait_interp.speech import Speech, describe_speech
from tistore.schemas.site import Component
from tistore.store.bfloat16 import fill_half
from tistore.store.half import HalfArray

_Pieces = list[tuple[int, NDArray[Any]]]
"""Rows, each with the place of the first."""

_LARGEST_BITS = {"float16": 0x7BFF, "bfloat16": 0x7F7F}
"""Of the largest finite number, without its sign."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedReading:
    """
    A reading with its values.

    Attributes:
        planned: What it was planned to be, of the components that were captured.
        stamp: The raw file, as it was read.
        token_ids: Prompt and response.
        prompt_length: How many of them are the prompt's.
        prompt_text: As the raw file has it.
        values: For each component, [row, layer, width] of the file's own type; bfloat16 rounded
            to float16 where it fits.
        speech: Its words.
        document: The JSON beside it, where there is one.
        notes: What people should know, of plan and speech.
    """

    planned: PlannedReading
    stamp: FileStamp
    token_ids: tuple[int, ...]
    prompt_length: int
    prompt_text: str | None
    values: dict[Component, NDArray[Any] | HalfArray]
    speech: Speech
    document: ReadDocument | None
    notes: tuple[str, ...]


def load_reading(planned: PlannedReading, speller: TokenStrings | None) -> LoadedReading:
    """
    Read what was planned, hashing the file on the way.

    Raises:
        ForeignFileError: The file has changed since it was planned, is damaged, or holds only
            zeros.
        InvalidRecordError: The tokenizer is not the response's.
    """
    stamp = stamp_file(planned.file.path)
    raw = read_raw_file(planned.file.path)
    _check_unchanged(planned, raw)
    values, notes = _read_values(planned, raw)
    kept = {ours: theirs for ours, theirs in planned.components.items() if ours in values}
    planned = replace(planned, components=kept)
    document = None
    if planned.document is not None:
        document = read_response_document(planned.document, raw.token_ids, raw.prompt_length)
    response = document.response if document else None
    speech = describe_speech(raw, response, planned.audited_stop, speller)
    return LoadedReading(
        planned=planned,
        stamp=stamp,
        token_ids=raw.token_ids,
        prompt_length=raw.prompt_length,
        prompt_text=raw.prompt.text,
        values=values,
        speech=speech,
        document=document,
        notes=(*planned.notes, *notes, *speech.notes),
    )


def _check_unchanged(planned: PlannedReading, raw: RawFile) -> None:
    placement = planned.placement
    n_rows = raw.prompt.n_rows + raw.response.n_rows - placement.n_dropped
    widths = {ours: raw.widths.get(theirs) for ours, theirs in planned.components.items()}
    if (raw.layers, widths, raw.dtype, n_rows) != (
        planned.layers, planned.widths, planned.source_dtype, placement.n_rows,
    ):  # fmt: skip
        raise ForeignFileError(f"{raw.path}: it changed while it was read", mend="read it again")


def _read_values(
    planned: PlannedReading, raw: RawFile
) -> tuple[dict[Component, NDArray[Any] | HalfArray], tuple[str, ...]]:
    """Read every component; one of nothing but zeros was not captured, and is left out."""
    values: dict[Component, NDArray[Any] | HalfArray] = {}
    notes = []
    for ours, theirs in planned.components.items():
        states = _read_component(planned, raw, theirs)
        if not isinstance(states, HalfArray):
            _check_finite(states, raw, theirs)
        if _is_zero(states.values if isinstance(states, HalfArray) else states):
            notes.append(f"left out: {theirs} holds nothing but zeros: it was not captured")
        else:
            values[ours] = states
    if not values:
        raise ForeignFileError(
            f"{raw.path}: it holds nothing but zeros: nothing was captured", mend="leave it out"
        )
    return values, tuple(notes)


def _read_component(planned: PlannedReading, raw: RawFile, name: str) -> NDArray[Any] | HalfArray:
    """Read one component, [row, layer, width]; bfloat16 is rounded here, where it fits."""
    pieces = [_list_pieces(planned, raw, name, layer) for layer in raw.layers]
    shape = (planned.placement.n_rows, len(raw.layers), raw.widths[name])
    if raw.dtype == "bfloat16" and (half := _round(pieces, shape)) is not None:
        return half
    states = np.empty(shape, dtype=pieces[0][0][1].dtype)
    # As plain words: NumPy copies those without holding the interpreter's lock.
    word = np.dtype(f"u{states.dtype.itemsize}")
    for place, of_layer in enumerate(pieces):
        for start, rows in of_layer:
            states.view(word)[start : start + len(rows), place] = rows.view(word)
    return states


def _round(pieces: Sequence[_Pieces], shape: tuple[int, int, int]) -> HalfArray | None:
    """Round bfloat16 into place; None where a value does not fit."""
    n_rows, n_layers, hidden = shape
    by_layer = np.empty((n_layers, n_rows, hidden), dtype=np.float16)
    n_underflow = 0
    for place, of_layer in enumerate(pieces):
        for start, rows in of_layer:
            found = fill_half(by_layer[place, start : start + len(rows)], rows)
            if found is None:
                return None
            n_underflow += found
    exponents = np.zeros(n_layers, dtype=np.int64)
    return HalfArray(by_layer.transpose(1, 0, 2), exponents, n_underflow)


def _list_pieces(planned: PlannedReading, raw: RawFile, name: str, layer: int) -> _Pieces:
    """Read the rows of a layer that are kept, those of each half with their place."""
    pieces: _Pieces = []
    start = 0
    for half, dropped in ((raw.prompt, 0), (raw.response, planned.placement.n_dropped)):
        if half.sites and half.n_rows > dropped:
            pieces.append((start, half.sites[layer][name].read()[dropped:]))
            start += half.n_rows - dropped
    return pieces


def _check_finite(states: NDArray[Any], raw: RawFile, name: str) -> None:
    """Refuse NaN and infinity, layer by layer."""
    for place, layer in enumerate(raw.layers):
        rows = states[:, place]
        if _is_finite(rows):
            continue
        wide = rows.astype(np.float64)
        n_nan, n_infinite = int(np.isnan(wide).sum()), int(np.isinf(wide).sum())
        row = int(np.argwhere(~np.isfinite(wide))[0][0])
        raise ForeignFileError(
            f"{raw.path}: {name} at layer {layer} holds {n_nan} NaN and {n_infinite} infinite "
            f"values, the first at position {row + (0 if raw.prompt.sites else raw.prompt_length)}",
            mend="leave it out, or capture it again",
        )


def _is_finite(rows: NDArray[Any]) -> bool:
    """Tell by the bits for two-byte floats, whose conversion would cost more than all the rest."""
    largest = _LARGEST_BITS.get(rows.dtype.name)
    if largest is None:
        return bool(np.isfinite(rows).all())
    return int((rows.view(np.uint16) & 0x7FFF).max()) <= largest


def _is_zero(states: NDArray[Any]) -> bool:
    """Tell whether nothing was captured: no state is zero throughout, so one row mostly tells."""
    return not np.any(states[0]) and not np.any(states)
