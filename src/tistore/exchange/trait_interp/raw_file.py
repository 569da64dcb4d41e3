"""A raw `.pt` of trait-interp: what it says of itself, with the values still in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tistore.datasets.torch_files import TensorView, read_torch_file
from tistore.errors import ForeignFileError

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_LARGEST_ID = 2**31 - 1

Sites = Mapping[int, Mapping[str, TensorView]]
"""For each layer, its components: [row, hidden]."""


@dataclass(frozen=True, slots=True)
class RawHalf:
    """
    The prompt, or the response.

    Attributes:
        token_ids: Its tokens.
        tokens: Their strings; None where the file has none, or not as many.
        text: As the file spells it.
        sites: What was captured; empty where this half was not.
        n_rows: Rows of every tensor.
        has_attention: Whether attention patterns lie beside them.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...] | None
    text: str | None
    sites: Sites
    n_rows: int
    has_attention: bool


@dataclass(frozen=True, slots=True)
class RawFile:
    """
    A capture: prompt and response, their tokens, and where their rows lie.

    Attributes:
        path: The file.
        prompt: Its first half.
        response: Its second.
        layers: Ascending block numbers.
        components: As the file names them, in its order.
        widths: Of each component.
        dtype: Of the values, by torch's name.
    """

    path: Path
    prompt: RawHalf
    response: RawHalf
    layers: tuple[int, ...]
    components: tuple[str, ...]
    widths: Mapping[str, int]
    dtype: str

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Ids of prompt and response."""
        return self.prompt.token_ids + self.response.token_ids

    @property
    def prompt_length(self) -> int:
        """How many of them are the prompt's."""
        return len(self.prompt.token_ids)

    @property
    def tokens(self) -> tuple[str, ...] | None:
        """Strings of prompt and response; None where either half has none."""
        if self.prompt.tokens is None or self.response.tokens is None:
            return None
        return self.prompt.tokens + self.response.tokens


def read_raw_file(path: Path) -> RawFile:
    """
    Read all but the values of a raw file.

    Raises:
        ForeignFileError: The file is none of `torch.save`'s, holds something else than a capture,
            or its tensors do not agree.
    """
    content = read_torch_file(path)
    if not isinstance(content, dict) or not {"prompt", "response"} <= content.keys():
        _refuse(path, "it holds no prompt and response: no capture of trait-interp's")
    prompt, response = (_read_half(path, name, content[name]) for name in ("prompt", "response"))
    if not prompt.token_ids and not response.token_ids:
        _refuse(path, "it has no token ids, so its rows belong to no known tokens")
    return _describe(path, prompt, response)


def _describe(path: Path, prompt: RawHalf, response: RawHalf) -> RawFile:
    """Check that both halves hold the same layers and components, each of one width, one dtype."""
    halves = [half for half in (prompt, response) if half.sites]
    if not halves:
        _refuse(path, "it holds no activations")
    layers, components = _list_sites(path, halves[0].sites)
    for half in halves[1:]:
        if _list_sites(path, half.sites) != (layers, components):
            _refuse(path, "prompt and response hold different layers or components")
    views = [view for half in halves for site in half.sites.values() for view in site.values()]
    dtypes = {view.dtype for view in views}
    if len(dtypes) > 1 or not dtypes <= set(_FLOATS):
        _refuse(path, f"its tensors are {_enumerate(dtypes)}: not one floating point type")
    widths = {name: _find_width(path, halves, name) for name in components}
    return RawFile(path, prompt, response, layers, components, widths, dtypes.pop())


def _find_width(path: Path, halves: Sequence[RawHalf], component: str) -> int:
    widths = {site[component].shape[1] for half in halves for site in half.sites.values()}
    if len(widths) > 1 or 0 in widths:
        _refuse(path, f"its tensors of {component} are {_enumerate(widths)} wide: not one width")
    return int(widths.pop())


def _list_sites(path: Path, sites: Sites) -> tuple[tuple[int, ...], tuple[str, ...]]:
    layers = tuple(sorted(sites))
    components = tuple(sites[layers[0]])
    for layer in layers:
        if set(sites[layer]) != set(components):
            _refuse(
                path,
                f"layer {layer} holds {_enumerate(sites[layer])}, "
                f"but layer {layers[0]} {_enumerate(components)}",
            )
    return layers, components


def _read_half(path: Path, name: str, half: Any) -> RawHalf:
    if not isinstance(half, dict):
        _refuse(path, f"its {name} is {type(half).__name__}, not a dict")
    token_ids = _read_ids(path, name, half.get("token_ids"))
    tokens = half.get("tokens")
    has_strings = isinstance(tokens, list | tuple) and all(isinstance(s, str) for s in tokens)
    text = half.get("text")
    sites = _read_sites(path, name, half.get("activations"))
    return RawHalf(
        token_ids=token_ids,
        tokens=tuple(tokens or ()) if has_strings and len(tokens or ()) == len(token_ids) else None,
        text=text if isinstance(text, str) else None,
        sites=sites,
        n_rows=_count_rows(path, name, sites),
        has_attention=bool(half.get("attention")),
    )


def _read_ids(path: Path, name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, TensorView) and len(value.shape) == 1:
        value = value.read().tolist()
    if value is None:
        return ()
    is_list = isinstance(value, list | tuple) and all(type(i) is int for i in value)
    if not is_list or any(not 0 <= i <= _LARGEST_ID for i in value):
        _refuse(path, f"the token ids of its {name} are no list of numbers from 0 to 2^31")
    return tuple(value)


def _read_sites(path: Path, name: str, value: Any) -> dict[int, dict[str, TensorView]]:
    """Read layers and components; a tensor of the shape [0] stands for one not captured."""
    if value is None or (isinstance(value, list | tuple) and not value):
        return {}
    if not isinstance(value, dict):
        _refuse(path, f"the activations of its {name} are {type(value).__name__}, not a dict")
    sites: dict[int, dict[str, TensorView]] = {}
    for layer, components in value.items():
        if type(layer) is not int or layer < 0 or not isinstance(components, dict):
            _refuse(path, f"the activations of its {name} are not laid out by layer: {layer!r}")
        captured = {
            component: _check_view(path, f"{name}, layer {layer}, {component}", view)
            for component, view in components.items()
            if not (isinstance(view, TensorView) and view.shape == (0,))
        }
        if captured:
            sites[layer] = captured
    return sites


def _check_view(path: Path, place: str, view: Any) -> TensorView:
    if not isinstance(view, TensorView) or len(view.shape) != 2:
        shape = list(view.shape) if isinstance(view, TensorView | np.ndarray) else type(view)
        _refuse(path, f"{place} is {shape}, not a tensor [row, hidden]")
    return view


def _count_rows(path: Path, name: str, sites: Sites) -> int:
    counts = {
        f"layer {layer}, {component}": view.shape[0]
        for layer, components in sites.items()
        for component, view in components.items()
    }
    if len(set(counts.values())) > 1:
        first, *others = counts.items()
        other = next(pair for pair in others if pair[1] != first[1])
        _refuse(
            path,
            f"its {name} has {first[1]} rows at {first[0]}, but {other[1]} rows at {other[0]}",
        )
    return next(iter(counts.values()), 0)


def _enumerate(names: Any) -> str:
    return ", ".join(sorted(str(name) for name in names)) or "nothing"


def _refuse(path: Path, reason: str) -> NoReturn:
    raise ForeignFileError(f"{path}: {reason}", mend="leave it out, or capture it again")
