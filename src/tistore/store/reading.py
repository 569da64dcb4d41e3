"""A reading on its way into a segment: checked, rounded, and ready to be laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tistore.datasets.clauses import Clause, Offset, align_tokens, split_clauses
from tistore.errors import InvalidRecordError
from tistore.schemas.digest import DIGEST_LENGTH
from tistore.schemas.model import Model
from tistore.schemas.response import (
    CaptureSettings,
    ResponseSlot,
    Rows,
    identify_reading,
    identify_response,
)
from tistore.schemas.site import COMPONENTS, Component
from tistore.store.half import HalfArray, as_array, to_half

_HASHED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class TokenColumns:
    """
    What is known of each token of the sequence, prompt and response.

    Every column has one entry a token; None stands for an unknown value.
    """

    ids: NDArray[np.int32]
    strings: Sequence[str | None]
    roles: Sequence[str]
    turns: Sequence[int]
    is_response: NDArray[np.bool_]
    logprobs: Sequence[float | None]
    offsets: Sequence[Offset | None]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """
    One response as seen by one reader, validated.

    Attributes:
        first_position: Position in the sequence of row 0.
        halves: For each component, its activations: [row, layer, hidden].
        clauses: Clauses of the response, token ranges counted from the sequence's start.
        content_hash: Hash of the tokens and of every stored value.
    """

    slot: ResponseSlot
    organism: Model
    reader: Model
    settings: CaptureSettings
    response_id: str
    prompt_length: int
    first_position: int
    text: str | None
    finish_reason: str | None
    run_id: str | None
    tokens: TokenColumns
    clauses: Sequence[Clause]
    halves: Mapping[str, HalfArray]
    content_hash: str

    @property
    def key(self) -> str:
        """Key under which the reading is committed once."""
        return identify_reading(self.slot, self.reader.name, self.settings)

    @property
    def widths(self) -> dict[Component, int]:
        """Width of each component."""
        components = self.settings.components
        return {component: self.halves[component].values.shape[2] for component in components}

    @property
    def shape(self) -> tuple[Any, ...]:
        """What readings must have in common to share a segment."""
        return self.settings.layers, tuple(self.widths.items())

    @property
    def n_rows(self) -> int:
        """Rows of the activations."""
        return int(next(iter(self.halves.values())).values.shape[0])

    @property
    def captured(self) -> slice:
        """Positions in the sequence that have a row."""
        return slice(self.first_position, self.first_position + self.n_rows)

    @property
    def size_bytes(self) -> int:
        """Bytes of float16 the reading adds to its segment."""
        return sum(half.values.nbytes for half in self.halves.values())

    def __str__(self) -> str:
        """Name the reading as error messages do."""
        return f"{self.slot}, read by {self.reader.name}"


def validate_reading(
    *,
    slot: ResponseSlot,
    organism: Model,
    reader: Model,
    token_ids: Sequence[int],
    prompt_length: int,
    layers: Sequence[int],
    activations: Mapping[str, Any],
    text: str | None,
    tokens: Sequence[str] | None,
    logprobs: Sequence[float | None] | None,
    offsets: Sequence[Offset] | None,
    roles: Sequence[str] | None,
    turns: Sequence[int] | None,
    is_response: Sequence[bool] | None,
    finish_reason: str | None,
    first_position: int | None,
    run_id: str | None,
) -> Reading:
    """
    Check everything about a reading and round its activations to float16.

    `Writer.add` documents the arguments.

    Raises:
        InvalidRecordError: Something is not as it must be; the message names the reading.
        NonFiniteError: A layer holds NaN or infinity.
    """
    label = f"{slot}, read by {reader.name}"
    for name, value in (
        ("organism", slot.organism),
        ("reader", reader.name),
        ("prompt_set", slot.prompt_set),
        ("prompt_id", slot.prompt_id),
    ):
        if not isinstance(value, str) or not value:
            raise InvalidRecordError(f"{label}: {name} must be a string, not {value!r}")
        _check_texts([value], name, label)
    for name, texts in (("text", [text]), ("tokens", tokens), ("roles", roles)):
        _check_texts(texts, name, label)
    _check_texts([finish_reason], "finish_reason", label)
    _check_texts([run_id], "run_id", label)
    for name, numbers in (("sample", [slot.sample]), ("turns", turns)):
        _check_numbers(numbers, name, label, are_whole=True)
    _check_numbers(logprobs, "logprobs", label, are_whole=False)
    ids = _check_ids(token_ids, prompt_length, label)
    checked_layers = _check_layers(layers, label)
    arrays = _check_arrays(activations, checked_layers, label)
    n_rows = next(iter(arrays.values())).shape[0]
    first, rows = _place_rows(n_rows, len(ids), prompt_length, first_position, label)
    captured = slice(first, first + n_rows)
    columns = _build_columns(
        ids,
        prompt_length,
        captured,
        label,
        text=text,
        tokens=tokens,
        logprobs=logprobs,
        offsets=offsets,
        roles=roles,
        turns=turns,
        is_response=is_response,
    )
    halves = {
        component: given
        if isinstance(given := activations[component], HalfArray)
        else to_half(array, checked_layers, f"{label}, {component}")
        for component, array in arrays.items()
    }
    response_id = identify_response(slot, ids.tolist(), prompt_length)
    spelled = "".join(string or "" for string in columns.strings[prompt_length:])
    return Reading(
        slot=slot,
        organism=organism,
        reader=reader,
        settings=CaptureSettings(checked_layers, tuple(sorted(arrays)), rows),  # type: ignore[arg-type]
        response_id=response_id,
        prompt_length=prompt_length,
        first_position=first,
        text=text if text is not None else spelled if tokens is not None else None,
        finish_reason=finish_reason,
        run_id=run_id,
        tokens=columns,
        clauses=_find_clauses(columns, prompt_length, captured.stop, text),
        halves=halves,
        content_hash=hash_content(response_id, halves),
    )


def _check_texts(texts: Sequence[str | None] | None, name: str, label: str) -> None:
    """Refuse now what a table could not hold at the commit, where it would cost every reading."""
    given = () if texts is None else texts
    try:
        "".join("" if text is None else text for text in given).encode()
    except TypeError as error:
        raise InvalidRecordError(f"{label}: {name} must be text; {error}") from error
    except UnicodeEncodeError as error:
        raise InvalidRecordError(
            f"{label}: {name} holds {error.object[error.start]!a}, half of a character",
            mend="write U+FFFD in its place, which is what a decoder makes of it",
        ) from error


def _check_numbers(
    numbers: Sequence[Any] | None, name: str, label: str, *, are_whole: bool
) -> None:
    """Refuse now what would fail the commit, as `_check_texts` does; None is for the unknown."""
    for number in () if numbers is None else numbers:
        is_number = isinstance(number, Integral if are_whole else Real)
        if (number is not None or are_whole) and (isinstance(number, bool) or not is_number):
            what = "whole numbers" if are_whole else "numbers"
            raise InvalidRecordError(f"{label}: {name} must be {what}, not {number!r}")


def _check_ids(token_ids: Sequence[int], prompt_length: int, label: str) -> NDArray[np.int32]:
    ids = np.asarray(token_ids)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise InvalidRecordError(f"{label}: token_ids must be a list of integers, and not empty")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise InvalidRecordError(f"{label}: token_ids hold {ids.min()} to {ids.max()}")
    if not 0 <= prompt_length <= ids.size:
        raise InvalidRecordError(
            f"{label}: prompt_length is {prompt_length}, but there are {ids.size} token_ids",
            mend="token_ids are the prompt's and the response's together",
        )
    return ids.astype(np.int32)


def _check_layers(layers: Sequence[int], label: str) -> tuple[int, ...]:
    checked = tuple(int(layer) for layer in layers)
    if not checked:
        raise InvalidRecordError(f"{label}: layers is empty")
    if checked[0] < 0 or any(a >= b for a, b in zip(checked, checked[1:], strict=False)):
        raise InvalidRecordError(
            f"{label}: layers must be ascending block numbers from 0, not {list(checked)}",
            mend="sort the layers, and the activations' layer axis with them",
        )
    return checked


def _check_arrays(
    activations: Mapping[str, Any], layers: tuple[int, ...], label: str
) -> dict[str, NDArray[Any]]:
    if not activations:
        raise InvalidRecordError(f"{label}: activations is empty")
    arrays: dict[str, NDArray[Any]] = {}
    for component, values in activations.items():
        if component not in COMPONENTS:
            raise InvalidRecordError(
                f"{label}: no component {component!r}; there are {', '.join(COMPONENTS)}"
            )
        array = as_array(values, f"{label}, {component}")
        if array.ndim != 3 or array.shape[1] != len(layers) or array.shape[2] == 0:
            raise InvalidRecordError(
                f"{label}: {component} has shape {array.shape}; "
                f"expected [rows, {len(layers)} layers, width]"
            )
        arrays[component] = array
    if len({array.shape[0] for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InvalidRecordError(f"{label}: components differ in rows: {shapes}")
    return arrays


def _place_rows(
    n_rows: int, n_ids: int, prompt_length: int, first_position: int | None, label: str
) -> tuple[int, Rows]:
    """Tell the position of row 0, and whether rows are of all tokens or the response's."""
    n_response = n_ids - prompt_length
    if first_position is None and n_rows in (n_ids, n_response):
        return n_ids - n_rows, "all" if n_rows == n_ids else "response"
    if first_position is None:
        raise InvalidRecordError(
            f"{label}: activations have {n_rows} rows, but there are {n_ids} tokens, "
            f"{n_response} of them the response's",
            mend="give a row for every token, or for every token of the response; row t is the "
            "state at token t. Where the last tokens have no state, say where row 0 belongs: "
            f"first_position=0, or {prompt_length} for the response's first token",
        )
    if first_position not in (0, prompt_length) or n_rows > n_ids - first_position:
        raise InvalidRecordError(
            f"{label}: {n_rows} rows from position {first_position} on do not fit {n_ids} tokens, "
            f"{prompt_length} of them the prompt's",
            mend=f"rows begin at the first token (0) or at the response's ({prompt_length})",
        )
    return first_position, "all" if first_position == 0 else "response"


