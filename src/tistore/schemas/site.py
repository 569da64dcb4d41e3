"""A site: a component at a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Component = Literal[
    "residual",
    "attn_out",
    "mlp_out",
    "o_proj",
    "down_proj",
    "q_proj",
    "k_proj",
    "v_proj",
    "heads",
    "mlp_act",
    "attention",
]
COMPONENTS: tuple[Component, ...] = get_args(Component)


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """
    Where in a model a state is read.

    Attributes:
        component: `residual` at layer L is the output of block L, which Hugging Face calls
            `hidden_states[L + 1]` (the last one there is after the final norm, and is not ours).
            `attn_out` and `mlp_out` are what the block adds to the stream; `o_proj` and `down_proj`
            are what these modules give, which some models norm before adding it. These are as wide
            as the stream.
            `q_proj`, `k_proj` and `v_proj` are queries, keys and values as the projections give
            them, before any norm of theirs and before the rotary embedding: head by head, each
            (head, head_dim). `heads` are the heads' outputs before o_proj joins them, the same.
            `mlp_act` is what the MLP's down_proj is given, as wide as the MLP. `attention` are the
            patterns: (head, key), each head's weights on the tokens before and at the row's, and 0
            on up to 63 keys behind the sequence's last.
        layer: Block number, from 0.
    """

    component: Component
    layer: int

    def __str__(self) -> str:
        """Name the site as vector references do."""
        return f"{self.component}@{self.layer}"
