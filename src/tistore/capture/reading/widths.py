"""How wide each component of a model is, told from its config alone."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from tistore.capture.families import FAMILIES, Family, explain_absence
from tistore.errors import SiteNotFoundError
from tistore.schemas.site import Component

KEYS_STEP = 64
"""Attention patterns end at a multiple of so many keys, so that readings of about one length are
equally wide and share a segment."""


@dataclass(frozen=True, slots=True)
class HeadShape:
    """
    How attention is divided.

    Attributes:
        n_heads: Heads, each with a query of its own.
        n_shared: Keys and values; several heads may share one.
        key_width: Width of one head's query, and of its key.
        value_width: Width of one head's value, and of its output.
    """

    n_heads: int
    n_shared: int
    key_width: int
    value_width: int


def read_head_shape(architecture: PreTrainedConfig) -> HeadShape:
    """Read how attention is divided from the config of the part that reads text."""
    family = FAMILIES.get(architecture.model_type, Family())
    n_heads = int(architecture.num_attention_heads)
    shared = getattr(architecture, "num_key_value_heads", None) if family.shares_keys else None
    if family.packing == "latent":
        # What such a config calls head_dim is the rotated part alone.
        key_width = architecture.qk_nope_head_dim + architecture.qk_rope_head_dim
        return HeadShape(n_heads, n_heads, key_width, architecture.v_head_dim)
    width = getattr(architecture, "head_dim", None) or architecture.hidden_size // n_heads
    return HeadShape(n_heads, shared or n_heads, width, width)


def component_widths(architecture: PreTrainedConfig, component: Component, n_keys: int = 0) -> int:
    """
    Tell how wide a component's rows are: of one layer, in numbers.

    Args:
        architecture: Config of the part that reads text.
        component: Which.
        n_keys: Keys of an attention pattern, as `count_keys` gives them.

    Raises:
        SiteNotFoundError: The family has no such component in any layer, or is not known.
    """
    hidden = int(architecture.hidden_size)
    if component == "residual":
        return hidden
    family = FAMILIES.get(architecture.model_type)
    if family is None:
        raise SiteNotFoundError(
            f"cannot tell what {component} is in a {architecture.model_type!r} model",
            mend="add the family to FAMILIES in capture/families.py, or capture residual only",
        )
    if not family.paths(component):
        raise explain_absence(f"a {architecture.model_type} model", component)
    heads = read_head_shape(architecture)
    widths: dict[Component, int] = {
        "q_proj": heads.n_heads * heads.key_width,
        "k_proj": heads.n_shared * heads.key_width,
        "v_proj": heads.n_shared * heads.value_width,
        "heads": heads.n_heads * heads.value_width,
        "attention": heads.n_heads * n_keys,
    }
    if component == "mlp_act":
        # GPT-2's config may leave it open.
        return int(getattr(architecture, family.mlp_width) or 4 * hidden)
    return widths.get(component, hidden)


def count_keys(n_tokens: int) -> int:
    """Count the keys of a sequence's attention patterns: its tokens, and up to 63 behind them."""
    return -(-n_tokens // KEYS_STEP) * KEYS_STEP
