"""Which readings share a file, where a file holds many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tistore.errors import ConfigError
from tistore.exchange.selection import Part, Selected
from tistore.schemas.site import Component, Site

SHARD_BYTES = 512 * 2**20
"""Bytes of states after which a file is closed."""

Shard = tuple[Part, ...]


def split_into_shards(parts: Sequence[Part], limit_bytes: int = SHARD_BYTES) -> list[Shard]:
    """
    Divide readings among files, whole and in order.

    The division depends on nothing but the readings and the limit: a second run makes the same.
    """
    shards: list[list[Part]] = [[]]
    filled = 0
    for part in parts:
        n_rows = part.segment.column("responses", "n_rows")[part.places].astype(np.int64)
        sizes = n_rows * part.row_bytes
        start = 0
        for at, size_bytes in enumerate(sizes.tolist()):
            if filled and filled + size_bytes > limit_bytes:
                if at > start:
                    shards[-1].append(replace(part, places=part.places[start:at]))
                shards.append([])
                filled, start = 0, at
            filled += size_bytes
        shards[-1].append(replace(part, places=part.places[start:]))
    return [tuple(shard) for shard in shards]


def name_shard(stem: str, place: int, count: int, suffix: str) -> str:
    """Name a shard as Hugging Face does: `data-00000-of-00012.arrow`."""
    return f"{stem}-{place:05d}-of-{count:05d}{suffix}"


def require_one_width(selected: Selected) -> int:
    """
    Tell how wide the states are.

    Raises:
        ConfigError: Readings differ in it, and one table cannot hold them; or several components
            are selected.
    """
    component = selected.require_one_component()
    widths = sorted({part.segment.width(component) for part in selected.parts})
    if len(widths) > 1:
        raise ConfigError(
            f"these readings are {' and '.join(map(str, widths))} wide; one table holds one width",
            mend="choose readings of one model: --where \"reader = 'NAME'\""
            if component != "attention"
            else "export npy or safetensors: patterns are as wide as their sequences are long",
        )
    return widths[0]


def exceeds_half(parts: Sequence[Part], component: Component, layer: int) -> bool:
    """Whether some segment stores the layer with an exponent, so that float16 cannot hold it."""
    site = Site(component, layer)
    return any(part.segment.exponent(site) for part in parts if layer in part.layers)
