"""What makes logits of a model's stream: its final norm and its unembedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from tistore.errors import InvalidRecordError

NormKind = Literal["rms", "layer"]

_SMALL = 4096
_GROUP_BYTES = 1 << 25


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """
    A model's final norm, and what it does to logits; the unembedding's rows lie apart from it.

    Logits of a state h are `cap(scale * (U norm(h) + b))`, with `cap(x) = c tanh(x / c)`.
    Adapters that leave these weights alone share the head of their base.

    Attributes:
        head_hash: Hash of all of it, unembedding included; 32 hex digits.
        model: Name of the model it was read from first.
        family: `model_type` of the architecture.
        norm: "rms" divides by the root mean square, "layer" takes the mean off and divides by the
            standard deviation; both over hidden.
        norm_weight: (hidden,) float32.
        norm_bias: (hidden,) float32; None for none.
        norm_epsilon: Added to the variance, or to the mean square.
        weight_offset: Added to the norm's weights before they multiply; 1 in Gemma, else 0.
        logit_softcap: c; None for none.
        logit_scale: Factor of the logits; None for none.
        hidden: Width of the stream.
        n_vocabulary: Rows of the unembedding, those of no token included.
        has_bias: Whether the unembedding has a bias.
    """

    head_hash: str
    model: str
    family: str | None
    norm: NormKind
    norm_weight: NDArray[np.float32]
    norm_bias: NDArray[np.float32] | None
    norm_epsilon: float
    weight_offset: float
    logit_softcap: float | None
    logit_scale: float | None
    hidden: int
    n_vocabulary: int
    has_bias: bool

    def __post_init__(self) -> None:
        """Refuse what cannot be applied."""
        if self.norm not in get_args(NormKind):
            raise InvalidRecordError(f"a final norm is rms or layer, not {self.norm!r}")
        for name, values in (("weight", self.norm_weight), ("bias", self.norm_bias)):
            if values is not None and values.shape != (self.hidden,):
                raise InvalidRecordError(
                    f"the final norm's {name} is {values.shape}, but the stream is "
                    f"{self.hidden} wide"
                )

    @property
    def block_rows(self) -> int:
        """Rows of the unembedding that are handled at a time: a few dozen megabytes."""
        return max(64, min(_SMALL, _GROUP_BYTES // (4 * self.hidden)))

    def normalize(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """
        Apply the final norm.

        Args:
            states: (row, hidden), in the stream's own units.

        Returns:
            (row, hidden) float32.

        Source:
            RMSNorm, arXiv:1910.07467; LayerNorm, arXiv:1607.06450.
        """
        wide = states.astype(np.float64)
        if self.norm == "layer":
            wide -= wide.mean(axis=1, keepdims=True)
        wide /= np.sqrt(np.square(wide).mean(axis=1, keepdims=True) + self.norm_epsilon)
        wide *= self.norm_weight.astype(np.float64) + self.weight_offset
        if self.norm_bias is not None:
            wide += self.norm_bias
        return wide.astype(np.float32)

    def finish(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale and cap what the unembedding gives, in place; any shape."""
        if self.logit_scale is not None:
            logits *= np.float32(self.logit_scale)
        if self.logit_softcap is not None:
            logits /= np.float32(self.logit_softcap)
            np.tanh(logits, out=logits)
            logits *= np.float32(self.logit_softcap)
        return logits

    def to_row(self) -> dict[str, Any]:
        """Lay the head out as a row of the `heads` table."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read the head back from a row of the `heads` table."""
        values = {f.name: row[f.name] for f in fields(cls)}
        for name in ("norm_weight", "norm_bias"):
            if values[name] is not None:
                values[name] = np.asarray(values[name], dtype=np.float32)
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyBlock:
    """
    Rows of an unembedding that follow on each other.

    Attributes:
        first: Token id of the first.
        values: (token, hidden) float32.
        bias: (token,) float32; None for none.
        tokens: Each token's string, None where the tokenizer has none; empty where not asked for.
    """

    first: int
    values: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    tokens: Sequence[str | None] = ()
