"""
What trait-interp's JSON says of a response and of its scores.

It is written as JSON is: trait-interp's own writer puts spaces after the commas in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tistore.exchange.trait_interp_export.places import COMPONENT_NAMES, View
from tistore.exchange.trait_interp_export.turns import lay_out_turns
from tistore.schemas.model import Model
from tistore.schemas.prompt import Message
from tistore.schemas.vector import Vector


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """
    Scores of one reading on one vector.

    Attributes:
        vector: The vector.
        positions: Tokens that have a score, ascending.
        scores: One each, float32.
        norms: Lengths of the states, float32.
    """

    vector: Vector
    positions: NDArray[np.int64]
    scores: NDArray[np.float32]
    norms: NDArray[np.float32]


def lay_out_response(
    row: Mapping[str, Any],
    tokens: pa.Table,
    model: Model | None,
    prompt: Mapping[str, Any] | None,
    captured_at: datetime | None,
    messages: Sequence[Message] = (),
) -> dict[str, Any]:
    """
    Lay a response out in the flat form.

    Token strings the store does not hold are empty; the prompt is spelled by its tokens where all
    of them are known, chat template included, and is the question by itself where not.

    Args:
        row: The reading's row of the `responses` table.
        tokens: Its rows of the `tokens` table.
        model: The author.
        prompt: Row of the `prompts` table, where there is one.
        captured_at: When it was captured, where known.
        messages: The conversation without its system prompt, as far as it is known.
    """
    asked = prompt or {}
    n_ids, length = len(row["token_ids"]), row["prompt_length"]
    strings: list[str | None] = [None] * n_ids
    strings[row["first_position"] : row["first_position"] + tokens.num_rows] = tokens[
        "token"
    ].to_pylist()
    spelled = strings[:length]
    is_spelled = bool(spelled) and None not in spelled
    said = {
        "prompt": "".join(s or "" for s in spelled) if is_spelled else asked.get("text") or "",
        "response": row["text"] or "",
        "system_prompt": asked.get("system_prompt"),
        "tokens": [string or "" for string in strings],
        "token_ids": row["token_ids"],
        "prompt_end": length,
        "inference_model": (model.base_id if model else None) or "unknown",
        "prompt_note": asked.get("note"),
        "capture_date": captured_at.isoformat() if captured_at else None,
        "tags": asked.get("tags") or [],
    }
    if model and model.adapter_id:
        said["lora_adapter"] = model.adapter_id
    if _has_turns(tokens, length == n_ids) and (turns := lay_out_turns(tokens, messages)):
        said["turn_boundaries"] = turns
    return said


def _has_turns(tokens: pa.Table, is_conversation: bool) -> bool:
    """Tell whether there are turns to lay out; a question and its answer need none."""
    return is_conversation or max(tokens["turn"].to_pylist(), default=0) > 1


def lay_out_projections(
    view: View, prompt_length: int, n_ids: int, scores: Sequence[TokenScores]
) -> dict[str, Any]:
    """
    Lay the scores of one response on one trait out in the form of February 2026.

    Args:
        view: Which response, and who read it.
        prompt_length: Tokens of the prompt.
        n_ids: Tokens in all.
        scores: For each vector; of one component and one position.
    """
    first = scores[0].vector
    return {
        "metadata": {
            "prompt_id": int(view.stem) if _is_number(view.stem) else view.stem,
            "prompt_set": view.folder,
            "n_prompt_tokens": prompt_length,
            "n_response_tokens": n_ids - prompt_length,
            "multi_vector": True,
            "n_vectors": len(scores),
            "component": COMPONENT_NAMES[first.component],
            "position": first.position,
            "centered": False,
        },
        "projections": [_lay_out_scores(scored, prompt_length) for scored in scores],
    }


def _lay_out_scores(scored: TokenScores, prompt_length: int) -> dict[str, Any]:
    cut = int(np.searchsorted(scored.positions, prompt_length))
    return {
        "method": scored.vector.method,
        "layer": scored.vector.layer,
        "selection_source": "tistore",
        "baseline": scored.vector.midpoint,
        **_split(scored.scores, cut),
        "token_norms": _split(scored.norms, cut),
    }


def _split(values: NDArray[np.float32], cut: int) -> dict[str, list[float]]:
    # float32 as a double, every digit of it: what torch's tolist() gives, and so the incumbent.
    return {"prompt": values[:cut].tolist(), "response": values[cut:].tolist()}


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit() and str(int(stem)) == stem and int(stem) < 2**31


def lay_out_vectors(vectors: Sequence[Vector], model: str) -> dict[str, Any]:
    """Lay out the metadata of vectors that differ in nothing but their layers."""
    first = vectors[0]
    return {
        "model": model,
        "trait": first.trait,
        "method": first.method,
        "component": COMPONENT_NAMES[first.component],
        "position": first.position,
        "layers": {str(vector.layer): _lay_out_layer(vector) for vector in vectors},
    }


def _lay_out_layer(vector: Vector) -> dict[str, float]:
    said = {"norm": float(np.linalg.norm(vector.values.astype(np.float64)))}
    return said if vector.midpoint is None else said | {"baseline": vector.midpoint}