def _build_columns(
    ids: NDArray[np.int32],
    prompt_length: int,
    captured: slice,
    label: str,
    *,
    text: str | None,
    tokens: Sequence[str] | None,
    logprobs: Sequence[float | None] | None,
    offsets: Sequence[Offset] | None,
    roles: Sequence[str] | None,
    turns: Sequence[int] | None,
    is_response: Sequence[bool] | None,
) -> TokenColumns:
    n_ids, n_response = len(ids), len(ids) - prompt_length
    audited = np.arange(n_ids) >= prompt_length
    strings = _widen(tokens, n_ids, n_response, "tokens", label)
    spans: Sequence[Offset | None] = [None] * n_ids
    if offsets is None and tokens is not None:
        # Without a text the tokens spell it; with one they may or may not.
        response = [string or "" for string in strings[prompt_length:]]
        offsets = align_tokens("".join(response) if text is None else text, response)
    if offsets is not None:
        _check_offsets(offsets, text, n_response, label)
        spans = [None] * prompt_length + list(offsets)
    for name, column in (("roles", roles), ("turns", turns), ("is_response", is_response)):
        if column is not None and len(column) != n_ids:
            raise InvalidRecordError(f"{label}: {len(column)} {name} for {n_ids} tokens")
    return TokenColumns(
        ids=ids,
        strings=strings,
        roles=roles if roles is not None else ["assistant" if r else "prompt" for r in audited],
        turns=turns if turns is not None else [int(r) for r in audited],
        is_response=_mark_audited(audited, captured, is_response, label),
        logprobs=_widen(logprobs, n_ids, n_response, "logprobs", label),
        offsets=spans,
    )


