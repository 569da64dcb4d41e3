"""Which token each row of a raw file is the state of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tistore.datasets.torch_files import TensorView
from tistore.errors import ForeignFileError
from tistore.exchange.trait_interp.raw_file import RawFile

Convention = Literal["at-token", "predicting"]

_SAME = 0.02
"""Largest share by which two float16 states of one token differ between forward passes."""


@dataclass(frozen=True, slots=True)
class Placement:
    """
    Where the rows of a raw file belong.

    Attributes:
        variety: "A1" to "A8", after the period it was written in; "live" for captures of a live
            generation, which have the keys of later files and the rows of earlier ones.
        convention: What row t of the file's response is: the state at token t, or the one that
            predicts it.
        first_position: Token of the first row that is kept.
        n_rows: Rows that are kept.
        n_dropped: Rows left out at the start of the response: a predicting file begins with the
            state at the prompt's last token.
        notes: What people should know.
    """

    variety: str
    convention: Convention
    first_position: int
    n_rows: int
    n_dropped: int
    notes: tuple[str, ...] = ()

    @property
    def stop(self) -> int:
        """One past the last token that has a row."""
        return self.first_position + self.n_rows


def place_rows(raw: RawFile, *, is_replay: bool) -> Placement:
    """
    Place the rows of a file; none is ever padded or moved to fit.

    A response of as many rows as tokens is either predicting or at-token. Its first row tells: a
    predicting file repeats the state of the prompt's last token. Only that row and the prompt's
    last are read.

    Args:
        raw: The file.
        is_replay: Whether it lies in a replay's folder.

    Raises:
        ForeignFileError: A half has neither as many rows as tokens, nor one fewer (response) or
            none (prompt).
    """
    n_prompt, n_response = raw.prompt_length, len(raw.response.token_ids)
    if raw.prompt.sites and raw.prompt.n_rows != n_prompt:
        raise _mismatch(raw, "prompt", raw.prompt.n_rows, n_prompt)
    if raw.response.sites and not n_response - 1 <= raw.response.n_rows <= n_response:
        raise _mismatch(raw, "response", raw.response.n_rows, n_response)
    variety, notes = _tell_variety(raw, is_replay)
    if n_response and not raw.response.sites:
        notes = (*notes, "no row of its response was captured: none of its tokens is audited")
    is_predicting = variety in ("A1", "A2", "live")
    n_dropped = 1 if is_predicting and raw.response.n_rows else 0
    return Placement(
        variety=variety,
        convention="predicting" if is_predicting else "at-token",
        first_position=0 if raw.prompt.sites else n_prompt,
        n_rows=raw.prompt.n_rows + raw.response.n_rows - n_dropped,
        n_dropped=n_dropped,
        notes=notes,
    )


def _mismatch(raw: RawFile, half: str, n_rows: int, n_tokens: int) -> ForeignFileError:
    return ForeignFileError(
        f"{raw.path}: its {half} has {n_rows} rows for {n_tokens} tokens",
        mend="leave it out: no capture of trait-interp's leaves such a number of rows",
    )


def _tell_variety(raw: RawFile, is_replay: bool) -> tuple[str, tuple[str, ...]]:
    """Tell the period by component names, precision and rows; say what is doubtful."""
    has_all = raw.response.n_rows == len(raw.response.token_ids) > 0
    if "residual_out" in raw.components:
        return _tell_old(raw, has_all)
    if has_all and _repeats_prompt(raw, largest=0.0):
        return "live", ("it begins with the prompt's last state: its rows predict their tokens",)
    if raw.dtype == "float16":
        return "A4", ()
    if not raw.response.token_ids:
        return "A8", ()
    has_parts = len(raw.components) > 1
    if is_replay and has_parts and has_all:
        return "A6", ()
    if not is_replay and ("attn_out" in raw.components or not has_all):
        return "A5", ()
    return "A7", ()


def _tell_old(raw: RawFile, has_all: bool) -> tuple[str, tuple[str, ...]]:
    """Tell A1, A2 and A3, which share names: only A1 kept `residual_in`."""
    if not has_all:
        return "A3", ()
    is_first = "residual_in" in raw.components
    repeats = _repeats_prompt(raw, largest=_SAME)
    if repeats is None:
        return ("A1" if is_first else "A2"), (
            "no prompt rows to compare with: taken to predict their tokens, as its period did",
        )
    if is_first and not repeats:
        return "A1", ("its first row, left out, does not repeat the prompt's last",)
    if not repeats:
        return "A3", ("a row for every token, and the first is no repeat: rows are at their token",)
    is_exact = _repeats_prompt(raw, largest=0.0)
    notes = () if is_exact else ("its first row repeats the prompt's last only nearly",)
    return ("A1" if is_first else "A2"), notes


def _repeats_prompt(raw: RawFile, largest: float) -> bool | None:
    """
    Tell whether the response's first row is the prompt's last, at every site.

    Args:
        raw: The file.
        largest: Difference allowed, as a share of the row's length.

    Returns:
        None where either half has no rows.
    """
    if not raw.prompt.n_rows or not raw.response.n_rows:
        return None
    return all(difference <= largest for difference in _compare_rows(raw))


def _compare_rows(raw: RawFile) -> Iterator[float]:
    """For each residual site, by what share the two rows differ; NaN where they cannot be told."""
    name = "residual" if "residual" in raw.components else "residual_out"
    component = name if name in raw.components else raw.components[0]
    for layer in raw.layers:
        last = _read_row(raw.prompt.sites[layer][component], raw.prompt.n_rows - 1)
        first = _read_row(raw.response.sites[layer][component], 0)
        length = float(np.linalg.norm(last))
        if length == 0.0:  # a component that was not captured says nothing
            yield float("nan")
            return
        yield float(np.linalg.norm(first - last)) / length


def _read_row(view: TensorView, row: int) -> NDArray[Any]:
    offset = view.offset + row * view.stride[0]
    return replace(view, shape=(1, view.shape[1]), offset=offset).read().astype(np.float64)
