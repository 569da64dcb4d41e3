"""Layers as people write them: "all", 16, "5-20", "0-75:5", "30%-60%", or a list of those."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tistore.errors import ConfigError, SiteNotFoundError

LayerSpan = int | str
"""One item of a selection."""

_SPAN = re.compile(
    r"(?P<first>\d+)(?P<percent>%)?(-(?P<last>\d+)(?P<end_percent>%)?(:(?P<step>\d+))?)?"
)


def select_layers(spans: LayerSpan | Sequence[LayerSpan], layer_count: int) -> tuple[int, ...]:
    """
    Resolve a selection against a model's number of layers.

    Spans include both ends. A percentage is of the number of layers, rounded down: of 80 layers,
    "30%-60%" is 24 to 48.

    Returns:
        Block numbers, ascending, each once.

    Raises:
        ConfigError: The selection is empty or malformed.
        SiteNotFoundError: The model has no such layer.
    """
    items = split_spans(spans)
    layers = sorted({layer for item in items for layer in _resolve(item, layer_count)})
    check_layers(layers, layer_count)
    return tuple(layers)


def split_spans(spans: LayerSpan | Sequence[LayerSpan]) -> list[str]:
    """
    Split a selection into spans that are well formed, whatever the model.

    Raises:
        ConfigError: The selection is empty or malformed.
    """
    given = [spans] if isinstance(spans, int | str) else list(spans)
    items = [part.strip() for span in given for part in str(span).split(",")]
    for item in items:
        if item != "all" and not _is_span(item):
            raise ConfigError(
                f"{item!r} selects no layers",
                mend='write "all", 16, "5-20", "0-75:5", "30%-60%", or a list of those',
            )
    if not items:
        raise ConfigError("no layers are selected", mend='write layers = "all"')
    return items


def check_layers(layers: Sequence[int], layer_count: int) -> None:
    """
    Refuse layers a model does not have.

    Raises:
        SiteNotFoundError: A layer is out of range, which the message gives.
    """
    for layer in layers:
        if not 0 <= layer < layer_count:
            raise SiteNotFoundError(
                f"no layer {layer} in this model; it has layers 0 to {layer_count - 1}",
                mend='choose among these, or write them as percentages: "30%-60%"',
            )


def _is_span(item: str) -> bool:
    match = _SPAN.fullmatch(item)
    if match is None or match["step"] == "0":
        return False
    if match["last"] is None:
        return True
    same_unit = match["percent"] == match["end_percent"]
    return same_unit and int(match["first"]) <= int(match["last"])


def _resolve(item: str, layer_count: int) -> range:
    if item == "all":
        return range(layer_count)
    match = _SPAN.fullmatch(item)
    assert match is not None  # split_spans let it through
    first, last = int(match["first"]), int(match["last"] or match["first"])
    if match["percent"]:
        # 100% would be one past the last layer.
        first, last = (min(end * layer_count // 100, layer_count - 1) for end in (first, last))
    return range(first, last + 1, int(match["step"] or 1))