def _mark_audited(
    after_prompt: NDArray[np.bool_], captured: slice, given: Sequence[bool] | None, label: str
) -> NDArray[np.bool_]:
    """Mark the tokens under audit: as given, or those after the prompt that have a row."""
    has_row = np.zeros(len(after_prompt), dtype=bool)
    has_row[captured] = True
    if given is None:
        return after_prompt & has_row
    marked = np.asarray(given, dtype=bool)
    if (marked & ~has_row)[captured.stop :].any():
        raise InvalidRecordError(
            f"{label}: is_response marks tokens from position {captured.stop} on, which have no "
            "row of activations",
            mend="mark only tokens that were captured: means run over the marked ones",
        )
    return marked


def _widen(
    column: Sequence[Any] | None, n_ids: int, n_response: int, name: str, label: str
) -> Sequence[Any]:
    """Bring a column given for all tokens, or for the response's, to one entry a token."""
    if column is None:
        return [None] * n_ids
    if len(column) == n_ids:
        return column
    if len(column) == n_response:
        return [None] * (n_ids - n_response) + list(column)
    raise InvalidRecordError(
        f"{label}: {len(column)} {name}, but there are {n_ids} tokens, "
        f"{n_response} of them the response's"
    )


def _check_offsets(
    offsets: Sequence[Offset], text: str | None, n_response: int, label: str
) -> None:
    if len(offsets) != n_response:
        raise InvalidRecordError(f"{label}: {len(offsets)} offsets for {n_response} tokens")
    last = len(text) if text is not None else None
    for start, end in offsets:
        if start < 0 or end < start or (last is not None and end > last):
            raise InvalidRecordError(
                f"{label}: offset ({start}, {end}) lies outside the text of {last} characters"
            )


