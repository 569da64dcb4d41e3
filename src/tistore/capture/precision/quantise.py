"""One trait's vector under several precisions of a base, from its texts to what they conclude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tistore.capture.config import RunConfig
from tistore.capture.layers import select_layers
from tistore.capture.models.architecture import load_architecture
from tistore.capture.precision.arms import Arm, find_arms, name_reader
from tistore.capture.precision.read import TraitTexts, read_in_precision
from tistore.capture.running.progress import Progress, SilentProgress
from tistore.capture.scenarios.extraction import count_needed, find_rows
from tistore.capture.scenarios.read import Wanted, read_scenarios
from tistore.capture.scenarios.tasks import Continuation, Manner
from tistore.datasets.scenarios import TraitScenarios, read_trait
from tistore.errors import ConfigError, NotStoredError, nearest
from tistore.query.store import Store
from tistore.schemas.response import CaptureSettings
from tistore.schemas.site import COMPONENTS, Component, Site
from tistore.store.snapshot import Snapshot
from tistore.vectors.comparing.precisions import PrecisionComparison, compare_precisions
from tistore.vectors.evaluation.cross_fit import FOLDS
from tistore.vectors.extract import extract_vectors
from tistore.vectors.methods.on_clean import ON_CLEAN
from tistore.vectors.methods.registry import find_method
from tistore.vectors.position import Position
from tistore.vectors.scenario_readings import find_scenarios, list_stored_traits
from tistore.vectors.scenario_rows import ScenarioRows, open_scenarios
from tistore.vectors.vetting.kept import KeepRule, apply_rule, read_judgements

REFERENCE = "bf16"
PRECISIONS = (REFERENCE, "int8", "nf4")
"""What is compared where nobody asks for others."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """
    What is to be compared.

    Attributes:
        arms: Names of precisions.
        reference: The one that the others are compared with.
        method: How vectors are fitted.
        position: Tokens to average over.
        component: Where vectors are fitted.
        layers: At which blocks; None for those that have been read.
        manner: How scenarios without a response go on, where they have not been read.
        seed: Of whatever is drawn.
    """

    arms: tuple[str, ...] = PRECISIONS
    reference: str = REFERENCE
    method: str = "mean_diff"
    position: str = "response[:]"
    component: Component = "residual"
    layers: str | None = None
    manner: Manner = "auto"
    seed: int = 0


def quantise(
    store: Store,
    config: RunConfig,
    traits: Sequence[str | Path],
    wanted: Quantisation | None = None,
    *,
    progress: Progress | None = None,
) -> list[PrecisionComparison]:
    """
    Read the same scenarios with a base in several precisions, and compare what comes of it.

    All arms read the very same token ids: those that the base, or else the reference, has read.
    Each is a reader `BASE~ARM`, unless the base is loaded in that precision anyway; vectors are
    committed under these names. Arms are loaded one after the other, each once for all traits,
    and not at all if the store has their readings.

    Args:
        store: Where everything goes.
        config: Names the base; its organisms are left alone.
        traits: Names of traits that have been read; folders of others, or of those.
        wanted: What to compare.
        progress: Who follows it.

    Returns:
        For each trait and arm one a layer, the reference itself left out.

    Raises:
        ConfigError: There is no such precision, method, component or layer; or too few scenarios.
        NotStoredError: A trait has not been read.
        ModelLoadError: The base cannot be loaded in a precision, or this machine would get its
            weights wrong; the precision is named, and nothing has been read.
        KeyConflictError: The base differs from the store's by more than precision.
        PartialRunError: A signal stopped it; what was read is committed.
    """
    wanted = wanted or Quantisation()
    reference, *others = find_arms((wanted.reference, *wanted.arms))
    _check(wanted, others)
    watcher = progress or SilentProgress()
    try:
        return _Comparison(store, config, wanted, watcher).run(reference, others, traits)
    finally:
        watcher.close()


def _check(wanted: Quantisation, others: Sequence[Arm]) -> None:
    """Refuse what makes no sense before anything is loaded."""
    if not others:
        raise ConfigError(
            f"there is nothing to compare {wanted.reference} with", mend="name more --arms"
        )
    if wanted.method.endswith(ON_CLEAN):
        raise ConfigError(
            f"{wanted.method} leaves out massive dimensions, which each precision has of its own",
            mend=f"compare {wanted.method.removesuffix(ON_CLEAN)}",
        )
    find_method(wanted.method)
    Position.parse(wanted.position)
    if wanted.component not in COMPONENTS:
        raise ConfigError(
            f"there is no component {wanted.component!r}",
            mend=nearest(wanted.component, COMPONENTS),
        )


def _refuse_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise NotStoredError(
                f"no scenarios of {name} have been read; {nearest(name, known)}",
                mend="give its folder",
            )


def _refuse_unfit(folders: Sequence[TraitScenarios]) -> None:
    for each in folders:
        _require_enough(each.trait, len(each.positive), len(each.negative))
    names = [each.trait for each in folders]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"several trait folders are called {', '.join(repeated)}",
            mend="a trait is named by its folder and the one above it: rename one of them",
        )


def _require_enough(trait: str, n_positive: int, n_negative: int) -> None:
    if min(n_positive, n_negative) < FOLDS:
        raise ConfigError(
            f"{trait} has {n_positive} positive and {n_negative} negative scenarios, and of each "
            f"{FOLDS} are needed to hold some out",
            mend="add scenarios to its folder",
        )


class _Comparison:
    """A comparison under way."""

    def __init__(
        self, store: Store, config: RunConfig, wanted: Quantisation, progress: Progress
    ) -> None:
        self._store = store
        self._config = config
        self._wanted = wanted
        self._progress = progress

    def run(
        self, reference: Arm, others: Sequence[Arm], traits: Sequence[str | Path]
    ) -> list[PrecisionComparison]:
        readers = {
            arm: name_reader(self._snapshot, self._config, arm) for arm in (reference, *others)
        }
        for arm, reader in readers.items():
            if reader not in self._snapshot.models:  # others were read, here or on another machine
                arm.require_right_weights(self._config)
        authors = self._read_folders(reference, readers[reference], traits)
        sources = [self._open_source(trait, author) for trait, author in authors.items()]
        texts = [self._list_texts(source) for source in sources]
        for arm, reader in readers.items():
            self._read(arm, reader, texts, like=sources[0].reader)
        return [
            one
            for source, each in zip(sources, texts, strict=True)
            for one in self._compare(source, each, readers)
        ]

    @property
    def _snapshot(self) -> Snapshot:
        return self._store.snapshot

    def _read_folders(
        self, reference: Arm, reader: str, traits: Sequence[str | Path]
    ) -> dict[str, str]:
        """Read what folders hold and the store does not; name for each trait who has read it."""
        base = self._config.base.name
        folders = [read_trait(one) for one in traits if isinstance(one, Path)]
        names = [one for one in traits if isinstance(one, str)]
        _refuse_unknown(names, list_stored_traits(self._snapshot))
        _refuse_unfit(folders)
        by_base = [one for one in folders if reader == base or self._has_read(base, one.trait)]
        rest = [one for one in folders if one not in by_base]
        self._write(self._config, by_base)
        self._write(reference.configure(self._config, reader), rest)
        return {
            name: base if self._has_read(base, name) or not self._has_read(reader, name) else reader
            for name in [*names, *(one.trait for one in folders)]
        }

    def _write(self, config: RunConfig, traits: Sequence[TraitScenarios]) -> None:
        """Have a base continue and read scenarios, where it has not."""
        if not traits:
            return
        wanted = self._wanted
        read_scenarios(
            self._store,
            config,
            traits,
            continuation=Continuation(wanted.manner, None, count_needed([wanted.position])),
            wanted=Wanted(wanted.layers, (wanted.component,), find_rows([wanted.position])),
            progress=_Shared(self._progress),
        )
        self._store.refresh()

    def _has_read(self, reader: str, trait: str) -> bool:
        try:
            return bool(find_scenarios(self._snapshot, trait, reader))
        except NotStoredError:
            return False

    def _open_source(self, trait: str, reader: str) -> ScenarioRows:
        """Find what is compared: what the base's vectors are fitted on, or would be."""
        rows = open_scenarios(
            self._store,
            trait,
            reader=reader,
            position=self._wanted.position,
            kept=self._vet(trait, reader),
        )
        _require_enough(trait, rows.n_positive, rows.n_negative)
        return rows

    def _vet(self, trait: str, reader: str) -> frozenset[str] | None:
        """Leave out what a judge has found wanting, unless vectors tell what to keep."""
        position = str(Position.parse(self._wanted.position))
        named = (trait, reader, position)
        vectors = self._snapshot.vectors()
        is_fitted = any((one.trait, one.model, one.position) == named for one in vectors)
        judged = {one.response_id for one in read_judgements(self._snapshot, trait)}
        read = {one.response_id for one in find_scenarios(self._snapshot, trait, reader)}
        if is_fitted or not judged & read:
            return None
        vetted = apply_rule(self._snapshot, trait, rule=KeepRule(), reader=reader)
        vetted.require_enough()
        return vetted.response_ids

    def _list_texts(self, source: ScenarioRows) -> TraitTexts:
        kept = source.to_row()["response_ids"]
        scenarios = find_scenarios(self._snapshot, source.trait, source.reader, kept=kept)
        component = self._wanted.component
        layers = tuple(site.layer for site in source.sites if site.component == component)
        if self._wanted.layers is not None:
            n_layers = load_architecture(self._config.base).num_hidden_layers
            layers = select_layers(self._wanted.layers, n_layers)
        if not layers:
            raise NotStoredError(
                f"{source.reader} has not read all scenarios of {source.trait} at {component}",
                mend="say where to read them: --layers all",
            )
        rows = find_rows([self._wanted.position]) or "response"
        return TraitTexts(
            source.trait, scenarios, CaptureSettings(tuple(sorted(layers)), (component,), rows)
        )

    def _read(self, arm: Arm, reader: str, texts: Sequence[TraitTexts], *, like: str) -> None:
        config = arm.configure(self._config, reader)
        if reader == self._config.base.name:
            config = self._config  # dtype "auto" stays what it was recorded with
        model = self._snapshot.models[like]
        n_read = read_in_precision(self._store, config, texts, like=model, progress=self._progress)
        self._progress.note(f"{reader}: {n_read} readings added" if n_read else f"{reader}: stored")

    def _compare(
        self, source: ScenarioRows, texts: TraitTexts, readers: Mapping[Arm, str]
    ) -> list[PrecisionComparison]:
        wanted, trait = self._wanted, source.trait
        self._progress.note(f"comparing {trait}")
        kept = frozenset(source.to_row()["response_ids"])
        for reader in readers.values():
            extract_vectors(
                self._store,
                trait,
                reader=reader,
                position=wanted.position,
                methods=[wanted.method],
                component=wanted.component,
                layers=texts.settings.layers,
                kept=kept,
                seed=wanted.seed,
                say=self._progress.note,
            )
        rows = {
            arm.name: open_scenarios(
                self._store, trait, reader=reader, position=wanted.position, kept=kept
            )
            for arm, reader in readers.items()
        }
        sites = [Site(wanted.component, layer) for layer in texts.settings.layers]
        method = find_method(wanted.method)
        return compare_precisions(rows, wanted.reference, sites, method, seed=wanted.seed)


class _Shared:
    """Follows one of several runs: what it tells is handed on, and the last one closes."""

    def __init__(self, progress: Progress) -> None:
        self.note = progress.note
        self.update = progress.update

    def close(self) -> None:
        """Leave it open."""
