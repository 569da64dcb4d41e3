"""
Projections: scores that trait-interp computed, in the five forms it wrote them in.

A score is the state times the vector divided by the vector's length. Reading them serves to
compare: the store computes its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tistore.datasets.trait_interp.documents import Node, read_document
from tistore.datasets.trait_interp.massive import MassiveValues, read_massive_values

Schema = Literal["P0", "P1", "P2", "P3", "P4"]

_SUBLAYERS = {
    3: ("residual_in", "after_attn", "residual_out"),
    2: ("after_attn", "residual_out"),
    1: ("attn_out",),
}


@dataclass(frozen=True, slots=True)
class Halves:
    """
    One number a token, or a layer, for the prompt and for the response.

    Attributes:
        prompt: Empty where only the response was captured.
        response: Empty for conversations, which are all prompt.
    """

    prompt: tuple[float, ...]
    response: tuple[float, ...]

    @property
    def is_all_zero(self) -> bool:
        """
        Whether every number is zero.

        Such scores are placeholders: they were written where the component was not captured.
        """
        return not any(self.prompt) and not any(self.response)


@dataclass(frozen=True, slots=True)
class VectorSource:
    """
    Which vector was projected onto; a field is None where the file does not say.

    Attributes:
        trait: `category/name`, or a bare name in the oldest form. P4 leaves it to the path.
        method: How it was fitted.
        layer: Block it was fitted at.
        position: Tokens it was fitted on.
        model: Hub id of the model it was fitted on.
        experiment: Experiment it is from.
    """

    trait: str | None = None
    method: str | None = None
    layer: int | None = None
    position: str | None = None
    model: str | None = None
    experiment: str | None = None


@dataclass(frozen=True, slots=True)
class Projection:
    """
    The scores of one response on one vector, at one layer.

    Attributes:
        scores: One a token that had a row; baseline subtracted where `centered`.
        vector: What they are scores on. Its layer differs from `layer` only in P1, which projected
            every block onto one vector.
        layer: Block whose states were projected.
        component: As the file names it: "residual", "attn_contribution"; in P1 the sublayer.
        centered: Whether the baseline was subtracted.
        baseline: Mean of the two training sides' scores, where the file has it.
        selection_source: Why this vector was chosen, where the file says.
        token_norms: Lengths of the states, where the file has them for this layer.
    """

    scores: Halves
    vector: VectorSource
    layer: int
    component: str = "residual"
    centered: bool = False
    baseline: float | None = None
    selection_source: str | None = None
    token_norms: Halves | None = None


@dataclass(frozen=True, slots=True)
class ProjectionDocument:
    """
    What a projection file says.

    Attributes:
        schema: Which form it has.
        projections: At least one. P1 gives one for every layer and sublayer.
        prompt_set: The set, where the file names it.
        prompt_id: The prompt, where the file names it.
        n_prompt_tokens: As the file says; rows may have been one fewer.
        n_response_tokens: As the file says; rows may have been one fewer.
        activation_norms: Mean length of the states, one a captured layer, layers unnamed. Where
            two components were captured, it is the mean of theirs.
        massive: What cleaning of massive dimensions needs, where the file has it.
        written_at: When, as the file says.
    """

    schema: Schema
    projections: tuple[Projection, ...]
    prompt_set: str | None = None
    prompt_id: str | None = None
    n_prompt_tokens: int | None = None
    n_response_tokens: int | None = None
    activation_norms: Halves | None = None
    massive: MassiveValues | None = None
    written_at: str | None = None


def read_projections(path: Path) -> ProjectionDocument:
    """
    Read a projection file.

    Raises:
        DatasetError: The file is malformed, or has none of the five forms.
    """
    node = read_document(path)
    if "scores" in node.fields():
        return _read_oldest(node)
    metadata, projections = node.require("metadata"), node.require("projections")
    if isinstance(projections.value, list):
        return _document("P4", node, metadata, tuple(_read_multiple(node, metadata, projections)))
    if _is_nested(projections):
        return _document("P1", node, metadata, tuple(_read_nested(metadata, projections)))
    has_norms = "token_norms" in node.fields() or "massive_dim_data" in node.fields()
    single = (_read_single(node, metadata, projections),)
    return _document("P3" if has_norms else "P2", node, metadata, single)


def _document(
    schema: Schema, node: Node, metadata: Node, projections: tuple[Projection, ...]
) -> ProjectionDocument:
    if not projections:
        node.fail("the file holds no projections")
    massive = node.get("massive_dim_data")
    norms = node.get("activation_norms")
    prompt_id = metadata.get("prompt_id")
    return ProjectionDocument(
        schema=schema,
        projections=projections,
        prompt_set=metadata.get_text("prompt_set"),
        prompt_id=prompt_id.identity() if prompt_id else None,
        n_prompt_tokens=metadata.get_integer("n_prompt_tokens"),
        n_response_tokens=metadata.get_integer("n_response_tokens"),
        activation_norms=_read_halves(norms) if norms else None,
        massive=read_massive_values(massive) if massive else None,
        written_at=metadata.get_text("projection_date"),
    )


def _read_oldest(node: Node) -> ProjectionDocument:
    """Read P0: scores of generated tokens, each of the state that predicted the token."""
    metadata = node.require("metadata")
    layer = metadata.require("layer").integer()
    projection = Projection(
        scores=Halves((), node.require("scores").numbers()),
        vector=VectorSource(node.get_text("trait"), metadata.get_text("method"), layer),
        layer=layer,
    )
    prompt_id = str(node.require("prompt_idx").integer())
    return ProjectionDocument("P0", (projection,), prompt_id=prompt_id)


def _read_single(node: Node, metadata: Node, projections: Node) -> Projection:
    source = metadata.require("vector_source")
    layer = source.require("layer").integer()
    scores = _read_halves(projections)
    norms = node.get("token_norms")
    return Projection(
        scores=scores,
        vector=_read_vector(source),
        layer=layer,
        component=source.get_text("component") or source.get_text("sublayer") or "residual",
        centered=source.get_boolean("centered") or False,
        baseline=source.get_number("baseline"),
        selection_source=source.get_text("selection_source"),
        token_norms=_read_norms(norms, scores) if norms else None,
    )


def _read_multiple(node: Node, metadata: Node, projections: Node) -> Iterator[Projection]:
    """Read P4; norms at the top, as early files had them, are those of the first one's layer."""
    shared = node.get("token_norms")
    component = metadata.get_text("component") or "residual"
    first_layer: int | None = None
    for entry in projections.elements():
        layer, scores = entry.require("layer").integer(), _read_halves(entry)
        first_layer = layer if first_layer is None else first_layer
        norms = entry.get("token_norms") or (shared if layer == first_layer else None)
        yield Projection(
            scores=scores,
            vector=VectorSource(
                method=entry.require("method").text(),
                layer=layer,
                position=metadata.get_text("position"),
            ),
            layer=layer,
            component=component,
            centered=metadata.get_boolean("centered") or False,
            baseline=entry.get_number("baseline"),
            selection_source=entry.get_text("selection_source"),
            token_norms=_read_norms(norms, scores) if norms else None,
        )