def _find_clauses(
    columns: TokenColumns, prompt_length: int, stop: int, text: str | None
) -> list[Clause]:
    """
    Split the response; where tokens and text disagree, the tokens' own spelling is split.

    A clause ends before `stop`, where rows do: what lies behind it has nothing to be measured.
    """
    strings = [string or "" for string in columns.strings[prompt_length:]]
    spans = list(columns.offsets[prompt_length:])
    offsets = [span for span in spans if span is not None]
    if text is None or len(offsets) != len(spans):
        text = "".join(strings)
        offsets = align_tokens(text, strings) or []
    return [
        Clause(
            clause.token_start + prompt_length,
            clause.token_end + prompt_length,
            clause.char_start,
            clause.char_end,
            clause.text,
        )
        for clause in split_clauses(text, offsets[: max(0, stop - prompt_length)])
    ]


def hash_content(response_id: str, halves: Mapping[str, HalfArray]) -> str:
    """
    Hash a response's id and the stored values of its reading.

    Args:
        response_id: The response's.
        halves: For each component, [row, layer, hidden], as it was rounded.

    Returns:
        32 hex digits; the order in memory does not matter.
    """
    hasher = blake3(response_id.encode())
    for component in sorted(halves):
        half = halves[component]
        hasher.update(component.encode())
        hasher.update(half.exponents.tobytes())
        n_rows, n_layers, hidden = half.values.shape
        height = max(1, _HASHED_BYTES // max(1, 2 * n_layers * hidden))
        for start in range(0, n_rows, height):
            # A few rows at a time: brought into order, they are still in the processor's cache.
            block = np.ascontiguousarray(half.values[start : start + height])
            hasher.update(block.view(np.uint8).data)
    return hasher.hexdigest()[:DIGEST_LENGTH]
