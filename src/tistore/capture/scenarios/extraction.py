"""From trait folders to chosen vectors, stage by stage; each is skipped where it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from tistore.capture.config import RunConfig
from tistore.capture.layers import LayerSpan
from tistore.capture.running.progress import Progress, SilentProgress
from tistore.capture.scenarios.read import Wanted, read_scenarios
from tistore.capture.scenarios.tasks import Continuation, Manner
from tistore.datasets.scenarios import SIDES, TraitScenarios, read_trait
from tistore.errors import (
    ConfigError,
    DatasetError,
    FitError,
    NotStoredError,
    TistoreError,
    VectorMismatchError,
    nearest,
)
from tistore.query.store import Store
from tistore.schemas.response import Rows
from tistore.schemas.site import COMPONENTS, Component
from tistore.schemas.vector import Vector
from tistore.vectors.choosing.choose import choose
from tistore.vectors.extract import extract_vectors
from tistore.vectors.methods.registry import find_method
from tistore.vectors.position import Position
from tistore.vectors.scenario_readings import SCENARIO_AUTHOR, find_scenarios
from tistore.vectors.vetting.kept import KeepRule, apply_rule, read_judgements
from tistore.vectors.vetting.options import VettingOptions, vet_trait

METHODS = ("mean_diff", "probe", "lda")
"""What is fitted where nobody asks for other methods."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """
    What is to be extracted of each trait.

    Attributes:
        positions: Tokens to average over; a vector for each.
        methods: How vectors are fitted; the same.
        layers: Blocks to read and fit at, as in `[capture]`; None for those of the configuration.
        components: What of each; the residual stream where the configuration has it when empty,
            else whatever that has.
        reader: Whose vectors they are: a base or an organism; None for the clean base.
        manner: How scenarios without a response go on.
        max_new_tokens: Of these; see `Continuation`.
        seed: Of whatever the methods draw.
        refit: Whether to fit anew what is up to date.
        choose: Whether to choose what a bare trait name means.
        vetting: Who judges the scenarios before anything is fitted on them; None for nobody.
        rule: What makes a scenario stay that was judged earlier, where nobody judges now; None
            to keep all.
    """

    positions: tuple[str, ...] = ("response[:]",)
    methods: tuple[str, ...] = METHODS
    layers: LayerSpan | Sequence[LayerSpan] | None = None
    components: tuple[Component, ...] = ()
    reader: str | None = None
    manner: Manner = "auto"
    max_new_tokens: int | None = None
    seed: int = 0
    refit: bool = False
    choose: bool = True
    vetting: VettingOptions | None = None
    rule: KeepRule | None = field(default_factory=KeepRule)


@dataclass(frozen=True, slots=True)
class Extracted:
    """
    What came of an extraction.

    Attributes:
        vectors: Every vector that was asked for, new or not, trait by trait; chosen ones say so.
        failures: Why some are missing, whole traits or positions; nothing is in their way later.
    """

    vectors: tuple[Vector, ...]
    failures: tuple[TistoreError, ...] = ()

    def raise_if_failed(self) -> None:
        """
        Raise if something is missing.

        Raises:
            TistoreError: As it was met; of several, all of their messages.
        """
        if len(self.failures) == 1:
            raise self.failures[0]
        if self.failures:
            raise FitError("\n".join(error.message for error in self.failures))


def extract_traits(
    store: Store,
    config: RunConfig,
    folders: Sequence[Path],
    extraction: Extraction | None = None,
    *,
    progress: Progress | None = None,
) -> Extracted:
    """
    Continue, read, vet, fit, evaluate and choose, for many traits with one load of the model.

    What is stored already is not done again, whatever stopped an earlier attempt.

    Args:
        store: Where everything goes.
        config: Names the models, and what of each reading is kept.
        folders: Of the traits, whose names differ.
        extraction: What to extract.
        progress: Who follows it.

    Returns:
        The vectors; and the failures of single traits, which keep nobody from the others.

    Raises:
        ConfigError: A method or position is malformed, or two traits have one name.
        DatasetError: A scenario cannot be read in that manner.
        KeyConflictError: The store holds other scenarios of a trait.
        PartialRunError: A signal stopped the reading, or the judge does not answer.
    """
    wanted = extraction or Extraction()
    traits = [read_trait(folder) for folder in folders]
    _check(wanted, traits)
    reader = wanted.reader or config.base.name
    components = wanted.components or _choose_components(config)
    kept = Wanted(wanted.layers, components, find_rows(wanted.positions))
    layers = kept.resolve(config, reader).layers
    needed = count_needed(wanted.positions)
    watcher = progress or SilentProgress()
    try:
        read_scenarios(
            store,
            config,
            traits,
            reader=reader,
            continuation=Continuation(wanted.manner, wanted.max_new_tokens, needed),
            wanted=kept,
            progress=progress,
        )
        work = _Work(store, wanted, reader, components, layers, watcher.note)
        for folder, trait in zip(folders, traits, strict=True):
            work.fit(folder, trait)
        names = [trait.trait for trait in traits]
        if wanted.choose:
            work.choose(names)
        return Extracted(tuple(work.list_vectors(names)), tuple(work.failures))
    finally:
        watcher.close()


@dataclass(slots=True)
class _Work:
    """What is done with scenarios that have been read."""

    store: Store
    wanted: Extraction
    reader: str
    components: tuple[Component, ...]
    layers: tuple[int, ...]
    say: Callable[[str], None]
    failures: list[TistoreError] = field(default_factory=list)
    _fitted: set[str] = field(default_factory=set)

    def fit(self, folder: Path, trait: TraitScenarios) -> None:
        """Vet a trait, and fit all its vectors; what is in the way of some is noted."""
        author = find_author(trait, self.reader, self.wanted.manner)
        try:
            kept = self._vet(folder, trait.trait, author)
        except DatasetError as error:
            self.failures.append(error)
            return
        before = self.store.snapshot.number
        for position, component in product(self.wanted.positions, self.components):
            try:
                extract_vectors(
                    self.store,
                    trait.trait,
                    reader=self.reader,
                    position=position,
                    methods=self.wanted.methods,
                    component=component,
                    layers=self.layers,
                    author=author,
                    kept=kept,
                    seed=self.wanted.seed,
                    refit=self.wanted.refit,
                    say=self.say,
                )
            except (FitError, NotStoredError, VectorMismatchError) as error:
                self.failures.append(error)
        if self.store.snapshot.number != before:
            self._fitted.add(trait.trait)

    def choose(self, traits: Sequence[str]) -> None:
        """Choose what traits' names mean, where vectors are new or the name means none yet."""
        own = [one for one in self._read_vectors() if one.model == self.reader]
        there, chosen = {one.trait for one in own}, {one.trait for one in own if one.chosen}
        undecided = [name for name in traits if name in there & (self._fitted | (there - chosen))]
        if undecided:
            self.say("choosing what bare names of traits mean")
            for refusal in choose(self.store, undecided).refusals:
                self.say(refusal.message)

    def list_vectors(self, traits: Sequence[str]) -> list[Vector]:
        """List the store's vectors that were asked for, in the order they were asked for."""
        positions = [str(Position.parse(text)) for text in self.wanted.positions]
        known = {
            (one.trait, one.position, one.component, one.layer, one.method): one
            for one in self._read_vectors()
            if one.model == self.reader
        }
        asked = product(traits, positions, self.components, self.layers, self.wanted.methods)
        return [known[name] for name in asked if name in known]

    def _read_vectors(self) -> tuple[Vector, ...]:
        self.store.refresh()
        return self.store.snapshot.vectors()

    def _vet(self, folder: Path, trait: str, author: str | None) -> frozenset[str] | None:
        """Find whose responses stay; None where nobody has judged them, or all are to stay."""
        store, wanted, reader = self.store, self.wanted, self.reader
        if wanted.vetting is not None:
            self.say(f"vetting {trait} by {wanted.vetting.endpoint}")
            _, vetted = vet_trait(store, folder, wanted.vetting, reader=reader, author=author)
        elif wanted.rule is not None and _is_judged(store, trait, reader, author):
            vetted = apply_rule(
                store.snapshot, trait, rule=wanted.rule, reader=reader, author=author
            )
        else:
            return None
        vetted.require_enough()
        kept = " and ".join(f"{vetted.n_kept(side)} {side}" for side in SIDES)
        self.say(
            f"{kept} scenarios of {trait} stay after vetting by {vetted.judge} at {vetted.rule}"
        )
        return vetted.response_ids


