"""From contrast scenarios that have been read to vectors of the store."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tistore.errors import NotStoredError
from tistore.query.store import Store
from tistore.schemas.model import BASE_READER
from tistore.schemas.site import Component, Site
from tistore.schemas.vector import Vector
from tistore.vectors.mean_difference import fit_mean_difference, held_out_separation
from tistore.vectors.position import Position
from tistore.vectors.selection import select_means

METHOD = "mean_diff"


def scenario_set(trait: str, side: str) -> str:
    """Name the prompt set that holds one side, "positive" or "negative", of a trait."""
    return f"scenarios/{trait}/{side}"


def extract_vectors(
    store: Store,
    trait: str,
    *,
    reader: str = BASE_READER,
    position: str = "response[:]",
    component: Component = "residual",
    layers: Sequence[int] | None = None,
) -> list[Vector]:
    """
    Fit a trait's mean difference at every layer, and commit the vectors.

    The scenarios are readings like any other, of the sets that `scenario_set` names; reading
    them is capture's work, so a new position or layer costs no forward pass.

    Args:
        store: Where the scenarios have been read.
        trait: `category/name`.
        reader: Who read them: the model the vectors are for.
        position: Tokens to average over.
        component: Component to fit at.
        layers: Blocks to fit at; every one that was captured when left out.

    Returns:
        One vector a layer, with its held-out separation and its midpoint.

    Raises:
        NotStoredError: The scenarios have not been read, or not at a layer.
        KeyConflictError: The store holds another vector of that name.
    """
    tokens = Position.parse(position)
    wanted = list(layers) if layers is not None else _stored_layers(store, trait, reader)
    vectors = [_fit(store, trait, reader, Site(component, layer), tokens) for layer in wanted]
    store.add_rows("vectors", [vector.to_row() for vector in vectors])
    return vectors


def _fit(store: Store, trait: str, reader: str, site: Site, position: Position) -> Vector:
    positive, negative = (
        select_means(store, scenario_set(trait, side), reader, site, position).rows
        for side in ("positive", "negative")
    )
    values = fit_mean_difference(positive, negative)
    unit = values / np.linalg.norm(values)
    separation = held_out_separation(positive, negative)
    midpoint = (positive.mean(axis=0) + negative.mean(axis=0)) / 2 @ unit
    return Vector(
        trait=trait,
        values=np.asarray(values, dtype=np.float32),
        layer=site.layer,
        component=site.component,
        method=METHOD,
        position=str(position),
        model=reader,
        separation=None if math.isnan(separation) else separation,
        midpoint=float(midpoint),
    )


def _stored_layers(store: Store, trait: str, reader: str) -> list[int]:
    wanted = {scenario_set(trait, side) for side in ("positive", "negative")}
    layers: set[int] = set()
    for segment in store.snapshot.segments:
        responses = segment.table("responses", ["prompt_set", "reader"]).to_pylist()
        if any(row["prompt_set"] in wanted and row["reader"] == reader for row in responses):
            layers |= set(segment.layers)
    if not layers:
        raise NotStoredError(
            f"no scenarios of {trait} have been read by {reader}",
            mend="read them first: tistore vectors extract STORE TRAIT_FOLDER",
        )
    return sorted(layers)
