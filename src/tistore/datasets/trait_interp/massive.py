"""Massive dimensions: the few of a residual stream that dwarf the others, as they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tistore.datasets.trait_interp.documents import Node, read_document


@dataclass(frozen=True, slots=True)
class Calibration:
    """
    Massive dimensions of a model.

    Attributes:
        model: Hub id, where the file says.
        variant: Variant of the experiment, where the file says.
        experiment: Experiment, where the file says.
        prompt_set: What they were measured on; "calibration" for the neutral prompts.
        is_calibration: Whether these are the neutral prompts.
        n_prompts: How many there were, where the file says.
        top_dims: For each layer, dimensions by the size of their mean, the largest first.
        magnitudes: For each dimension, its mean over that of all dimensions, one a layer.
        layer_norms: For each layer, the mean length of the states.
        alignments: For each layer, the mean cosine of the states with their mean.
        n_per_prompt: Prompts the file has details of, which are left unread.
    """

    model: str | None
    variant: str | None
    experiment: str | None
    prompt_set: str | None
    is_calibration: bool
    n_prompts: int | None
    top_dims: Mapping[int, tuple[int, ...]]
    magnitudes: Mapping[int, tuple[float, ...]]
    layer_norms: Mapping[int, float]
    alignments: Mapping[int, float]
    n_per_prompt: int = 0

    @property
    def dims(self) -> tuple[int, ...]:
        """Every dimension that is among the largest at some layer, ascending."""
        return tuple(sorted({dim for dims in self.top_dims.values() for dim in dims}))

    def dims_at(self, n_layers: int) -> tuple[int, ...]:
        """Dimensions among the five largest at `n_layers` layers or more: three are advised."""
        top = [set(dims[:5]) for dims in self.top_dims.values()]
        return tuple(dim for dim in self.dims if sum(dim in dims for dims in top) >= n_layers)


@dataclass(frozen=True, slots=True)
class MassiveValues:
    """
    What a projection file keeps, so that massive dimensions can be taken out of its scores.

    Attributes:
        dims: Dimensions, ascending.
        top_dims: For each layer, the largest.
        vector_norm: Length of the vector.
        vector_values: The vector at the dimensions.
        prompt_values: For each dimension, the states' values, one a token of the prompt.
        response_values: The same for the response.
    """

    dims: tuple[int, ...]
    top_dims: Mapping[int, tuple[int, ...]]
    vector_norm: float
    vector_values: Mapping[int, float]
    prompt_values: Mapping[int, tuple[float, ...]]
    response_values: Mapping[int, tuple[float, ...]]


def read_calibration(path: Path) -> Calibration:
    """
    Read a file of massive dimensions.

    Raises:
        DatasetError: The file is malformed, or names no dimensions by layer.
    """
    node = read_document(path)
    aggregate = node.require("aggregate")
    per_prompt, prompt_set = node.get("per_prompt"), node.get_text("prompt_set")
    is_calibration = node.get_boolean("is_calibration")
    if is_calibration is None:
        is_calibration = prompt_set == "calibration"
    return Calibration(
        model=node.get_text("model"),
        variant=node.get_text("model_variant"),
        experiment=node.get_text("experiment"),
        prompt_set=prompt_set,
        is_calibration=is_calibration,
        n_prompts=aggregate.get_integer("n_prompts"),
        top_dims=_read_dims(aggregate.require("top_dims_by_layer")),
        magnitudes=_read_lists(aggregate.get("dim_magnitude_by_layer")),
        layer_norms=_read_numbers(aggregate.get("layer_norms")),
        alignments=_read_numbers(aggregate.get("mean_alignment_by_layer")),
        n_per_prompt=len(per_prompt.fields()) if per_prompt else 0,
    )


def read_massive_values(node: Node) -> MassiveValues:
    """
    Read the `massive_dim_data` of a projection file.

    Raises:
        DatasetError: It is malformed, or has values of a dimension it does not list.
    """
    values = node.require("activation_values")
    top_dims = node.get("top_dims_by_layer")
    read = MassiveValues(
        dims=node.require("dims").integers(),
        top_dims=_read_dims(top_dims) if top_dims else {},
        vector_norm=node.require("vec_norm").number(),
        vector_values=_read_numbers(node.require("vec_components")),
        prompt_values=_read_lists(values.get("prompt")),
        response_values=_read_lists(values.get("response")),
    )
    held = read.vector_values.keys() | read.prompt_values.keys() | read.response_values.keys()
    if unlisted := sorted(held - set(read.dims)):
        node.fail(f"there are values of dimension {unlisted[0]}, which `dims` does not list")
    return read


def _read_dims(node: Node) -> dict[int, tuple[int, ...]]:
    return {key: value.integers() for key, value in node.numbered()}


def _read_lists(node: Node | None) -> dict[int, tuple[float, ...]]:
    entries = node.numbered() if node else ()
    return {key: value.numbers() for key, value in entries}


def _read_numbers(node: Node | None) -> dict[int, float]:
    entries = node.numbered() if node else ()
    return {key: value.number() for key, value in entries}
