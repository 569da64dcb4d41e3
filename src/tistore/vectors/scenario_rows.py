"""A trait's scenarios as rows to fit on: one mean activation for each, layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tistore.errors import NotStoredError, VectorMismatchError
from tistore.query.store import Store
from tistore.schemas.digest import digest
from tistore.schemas.model import BASE_READER
from tistore.schemas.site import Site
from tistore.vectors.contrast import Contrast
from tistore.vectors.position import Position
from tistore.vectors.scenario_readings import StoredScenario, find_scenarios
from tistore.vectors.token_means import Stretch, find_stretch, read_means


@dataclass(frozen=True, slots=True, eq=False)
class _Scenario:
    """A scenario, and the tokens of the position in each reading of it that has them."""

    stored: StoredScenario
    stretches: tuple[Stretch, ...]

    def at(self, site: Site) -> Stretch | None:
        return next((one for one in self.stretches if one.segment.has(site)), None)


class ScenarioRows:
    """
    The rows of a trait's scenarios; nothing of the activations is read before it is asked for.

    Every scenario is in it at every site: a site that lacks one is none of its sites.

    Args:
        trait: `category/name`.
        reader: Who read the scenarios.
        position: Tokens that are averaged over.
        scenarios: At least one of each side.
    """

    def __init__(
        self, trait: str, reader: str, position: Position, scenarios: Sequence[_Scenario]
    ) -> None:
        self.trait = trait
        self.reader = reader
        self.position = position
        self._scenarios = tuple(scenarios)
        self._groups = np.array([one.stored.group for one in scenarios], dtype=np.int64)
        self._is_positive = np.array([one.stored.side == "positive" for one in scenarios])

    @property
    def n_positive(self) -> int:
        """Scenarios that show the trait."""
        return int(self._is_positive.sum())

    @property
    def n_negative(self) -> int:
        """Scenarios that do not."""
        return int((~self._is_positive).sum())

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site at which all scenarios have been read, by component and layer."""
        of_each = (
            {
                Site(component, layer)
                for stretch in one.stretches
                for component in stretch.segment.components
                for layer in stretch.segment.layers
            }
            for one in self._scenarios
        )
        return tuple(sorted(set.intersection(*of_each)))

    @cached_property
    def fitted_on(self) -> str:
        """Hash of which tokens of which texts the rows are means of: 32 hex digits."""
        texts = sorted([one.stored.side, one.stored.response_id] for one in self._scenarios)
        return digest([str(self.position), texts])

    def to_row(self) -> dict[str, Any]:
        """Lay out which scenarios these are as a row of the `scenario_sets` table."""
        return {
            "fitted_on": self.fitted_on,
            "trait": self.trait,
            "position": str(self.position),
            "n_positive": self.n_positive,
            "n_negative": self.n_negative,
            "response_ids": [one.stored.response_id for one in self._scenarios],
        }

    def at(self, site: Site) -> Contrast:
        """
        Read the rows at a site.

        Raises:
            NotStoredError: Not all scenarios have been read there, or only scores are here.
            VectorMismatchError: The readings differ in width, as attention patterns do.
            IntegrityError: A chunk is damaged.
        """
        stretches = [one.at(site) for one in self._scenarios]
        found = [stretch for stretch in stretches if stretch is not None]
        if len(found) < len(stretches):
            raise self._describe_missing(site, len(stretches) - len(found))
        widths = sorted({stretch.segment.width(site.component) for stretch in found})
        if len(widths) > 1:
            raise VectorMismatchError(
                f"{self.reader}'s readings of {self.trait} are {' and '.join(map(str, widths))} "
                f"wide at {site}, and no direction fits them all",
                mend="fit at a component whose width does not depend on the length of a text",
            )
        rows = read_means(found, site)
        return Contrast(
            rows[self._is_positive],
            rows[~self._is_positive],
            self._groups[self._is_positive],
            self._groups[~self._is_positive],
        )

    def contrasts(self, sites: Sequence[Site]) -> Iterator[tuple[Site, Contrast]]:
        """
        Read site after site, the next one while one is in use.

        Whatever the number of sites, the rows of two of them at most are in memory.
        """
        with ThreadPoolExecutor(1) as reading:
            upcoming = reading.submit(self.at, sites[0]) if sites else None
            for place, site in enumerate(sites):
                assert upcoming is not None
                contrast = upcoming.result()
                following = sites[place + 1 : place + 2]
                upcoming = reading.submit(self.at, following[0]) if following else None
                yield site, contrast

    def _describe_missing(self, site: Site, n_missing: int) -> NotStoredError:
        there = ", ".join(map(str, self.sites)) or "nowhere"
        return NotStoredError(
            f"{n_missing} of {len(self._scenarios)} scenarios of {self.trait} were not read by "
            f"{self.reader} at {site}; all were at {there}",
            mend="read them there: tistore vectors extract STORE TRAIT --config RUN.toml, with "
            "that layer and component in the configuration",
        )


def open_scenarios(
    store: Store,
    trait: str,
    *,
    reader: str = BASE_READER,
    position: str = "response[:]",
    author: str | None = None,
    kept: Collection[str] | None = None,
    as_fitted: bool = True,
) -> ScenarioRows:
    """
    Find what a trait's vectors are fitted on.

    Args:
        store: Where the scenarios have been read.
        trait: `category/name`.
        reader: Who read them: the model the vectors are for.
        position: Tokens to average over.
        author: Who wrote the responses, "scenarios" or a model; when None, each scenario's are
            the reader's own where it generated them, else those that come with the scenario.
        kept: Ids of the responses to keep; all when None.
        as_fitted: Whether, with neither `author` nor `kept`, to keep those that the store's newest
            vectors of that trait, reader and position were fitted on, where there are any.

    Raises:
        ConfigError: The position is malformed.
        NotStoredError: A side has not been read, or nothing of it is kept; or a reading has no such
            tokens, or only its response's tokens were captured and the position needs others.
    """
    tokens = Position.parse(position)
    if as_fitted and author is None and kept is None:
        kept = _find_fitted(store, trait, reader, str(tokens))
    found = find_scenarios(store.snapshot, trait, reader, author, kept)
    scenarios = [_Scenario(one, _find_stretches(one, tokens)) for one in found]
    return ScenarioRows(trait, reader, tokens, scenarios)


def _find_fitted(store: Store, trait: str, reader: str, position: str) -> frozenset[str] | None:
    """Find the responses that the newest vectors were fitted on; None where that is unknown."""
    hashes = [
        vector.fitted_on
        for vector in store.snapshot.vectors()
        if (vector.trait, vector.model, vector.position) == (trait, reader, position)
    ]
    if not hashes or hashes[-1] is None:
        return None
    sets = store.snapshot.table("scenario_sets").select(["fitted_on", "response_ids"])
    known = {row["fitted_on"]: frozenset(row["response_ids"]) for row in sets.to_pylist()}
    return known.get(hashes[-1])


def _find_stretches(scenario: StoredScenario, position: Position) -> tuple[Stretch, ...]:
    """Find the position in each reading that has all of its tokens; at least one has."""
    stretches: list[Stretch] = []
    problems: list[NotStoredError] = []
    for reading in scenario.readings:
        try:
            stretches.append(find_stretch(reading, position))
        except NotStoredError as error:
            problems.append(error)  # another reading of it may have more rows
    if not stretches:
        raise problems[-1]
    return tuple(stretches)