def _read_nested(metadata: Node, projections: Node) -> Iterator[Projection]:
    """Read P1: for every token, for every layer, a score for each sublayer."""
    source = metadata.get("vector_source") or Node(metadata.path, "metadata", {})
    halves = [_read_table(projections.require(half)) for half in ("prompt", "response")]
    shapes = {(len(row), len(row[0])) for table in halves for row in table}
    if len(shapes) != 1:
        projections.fail("tokens differ in how many layers and sublayers they have, or are none")
    ((n_layers, n_sublayers),) = shapes
    if n_sublayers not in _SUBLAYERS:
        projections.fail(f"{n_sublayers} sublayers; known files have 1, 2 or 3")
    vector = _read_vector(source)
    for layer in range(n_layers):
        for at, sublayer in enumerate(_SUBLAYERS[n_sublayers]):
            prompt, response = (tuple(row[layer][at] for row in table) for table in halves)
            yield Projection(Halves(prompt, response), vector, layer, sublayer)


def _read_table(node: Node) -> Sequence[Sequence[Sequence[float]]]:
    """Read scores by token, layer and sublayer; every layer of a token has as many sublayers."""
    table = []
    for token in node.elements():
        row = [layer.numbers() for layer in token.elements()]
        if not row or len({len(layer) for layer in row}) != 1:
            token.fail("the layers of a token differ in how many sublayers they have, or are none")
        table.append(row)
    return table


def _is_nested(projections: Node) -> bool:
    halves = [projections.fields().get(half) for half in ("prompt", "response")]
    return any(isinstance(half, list) and half and isinstance(half[0], list) for half in halves)


def _read_vector(source: Node) -> VectorSource:
    return VectorSource(
        trait=source.get_text("trait"),
        method=source.get_text("method"),
        layer=source.get_integer("layer"),
        position=source.get_text("position"),
        model=source.get_known("model"),
        experiment=source.get_text("experiment"),
    )


def _read_halves(node: Node) -> Halves:
    """Read numbers of prompt and response; a missing prompt is one that was not captured."""
    prompt = node.get("prompt")
    return Halves(prompt.numbers() if prompt else (), node.require("response").numbers())


def _read_norms(node: Node, scores: Halves) -> Halves:
    norms = _read_halves(node)
    for half in ("prompt", "response"):
        n_norms, n_scores = len(getattr(norms, half)), len(getattr(scores, half))
        if n_norms != n_scores:
            node.fail(f"{n_norms} norms beside {n_scores} scores of the {half}")
    return norms
