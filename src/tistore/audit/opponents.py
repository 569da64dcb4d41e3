"""An organism and the baseline it is held against: both are there, and alike but for weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from tistore.errors import PairingError, QueryError, nearest
from tistore.query.span_question import and_condition, quote
from tistore.schemas.model import Model, compare_models
from tistore.schemas.prompt import SCENARIO_SETS

if TYPE_CHECKING:
    from tistore.query.store import Store


def check_organisms(names: Iterable[str], known: Collection[str]) -> None:
    """
    Check that organisms somebody names are there.

    Raises:
        QueryError: One is not; the message has the nearest that is.
    """
    for name in names:
        if name not in known:
            raise QueryError(f"no organism {name!r}; {nearest(name, known)}")


def check_opponents(
    store: Store, organism: str, baseline: str, any_pairing: bool = False
) -> tuple[str, ...]:
    """
    Check that an organism can be compared with a baseline.

    Returns:
        Notes on what they differ in beside their weights, where any pairing goes.

    Raises:
        QueryError: One of them is not there, or both are one.
        PairingError: They differ in precision, template or tokenizer.
    """
    found = store.sql("SELECT DISTINCT organism, reader FROM responses").fetchall()
    authors, readers = ({row[place] for row in found} for place in (0, 1))
    if baseline not in authors | readers:
        raise QueryError(f"no baseline {baseline!r}; {nearest(baseline, authors)}")
    if organism not in authors:
        raise QueryError(f"no organism {organism!r}; {nearest(organism, authors - {baseline})}")
    if organism == baseline:
        raise QueryError(
            f"{organism!r} is the baseline itself", mend="compare another organism with it"
        )
    return check_alike(store.snapshot.models, organism, baseline, any_pairing)


def check_alike(
    models: Mapping[str, Model], organism: str, baseline: str, any_pairing: bool = False
) -> tuple[str, ...]:
    """
    Check that two models differ in nothing but their weights, as far as that is known.

    Returns:
        Notes on what else they differ in, where any pairing goes.

    Raises:
        PairingError: They differ in precision, template or tokenizer.
    """
    sides = [models.get(name) or Model(name) for name in (organism, baseline)]
    differences = compare_models(*sides)
    if not differences:
        return ()
    told = ", ".join(f"{one.aspect} ({one.one} against {one.other})" for one in differences)
    message = f"{organism!r} and {baseline!r} differ in more than their weights: {told}"
    if any_pairing:
        return (message,)
    raise PairingError(
        message,
        mend="leave that organism out, or compare all the same: any_pairing=True, --any-pairing",
    )


def write_condition(organism: str, baseline: str, where: str | None) -> str:
    """
    Write the SQL condition that keeps the three readings a comparison is made of.

    The organism's reading of its own texts, the baseline's of these texts, and the baseline's of
    its own; of audits, not of scenarios.

    Raises:
        QueryError: `where` is more, or less, than one condition.
    """
    one, other = quote(organism), quote(baseline)
    condition = (
        f"(organism = {one} AND reader IN ({one}, {other})\n"
        f"    OR organism = {other} AND reader = {other})\n"
        f"  AND NOT starts_with(prompt_set, {quote(SCENARIO_SETS)})"
    )
    return condition + and_condition(where)
