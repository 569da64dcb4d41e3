"""The words a direction speaks for and against: its nearest rows of the unembedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.errors import NotStoredError, VectorMismatchError, nearest
from tistore.schemas.head import Head
from tistore.schemas.model import BASE_READER
from tistore.schemas.vector import Vector
from tistore.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class NearToken:
    """
    A token and how a direction moves it.

    Attributes:
        is_promoted: Whether it is among the tokens whose logits rise most, rather than fall.
        rank: Place among these, from 1.
        token_id: Its id.
        token: Its string, where the tokenizer has one.
        logit: What the direction adds to its logit, before any scale and cap, where the direction
            has a root mean square of 1.
        cosine: Of the normed direction and the token's row of the unembedding.
    """

    is_promoted: bool
    rank: int
    token_id: int
    token: str | None
    logit: float
    cosine: float


def find_head(snapshot: Snapshot, vector: Vector, reader: str | None = None) -> Head:
    """
    Find the head a vector is to be put to: its own model's, or the clean base's.

    Args:
        snapshot: Where heads are.
        vector: The vector.
        reader: Whose head, instead.

    Raises:
        NotStoredError: It is not in the store.
        VectorMismatchError: The vector is not of the stream, or of another width.
    """
    if vector.component not in _STREAM:
        raise VectorMismatchError(
            f"{vector.reference} is a direction of {vector.component}, which no head reads",
            mend=f"the lens takes vectors of {', '.join(_STREAM)}",
        )
    names = [reader] if reader else [vector.model or BASE_READER, BASE_READER]
    known = snapshot.reader_heads
    found = next((known[name] for name in names if name in known), None)
    if found is None:
        raise NotStoredError(
            f"the store holds no head of {names[0]!r}; {nearest(names[0], known)}",
            mend="keep it: tistore lens STORE --heads CONFIG, with a run of this model",
        )
    head = snapshot.heads[found]
    if head.hidden != vector.hidden:
        raise VectorMismatchError(
            f"{vector.reference} is {vector.hidden} wide, and the head of {names[0]!r} "
            f"{head.hidden}",
            mend="name the model the vector was fitted on with --reader",
        )
    return head


def nearest_tokens(
    snapshot: Snapshot, vector: Vector, head: Head, *, k: int = 10, common: int | None = None
) -> list[NearToken]:
    """
    Find the tokens a direction raises and lowers most, at the end of the stream.

    The direction goes through the final norm's weights (and its centring, where it is a LayerNorm)
    and then to the unembedding. Biases stay out: they speak of every state, not of this direction.
    A direction of an earlier layer is read as if the blocks behind it left it alone.

    Args:
        snapshot: Where the unembedding is.
        vector: The direction.
        head: What it is put to.
        k: Tokens to each side.
        common: Only tokens with ids below this: byte-pair vocabularies begin with the common ones.

    Returns:
        The raised ones, then the lowered ones, each from the largest.

    Source:
        Logit lens (nostalgebraist, 2020), applied to a direction; RMSNorm, arXiv:1910.07467.
    """
    normed = norm_direction(vector.values, head)
    unembedding = snapshot.unembedding(head.head_hash)
    logits, cosines = [], []
    for block in unembedding.blocks():
        rows = block.values.astype(np.float64)
        products = rows @ normed
        lengths = np.linalg.norm(rows, axis=1)
        logits.append(products)
        # A row of zeros, as padding has, has no direction.
        cosines.append(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))
    logit = np.concatenate(logits)[:common]
    cosine = np.concatenate(cosines)[:common] / np.linalg.norm(normed)
    order = np.argsort(-logit, kind="stable")
    tokens = unembedding.tokens
    raised, lowered = order[:k], order[::-1][:k]
    return [
        NearToken(is_raised, rank, int(place), tokens[place], logit[place], cosine[place])
        for is_raised, places in ((True, raised), (False, lowered))
        for rank, place in enumerate(places, start=1)
    ]


def norm_direction(
    values: Sequence[float] | NDArray[np.floating], head: Head
) -> NDArray[np.float64]:
    """
    Put a direction through a final norm's centring, scale and weights.

    Args:
        values: (hidden,), of any length.
        head: Whose norm.

    Returns:
        (hidden,) float64: weights · v / rms(v).
    """
    wide = np.asarray(values, dtype=np.float64)
    if head.norm == "layer":
        wide = wide - wide.mean()
    wide = wide / np.sqrt(np.square(wide).mean())
    return np.asarray(wide * (head.norm_weight.astype(np.float64) + head.weight_offset))


_STREAM = ("residual", "attn_out", "mlp_out", "o_proj", "down_proj")
"""Components whose directions lie in the stream."""
