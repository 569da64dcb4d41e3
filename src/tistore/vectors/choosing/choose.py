"""Choosing what bare trait names mean, and recording it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tistore.errors import AmbiguousVectorError, ChoiceError, ConfigError, nearest
from tistore.query.store import Store
from tistore.schemas.choice import Choice
from tistore.store.snapshot import Snapshot
from tistore.vectors.choosing.candidates import (
    ANY,
    Candidates,
    Filters,
    find_candidates,
    list_audited_sites,
)
from tistore.vectors.choosing.exact import find_one
from tistore.vectors.choosing.nested import pick_by_nested
from tistore.vectors.choosing.pick import DEFAULTS, Pick, Rule, Settings
from tistore.vectors.choosing.plain import pick_by_separation, pick_named, pick_only
from tistore.vectors.choosing.steering import pick_as_incumbent, pick_by_steering

_FITTED_ANEW = "; fitted anew since"


def pick_automatically(store: Store, candidates: Candidates, settings: Settings) -> Pick:
    """
    Take the only vector; else what steering says; else nested evaluation; else separations.

    Raises:
        ChoiceError: None of these is known.
    """
    if len(candidates.vectors) == 1:
        return pick_only(store, candidates)
    refusals: list[ChoiceError] = []
    for rule in (pick_by_steering, pick_by_nested, pick_by_separation):
        try:
            pick = rule(store, candidates, settings)
        except ChoiceError as error:
            refusals.append(error)
            continue
        if rule is pick_by_separation:
            why = refusals[-1].message.removeprefix(f"{candidates}: ")
            return replace(pick, reason=f"{pick.reason}; held-out scenarios did not choose: {why}")
        return pick
    told = (error.message.removeprefix(f"{candidates}: ") for error in refusals)
    raise ChoiceError(
        f"{candidates}: nothing tells which of its {len(candidates.vectors)} vectors is the best: "
        + "; ".join(told),
        mend="import steering results; or read its scenarios: tistore vectors extract; "
        "or name one: tistore vectors best STORE --pick REFERENCE",
    )


RULES: dict[str, Rule] = {
    "auto": pick_automatically,
    "steering": pick_by_steering,
    "nested": pick_by_nested,
    "separation": pick_by_separation,
    "incumbent": pick_as_incumbent,
}
"""Rules by the names they are asked for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What was chosen.

    Attributes:
        choices: One for each trait and model that a rule could decide.
        new: Those of them that were not so before.
        refusals: Why a rule could not decide others.
    """

    choices: tuple[Choice, ...]
    new: tuple[Choice, ...]
    refusals: tuple[ChoiceError, ...] = ()

    def raise_if_refused(self) -> None:
        """
        Raise if a rule could not decide.

        Raises:
            ChoiceError: As the rule raised it; of several, all of their messages.
        """
        if len(self.refusals) == 1:
            raise self.refusals[0]
        if self.refusals:
            raise ChoiceError("\n".join(error.message for error in self.refusals))


def choose(
    store: Store,
    traits: Sequence[str] | None = None,
    *,
    rule: str = "auto",
    filters: Filters = ANY,
    settings: Settings = DEFAULTS,
    keep_named: bool = True,
    dry_run: bool = False,
) -> Outcome:
    """
    Choose a vector for each trait and model, and record what has changed.

    What can be decided is recorded, whatever else cannot. Where answers have been read, vectors at
    other sites are no candidates, unless all of a trait's are.

    Args:
        store: Where the vectors are.
        traits: Traits, with or without their category; all when None.
        rule: One of `RULES`.
        filters: Which vectors are considered.
        settings: What the rule can be told.
        keep_named: Leave alone what a person has named. A vector fitted anew under its name takes
            its place.
        dry_run: Record nothing.

    Raises:
        ConfigError: There is no such rule, or it takes no offset.
        UnknownVectorError: There is no such trait, or the filters leave none of its vectors.
        AmbiguousVectorError: A name without category is that of several traits.
    """
    if rule not in RULES:
        raise ConfigError(f"there is no rule {rule!r}; {nearest(rule, RULES)}")
    if settings.offset and rule != "incumbent":
        raise ConfigError(
            f"the rule {rule!r} takes no offset", mend="ask for it: --rule incumbent --offset 2"
        )
    picks: list[Pick] = []
    refusals: list[ChoiceError] = []
    groups = find_candidates(store.snapshot.vectors(), traits, filters)
    # The best vector is no use at a site that no answer was read at.
    audited = list_audited_sites(store.snapshot)
    try:
        for found in groups:
            candidates = found.at(audited)
            named = _find_named(store, found) if keep_named else None
            try:
                picks.append(named or RULES[rule](store, candidates, settings))
            except ChoiceError as error:
                refusals.append(error)
    finally:  # nested evaluation takes its time: an interruption costs the trait at hand only
        outcome = _record(store, picks, tuple(refusals), dry_run)
    return outcome


def choose_vectors(
    store: Store,
    traits: Sequence[str] | None = None,
    *,
    rule: str = "auto",
    settings: Settings = DEFAULTS,
) -> list[Choice]:
    """
    Choose as `choose` does, leaving alone what a person has named; all must be decided.

    Raises:
        ChoiceError: A rule could not decide; what it could is recorded.
    """
    outcome = choose(store, traits, rule=rule, settings=settings)
    outcome.raise_if_refused()
    return list(outcome.choices)


def choose_named(
    store: Store,
    references: Sequence[str],
    *,
    filters: Filters = ANY,
    dry_run: bool = False,
) -> Outcome:
    """
    Choose the vectors somebody names.

    Args:
        store: Where they are.
        references: Each the reference or hash of one vector; no two of a trait and model.
        filters: Which vectors are considered: tells apart what references cannot.
        dry_run: Record nothing.

    Raises:
        UnknownVectorError: A reference names none.
        AmbiguousVectorError: A reference names several, or two are of one trait and model.
    """
    vectors = store.snapshot.vectors()
    picks: dict[tuple[str, str | None], Pick] = {}
    for reference in references:
        vector = find_one(reference, vectors, filters)
        of_trait = [
            one for one in vectors if (one.trait, one.model) == (vector.trait, vector.model)
        ]
        key = (vector.trait, vector.model)
        if key in picks and picks[key].vector is not vector:
            raise AmbiguousVectorError(
                f"{picks[key].vector.reference} and {vector.reference} cannot both be what "
                f"{vector.trait} means",
                mend="pick one for each trait and model",
            )
        picks[key] = pick_named(vector, len(of_trait))
    return _record(store, list(picks.values()), (), dry_run)


def _find_named(store: Store, candidates: Candidates) -> Pick | None:
    """Find what a person has named for a trait and model, or what was fitted anew in its place."""
    old = store.snapshot.choices.get((candidates.trait, candidates.model))
    if old is None or old.rule != "named":
        return None
    vector = next((one for one in store.snapshot.vectors() if old.names(one)), None)
    if vector is None:
        return None
    reason = old.reason
    if not old.means(vector):
        reason = reason.removesuffix(_FITTED_ANEW) + _FITTED_ANEW
    return Pick(vector, "named", reason, old.n_candidates)


def _record(
    store: Store, picks: Sequence[Pick], refusals: tuple[ChoiceError, ...], dry_run: bool
) -> Outcome:
    now = datetime.now(UTC)
    choices = [_settle(pick.to_choice(now), store.snapshot) for pick in picks]
    new = [choice for choice in choices if choice.chosen_at == now]
    if new and not dry_run:
        store.add_rows("choices", [choice.to_row() for choice in new])
    return Outcome(tuple(choices), tuple(new), refusals)


def _settle(choice: Choice, snapshot: Snapshot) -> Choice:
    """Give the choice there is, where nothing has changed but the time."""
    old = snapshot.choices.get((choice.trait, choice.model))
    if old is not None and replace(choice, chosen_at=old.chosen_at) == old:
        return old
    return choice
