"""Taps: where in a model a site is read, and what is made of what flows there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tistore.capture.families import FAMILIES, find_module, name_family, unwrap
from tistore.capture.reading.widths import HeadShape, count_keys, read_head_shape
from tistore.schemas.site import Component, Site

_GIVEN: frozenset[Component] = frozenset({"heads", "mlp_act"})
"""Components that are what their module is given, not what it puts out."""


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """
    Where a site is read.

    Attributes:
        module: Read here.
        is_input: Whether the state is what the module is given, rather than what it puts out.
        find: Finds the state in that: (batch, position, width), as it lies there where it can be.
    """

    module: nn.Module
    is_input: bool
    find: Callable[[Any], Tensor]

    def attach(self, take: Callable[[Tensor], None]) -> RemovableHandle:
        """Hand each forward pass's state over, until the handle is removed."""
        if self.is_input:
            return self.module.register_forward_pre_hook(
                lambda _module, given: take(self.find(given))
            )
        return self.module.register_forward_hook(
            lambda _module, _given, output: take(self.find(output))
        )


def find_tap(model: nn.Module, site: Site) -> Tap:
    """
    Find where a site is read.

    Raises:
        SiteNotFoundError: As `find_module` raises.
    """
    module = find_module(model, site)
    return Tap(module, site.component in _GIVEN, _choose_finder(model, site.component))


def _choose_finder(model: nn.Module, component: Component) -> Callable[[Any], Tensor]:
    if component == "attention":
        return _lay_out_patterns
    family = FAMILIES.get(name_family(model))
    if component not in ("q_proj", "k_proj", "v_proj") or family is None:
        return _find_first
    heads = read_head_shape(unwrap(model).config.get_text_config())  # type: ignore[union-attr, operator]
    match family.packing, component:
        case "side_by_side", _:
            return partial(_cut, columns=_find_columns(heads, component))
        case "by_head", _:
            start = ("q_proj", "k_proj", "v_proj").index(component) * heads.key_width
            columns = slice(start, start + heads.key_width)
            return partial(_cut_each_head, n_heads=heads.n_heads, columns=columns)
        case "latent", "v_proj":
            columns = slice(-heads.value_width, None)
            return partial(_cut_each_head, n_heads=heads.n_heads, columns=columns)
    return _find_first


def _find_columns(heads: HeadShape, component: Component) -> slice:
    """Find queries, keys or values where they lie side by side."""
    queries = heads.n_heads * heads.key_width
    keys = queries + heads.n_shared * heads.key_width
    values = keys + heads.n_shared * heads.value_width
    spans = {"q_proj": (0, queries), "k_proj": (queries, keys), "v_proj": (keys, values)}
    return slice(*spans[component])


def _find_first(states: Any) -> Tensor:
    """Find the state: blocks and attentions put it first, and what is given comes as a tuple."""
    state = states[0] if isinstance(states, tuple) else states
    assert isinstance(state, Tensor)
    return state


def _cut(states: Any, *, columns: slice) -> Tensor:
    return _find_first(states)[..., columns]


def _cut_each_head(states: Any, *, n_heads: int, columns: slice) -> Tensor:
    state = _find_first(states)
    # A latent state goes through its module as that of a single head: (batch, 1, position, width).
    by_head = state.reshape(len(state), -1, n_heads, state.shape[-1] // n_heads)
    return by_head[..., columns].flatten(2)


def _lay_out_patterns(output: Any) -> Tensor:
    """Lay patterns, (batch, head, query, key), out row by row, on a multiple of 64 keys."""
    weights = output[1]
    n_batch, n_heads, n_queries, n_keys = weights.shape
    rows = weights.new_zeros(n_batch, n_queries, n_heads, count_keys(n_keys))
    rows[..., :n_keys] = weights.transpose(1, 2)
    flat: Tensor = rows.flatten(2)
    return flat


def trim_keys(patterns: Tensor, n_batch_tokens: int, n_tokens: int) -> Tensor:
    """
    Cut the patterns of a sequence that was read beside longer ones to its own keys.

    What is cut off is 0: a token has no weight on those behind it.

    Args:
        patterns: (…, head · key), of the batch.
        n_batch_tokens: Length of the longest sequence of the batch.
        n_tokens: Length of this one.
    """
    by_head = patterns.reshape(*patterns.shape[:-1], -1, count_keys(n_batch_tokens))
    return by_head[..., : count_keys(n_tokens)].flatten(-2)
