"""Massive dimensions: what a calibration found, kept as a note of its source."""

from __future__ import annotations

import json
from pathlib import Path

from tistore.datasets.trait_interp.massive import read_calibration
from tistore.exchange.trait_interp.found import Found


def find_massive(path: Path) -> Found:
    """
    Read a calibration. Its note is JSON: which model and prompts, dimensions and norms by layer.

    Raises:
        DatasetError: The file is malformed.
    """
    found = read_calibration(path)
    told = {
        "model": found.model,
        "variant": found.variant,
        "prompt_set": found.prompt_set,
        "n_prompts": found.n_prompts,
        "top_dims_by_layer": {str(layer): list(dims) for layer, dims in found.top_dims.items()},
        "layer_norms": {str(layer): norm for layer, norm in found.layer_norms.items()},
    }
    known = {key: value for key, value in told.items() if value not in (None, {})}
    return Found(note=json.dumps(known))
