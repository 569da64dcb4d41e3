"""A site: a component at a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Component = Literal["residual", "attn_out", "mlp_out", "o_proj", "down_proj"]
COMPONENTS: tuple[Component, ...] = ("residual", "attn_out", "mlp_out", "o_proj", "down_proj")


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """
    Where in a model a state is read.

    Attributes:
        component: `residual` at layer L is the output of block L, which Hugging Face calls
            `hidden_states[L + 1]` (the last one there is after the final norm, and is not ours).
            `attn_out` and `mlp_out` are what the block adds to the stream; `o_proj` and `down_proj`
            are what these modules give, which some models norm before adding it.
        layer: Block number, from 0.
    """

    component: Component
    layer: int

    def __str__(self) -> str:
        """Name the site as vector references do."""
        return f"{self.component}@{self.layer}"
