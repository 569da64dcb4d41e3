"""What a run keeps of each reading, resolved against the model that reads."""

from __future__ import annotations

from transformers import PreTrainedConfig

from tistore.capture.config import RunConfig
from tistore.capture.layers import select_layers
from tistore.schemas.response import CaptureSettings


def resolve_settings(config: RunConfig, architecture: PreTrainedConfig) -> CaptureSettings:
    """
    Work out which layers a run keeps of a model.

    Raises:
        SiteNotFoundError: The model has no such layer.
    """
    layers = select_layers(config.capture.layers, architecture.num_hidden_layers)
    return CaptureSettings(layers, config.capture.components, config.capture.rows)
