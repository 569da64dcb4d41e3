"""From contrast scenarios that have been read to vectors of the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from tistore.errors import ConfigError, FitError, NotStoredError, nearest
from tistore.query.cached import forget_scores
from tistore.query.massive import MassiveDims
from tistore.query.product import one_thread_each
from tistore.query.store import Store
from tistore.schemas.model import BASE_READER
from tistore.schemas.site import Component, Site
from tistore.schemas.vector import Vector
from tistore.vectors.fitting import FittedVector, SiteFits
from tistore.vectors.methods.registry import find_method
from tistore.vectors.scenario_rows import ScenarioRows, open_scenarios

MEAN_DIFFERENCE = "mean_diff"

_Name = tuple[Site, str]
"""Of a vector among those of one trait, model and position: its site and its method."""


def extract_vectors(
    store: Store,
    trait: str,
    *,
    reader: str = BASE_READER,
    position: str = "response[:]",
    methods: Sequence[str] = (MEAN_DIFFERENCE,),
    component: Component = "residual",
    layers: Sequence[int] | None = None,
    author: str | None = None,
    kept: Collection[str] | None = None,
    seed: int = 0,
    refit: bool = False,
    evaluated: bool = True,
    say: Callable[[str], None] = lambda message: None,
) -> list[Vector]:
    """
    Fit a trait's vectors at every layer by some methods, and commit them with their quality.

    The scenarios are readings like any other; reading them is capture's work, so that a new
    position, layer or method costs no forward pass. What is fitted on these very scenarios is left
    as it is. What was fitted on others of that name, since some were added or vetted otherwise, is
    removed and replaced in one commit. One layer's rows are in memory at a time.

    Args:
        store: Where the scenarios have been read.
        trait: `category/name`.
        reader: Who read them: the model the vectors are for.
        position: Tokens to average over.
        methods: Names of methods; "probe-on-clean" for rows without massive dimensions.
        component: Component to fit at.
        layers: Blocks to fit at; every one that was captured when left out.
        author: Who wrote the responses; see `open_scenarios`.
        kept: Ids of the responses to fit on, as after vetting; all when None.
        seed: Of whatever is drawn.
        refit: Whether to fit anew what is up to date, as after another seed.
        evaluated: Whether to evaluate each method, too, which costs some fits more.
        say: Told what is fitted, and what is left out.

    Returns:
        The store's vectors for all of it, layer by layer, new or not. One that a method could not
        fit at some layer is not among them.

    Raises:
        ConfigError: There is no such method, or none is named; or the position is malformed.
        NotStoredError: The scenarios have not been read, or not at a layer.
        QueryError: A method leaves out massive dimensions, which have not been measured.
        FitError: No method found a direction at any layer.
    """
    for name in methods:
        find_method(name, ())  # a misspelt one is told before anything is read
    rows = open_scenarios(
        store, trait, reader=reader, position=position, author=author, kept=kept, as_fitted=False
    )
    sites = _choose_sites(rows, component, layers)
    fits = _Fits(store, rows, seed, evaluated, say)
    wanted = [(site, name) for site in sites for name in dict.fromkeys(methods)]
    if not wanted:
        raise ConfigError("no vector is asked for: name a layer and a method")
    fits.run([one for one in wanted if refit or not fits.is_up_to_date(one)])
    store.refresh()
    found = _find_vectors(store, rows)
    if not any(one in found for one in wanted):
        raise fits.failures[0]
    return [found[one] for one in wanted if one in found]


def _choose_sites(
    rows: ScenarioRows, component: Component, layers: Sequence[int] | None
) -> list[Site]:
    """List the sites to fit at; those of `layers` are all wanted, whether they were read or not."""
    if layers is not None:
        return [Site(component, layer) for layer in dict.fromkeys(layers)]
    sites = [site for site in rows.sites if site.component == component]
    if not sites:
        there = {site.component for site in rows.sites}
        raise NotStoredError(
            f"{rows.reader} has not read all scenarios of {rows.trait} at {component}; "
            f"{nearest(component, there)}",
            mend=f"read them there: tistore vectors extract … --component {component}",
        )
    return sites


@dataclass(slots=True)
class _Fits:
    """The fits of one trait, model and position."""

    store: Store
    rows: ScenarioRows
    seed: int
    evaluated: bool
    say: Callable[[str], None]
    failures: list[FitError] = field(default_factory=list)
    _stored: dict[_Name, Vector] = field(init=False)

    def __post_init__(self) -> None:
        self._stored = _find_vectors(self.store, self.rows)

    def is_up_to_date(self, name: _Name) -> bool:
        known = self._stored.get(name)
        return known is not None and known.fitted_on == self.rows.fitted_on

    def run(self, wanted: Sequence[_Name]) -> None:
        """Fit, and commit; what was fitted before something failed is committed, too."""
        if not wanted:
            return
        component = wanted[0][0].component
        self.say(f"fitting {self.rows.trait} on {self.rows.position} at {component}")
        names: dict[Site, list[str]] = {}
        for site, name in wanted:
            names.setdefault(site, []).append(name)
        replaced: list[Vector] = []
        # Problems of a few hundred rows are solved faster by one thread than by several that wait
        # for each other; and another one reads the next layer meanwhile.
        with one_thread_each(), self.store.writer() as writer:
            writer.add_rows("scenario_sets", [self.rows.to_row()])
            for one, fitted in self._fit(names):
                if known := self._stored.get(one):
                    writer.remove_vectors([known], _describe_removal(known, self.rows))
                    replaced.append(known)
                if fitted is not None:
                    writer.add_rows("vectors", [fitted.vector.to_row()])
                if fitted is not None and fitted.evaluation is not None:
                    writer.add_rows("evaluations", [fitted.evaluation.to_row()])
        if replaced:
            self.say(f"{len(replaced)} vectors of {self.rows.trait} were fitted anew")
            forget_scores(self.store, replaced)
        self._tell_stale()

    def _tell_stale(self) -> None:
        """Say which vectors, of methods or layers not asked for, are of other scenarios."""
        found = _find_vectors(self.store, self.rows).values()
        stale = [one for one in found if one.fitted_on not in (None, self.rows.fitted_on)]
        if stale:
            methods = ",".join(sorted({one.method for one in stale}))
            self.say(
                f"{len(stale)} other vectors of {self.rows.trait} are still of the scenarios there "
                f"were before: fit them anew with --methods {methods}"
            )

    def _fit(self, names: dict[Site, list[str]]) -> Iterator[tuple[_Name, FittedVector | None]]:
        massive = MassiveDims(self.store.snapshot)
        for site, contrast in self.rows.contrasts(list(names)):
            fits = SiteFits(self.rows, site, contrast, self.seed, massive)
            for name in names[site]:
                fitted = None
                try:
                    fitted = fits.fit(name, evaluated=self.evaluated)
                except FitError as error:
                    where = f"{self.rows.trait}, {name} at {site}: {error.message}"
                    self.failures.append(FitError(where, mend=error.mend))
                    self.say(f"no vector of {where}")
                yield (site, name), fitted


def _describe_removal(vector: Vector, rows: ScenarioRows) -> str:
    if vector.fitted_on is None:
        return "fitted anew: what it was fitted on is not known"
    if vector.fitted_on != rows.fitted_on:
        return "fitted anew: its scenarios are others now"
    return "fitted anew on request"


def _find_vectors(store: Store, rows: ScenarioRows) -> dict[_Name, Vector]:
    """Find the store's vectors of a trait, model and position."""
    wanted = (rows.trait, rows.reader, str(rows.position))
    return {
        (vector.site, vector.method): vector
        for vector in store.snapshot.vectors()
        if (vector.trait, vector.model, vector.position) == wanted
    }
