"""Components as trait-interp named them, and as the store does."""

from __future__ import annotations

from collections.abc import Iterable

from tistore.schemas.site import COMPONENTS, Component

_NAMES = {
    "residual": "residual",
    "residual_out": "residual",
    "attn_contribution": "attn_out",
    "mlp_contribution": "mlp_out",
    "attn_out": "o_proj",
    "mlp_out": "down_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    # What it has no name for is called as in the store where an export has put it there.
    "q_proj": "q_proj",
    "heads": "heads",
    "mlp_act": "mlp_act",
    "attention": "attention",
}
"""What its names mean. Its `attn_out` is what o_proj gives: Gemma norms that before adding it."""

_REASONS = {
    "attn_out": "the output of o_proj, before any norm, which the store has no component for",
    "mlp_out": "the output of down_proj, before any norm, which the store has no component for",
    "after_attn": "the normed input of the MLP, which the store has no component for",
    "residual_in": "the output of the block before, kept where that block was captured",
}


def find_component(name: str) -> Component | None:
    """Name a component of theirs as the store does; None where the store has none for it."""
    ours = _NAMES.get(name)
    return next((component for component in COMPONENTS if component == ours), None)


def map_components(names: Iterable[str]) -> dict[Component, str]:
    """For each component the store has, what the file calls it."""
    found = ((find_component(name), name) for name in names)
    return {component: name for component, name in found if component is not None}


def explain_absence(name: str) -> str:
    """Say why a component is left out."""
    return f"{name}: {_REASONS.get(name, 'a component the store does not know')}"
