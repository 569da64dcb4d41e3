"""How alike the activations of one trait's scenarios are between layers, components or readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tistore.errors import QueryError
from tistore.query.store import Store
from tistore.schemas.model import BASE_READER
from tistore.schemas.site import Site
from tistore.vectors.comparing.kernel_alignment import centered_gram
from tistore.vectors.contrast import Contrast
from tistore.vectors.scenario_readings import find_stored_trait
from tistore.vectors.scenario_rows import open_scenarios

Between = Literal["layers", "components", "models"]
BETWEEN: tuple[Between, ...] = get_args(Between)

_HOW: dict[Between, str] = {
    "layers": "compare all layers; or between components or models",
    "components": "read them there: tistore vectors extract … --component attn_out; or compare "
    "between layers or models",
    "models": "name two who have read them: --reader instruct --reader flattery",
}
"""What to do where there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Alike:
    """
    Two places the same scenarios were read at.

    Attributes:
        trait: Whose scenarios.
        first_reader: Who read them first.
        first: Where.
        second_reader: Who read them then.
        second: Where.
        cka: Linear CKA of the two, 0 to 1.
        n_rows: Scenarios compared.
    """

    trait: str
    first_reader: str
    first: Site
    second_reader: str
    second: Site
    cka: float
    n_rows: int


def compare_activations(
    store: Store,
    trait: str,
    between: Between,
    *,
    readers: Sequence[str] = (BASE_READER,),
    position: str = "response[:]",
    layer: int | None = None,
) -> list[Alike]:
    """
    Compare every two places that differ in layer, component or reader alone.

    One matrix of inner products a place is kept, as many rows and columns as there are scenarios;
    activations are read one place after the other.

    Args:
        store: Where the scenarios have been read.
        trait: `category/name`, or the name alone where no other category has it.
        between: What the two places differ in.
        readers: Who read the scenarios; texts must be the same for all of them.
        position: Tokens to average over.
        layer: Places at this layer only; at all when None.

    Returns:
        The pairs, by reader, component and layer.

    Raises:
        NotStoredError: The scenarios have not been read.
        QueryError: No two places differ in that alone, or readers have read different texts.
    """
    trait = find_stored_trait(store.snapshot, trait)
    grams: dict[tuple[str, Site], NDArray[np.float64]] = {}
    texts = set()
    for reader in readers:
        rows = open_scenarios(store, trait, reader=reader, position=position)
        texts.add(rows.fitted_on)
        wanted = [site for site in rows.sites if layer in (None, site.layer)]
        for site, contrast in rows.contrasts(wanted):
            grams[reader, site] = _gram(contrast)
    if len(texts) > 1:
        raise QueryError(
            f"{', '.join(readers)} have read different texts of {trait}",
            mend="compare readers of scenarios that come with their responses",
        )
    pairs = [pair for pair in combinations(grams, 2) if _differ_in(between, *pair)]
    if not pairs:
        raise QueryError(
            f"the scenarios of {trait} were read at {len(grams)} places, no two of which differ in "
            f"{between[:-1]} alone",
            mend=_HOW[between],
        )
    lengths = {place: float(np.linalg.norm(gram)) for place, gram in grams.items()}
    return [
        Alike(
            trait,
            *first,
            *second,
            cka=float(np.sum(grams[first] * grams[second])) / (lengths[first] * lengths[second]),
            n_rows=len(grams[first]),
        )
        for first, second in pairs
    ]


def _gram(contrast: Contrast) -> NDArray[np.float64]:
    return centered_gram(np.concatenate([contrast.positive, contrast.negative]))


def _differ_in(between: Between, first: tuple[str, Site], second: tuple[str, Site]) -> bool:
    differ = {
        "models": first[0] != second[0],
        "components": first[1].component != second[1].component,
        "layers": first[1].layer != second[1].layer,
    }
    return differ[between] and sum(differ.values()) == 1