def _is_judged(store: Store, trait: str, reader: str, author: str | None) -> bool:
    judged = {one.response_id for one in read_judgements(store.snapshot, trait)}
    if not judged:
        return False
    scenarios = find_scenarios(store.snapshot, trait, reader, author)
    return any(one.response_id in judged for one in scenarios)


def _check(wanted: Extraction, traits: Sequence[TraitScenarios]) -> None:
    """Refuse what makes no sense before anything is loaded."""
    if not (wanted.positions and wanted.methods and traits):
        raise ConfigError("there is nothing to extract: name a trait, a position and a method")
    for text in wanted.positions:
        Position.parse(text)
    for name in wanted.methods:
        find_method(name, ())
    for component in wanted.components:
        if component not in COMPONENTS:
            raise ConfigError(
                f"there is no component {component!r}", mend=nearest(component, COMPONENTS)
            )
    names = [trait.trait for trait in traits]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"several trait folders are called {', '.join(repeated)}",
            mend="a trait is named by its folder and the one above it: rename one of them",
        )


def _choose_components(config: RunConfig) -> tuple[Component, ...]:
    """Choose where vectors are fitted if nobody says so: in the stream, where it is captured."""
    captured = config.capture.components
    return ("residual",) if "residual" in captured else captured


def find_rows(positions: Sequence[str]) -> Rows | None:
    """Find whether positions look beyond the response; None where either will do."""
    parsed = [Position.parse(text) for text in positions]
    is_beyond = any(one.frame != "response" or one.needs_roles or one.needs_turns for one in parsed)
    return "all" if is_beyond else None


def count_needed(positions: Sequence[str]) -> int:
    """Count the tokens that a response must have so that positions get all that they ask for."""
    parsed = [Position.parse(text) for text in positions]
    stops = [one.stop or 0 for one in parsed if one.frame == "response" and not one.needs_turns]
    return max(0, *stops, 0)


def find_author(trait: TraitScenarios, reader: str, manner: Manner) -> str | None:
    """Find who writes a trait's responses; None where people wrote some and the reader others."""
    authors = {
        SCENARIO_AUTHOR if scenario.response is not None or manner == "none" else reader
        for scenario in (*trait.positive, *trait.negative)
    }
    return authors.pop() if len(authors) == 1 else None
