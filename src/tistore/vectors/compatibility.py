"""Whether a vector may be applied to a store's readings, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tistore.errors import NotStoredError, nearest
from tistore.query.massive import MassiveDims
from tistore.query.references import Direction, resolve
from tistore.query.store import Store
from tistore.schemas.model import Model, compare_models, name_base, share_base
from tistore.schemas.vector import Vector
from tistore.store.segment import Segment

Verdict = Literal["yes", "with care", "no"]
Fact = Literal["ok", "differs", "unknown"]

_ASPECTS = {
    "tokenizer": ("tokenizer_hash",),
    "template": ("chat_template_hash",),
    "precision": ("dtype", "quantization"),
}
"""What `compare_models` compares, and the facts of a model that tell it."""


@dataclass(frozen=True, slots=True)
class Compatibility:
    """
    What a vector and one reader's readings have to do with each other.

    A difference in `width`, `hook`, `layer` or `base` makes scores impossible or meaningless: SQL
    refuses them. Any other, or a fact that is not known, calls for care.

    Attributes:
        reader: Who read.
        verdict: Whether the vector may be applied.
        width: Whether the activations are as wide as the vector.
        hook: Whether the vector's component was captured, each row at its own token.
        layer: Whether its layer was.
        base: Whether the vector was fitted on the same base and architecture.
        tokenizer: Whether with the same tokenizer.
        template: Whether with the same chat template.
        precision: Whether at the same dtype and quantization.
        readings: The reader's readings.
        readings_at_site: Those of them that have the vector's component and layer; to others the
            score is NULL.
        reason: What is not ok, in words; None where all is.
    """

    reader: str
    verdict: Verdict
    width: Fact
    hook: Fact
    layer: Fact
    base: Fact
    tokenizer: Fact
    template: Fact
    precision: Fact
    readings: int
    readings_at_site: int
    reason: str | None

    def to_row(self) -> dict[str, Any]:
        """Lay it out flat, with stable keys."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Finding:
    """A fact of which something is to be said."""

    aspect: str
    fact: Fact
    told: str
    is_bar: bool = False


def check_vector(store: Store, reference: str, reader: str | None = None) -> list[Compatibility]:
    """
    Hold a vector against every reader's readings, by the rules that queries refuse by.

    Args:
        store: Where both are.
        reference: A vector reference, or an expression of several.
        reader: Only this one.

    Returns:
        One for each reader, by name.

    Raises:
        UnknownVectorError: The reference names no vector.
        AmbiguousVectorError: It names several, and nothing tells which is meant.
        NotStoredError: There is no such reader, or nothing has been read.
    """
    snapshot = store.snapshot
    direction = resolve(reference, None, snapshot.vectors(), MassiveDims(snapshot))
    readers = _list_readers(snapshot.segments)
    if not readers:
        raise NotStoredError(f"nothing has been read into {store.path}")
    if reader is not None and reader not in readers:
        raise NotStoredError(f"no readings by {reader!r}; {nearest(reader, readers)}")
    predicting = _list_predicting(store)
    return [
        _check(direction, name, parts, snapshot.models, predicting)
        for name, parts in sorted(readers.items())
        if reader in (None, name)
    ]


_Parts = list[tuple[Segment, list[str]]]
"""A reader's readings: the keys of those in each segment."""


def _list_readers(segments: Sequence[Segment]) -> dict[str, _Parts]:
    found: dict[str, dict[str, list[str]]] = {}
    by_uuid = {segment.uuid: segment for segment in segments}
    for segment in segments:
        table = segment.table("responses", ["reader", "reading_key"])
        for reader, key in zip(*(column.to_pylist() for column in table.columns), strict=True):
            found.setdefault(reader, {}).setdefault(segment.uuid, []).append(key)
    return {
        reader: [(by_uuid[uuid], keys) for uuid, keys in parts.items()]
        for reader, parts in found.items()
    }


def _list_predicting(store: Store) -> set[str]:
    """List the readings that came from files whose rows predict the token."""
    table = store.snapshot.table("sources").select(["reading_key", "row_convention"])
    return {
        row["reading_key"] for row in table.to_pylist() if row["row_convention"] == "predicting"
    }


def _check(
    direction: Direction,
    reader: str,
    parts: _Parts,
    models: dict[str, Model],
    predicting: set[str],
) -> Compatibility:
    findings = [*_check_place(direction, parts, predicting)]
    for vector in direction.fitted_vectors:
        findings += _check_model(vector, reader, models)
    facts = {name: _worst(findings, name) for name in _FACTS}
    at_site = [(segment, keys) for segment, keys in parts if segment.has(direction.site)]
    return Compatibility(
        reader=reader,
        verdict=_judge(findings),
        readings=sum(len(keys) for _, keys in parts),
        readings_at_site=sum(len(keys) for _, keys in at_site),
        reason="; ".join(dict.fromkeys(finding.told for finding in findings)) or None,
        **facts,
    )


_FACTS = ("width", "hook", "layer", "base", *_ASPECTS)


def _worst(findings: Iterable[_Finding], aspect: str) -> Fact:
    facts = {finding.fact for finding in findings if finding.aspect == aspect}
    return "differs" if "differs" in facts else "unknown" if facts else "ok"


def _judge(findings: Sequence[_Finding]) -> Verdict:
    if any(finding.is_bar for finding in findings):
        return "no"
    return "with care" if findings else "yes"


def _check_place(direction: Direction, parts: _Parts, predicting: set[str]) -> Iterator[_Finding]:
    """Compare component, layer and width."""
    site, hidden = direction.site, direction.vector.hidden
    having = [segment for segment, _ in parts if site.component in segment.components]
    if not having:
        there = sorted({name for segment, _ in parts for name in segment.components})
        told = f"{site.component} was not captured, but {', '.join(there)}"
        yield _Finding("hook", "differs", told, is_bar=True)
        yield _Finding("layer", "unknown", told)
        yield _Finding("width", "unknown", told)
        return
    layers = sorted({layer for segment in having for layer in segment.layers})
    if site.layer not in layers:
        told = f"layer {site.layer} was not captured, but {', '.join(map(str, layers))}"
        yield _Finding("layer", "differs", told, is_bar=True)
    widths = sorted({segment.width(site.component) for segment in having})
    if widths != [hidden]:
        told = f"it is {hidden} wide, the {site.component} {' and '.join(map(str, widths))}"
        # Where some are as wide, as attention patterns are by length, a query can be narrowed.
        yield _Finding("width", "differs", told, is_bar=hidden not in widths)
    if moved := sum(key in predicting for _, keys in parts for key in keys):
        told = f"{moved} readings were imported from rows one token early, and moved"
        yield _Finding("hook", "differs", told)


def _check_model(vector: Vector, reader: str, models: dict[str, Model]) -> Iterator[_Finding]:
    """Compare the model a vector was fitted on with one that read."""
    fitted_on, reads = models.get(vector.model or ""), models.get(reader)
    if fitted_on is None or reads is None:
        told = f"nothing is known of the model that {vector.reference} was fitted on"
        if fitted_on is not None:
            told = f"nothing is known of {reader}"
        yield from (_Finding(aspect, "unknown", told) for aspect in ("base", *_ASPECTS))
        return
    if fitted_on == reads:
        return
    if (is_shared := share_base(fitted_on, reads)) is None:
        told = f"whether {fitted_on.name} and {reader} have one base is not known"
        yield _Finding("base", "unknown", told)
    elif not is_shared:
        told = f"fitted on {name_base(fitted_on)}, read by {name_base(reads)}"
        yield _Finding("base", "differs", told, is_bar=True)
    yield from _compare_settings(fitted_on, reads)


def _compare_settings(fitted_on: Model, reads: Model) -> Iterator[_Finding]:
    """Compare tokenizer, template and precision."""
    differing = {each.aspect: each for each in compare_models(fitted_on, reads)}
    for aspect, names in _ASPECTS.items():
        if difference := differing.get(aspect):
            told = f"its {aspect} was {difference.one}, theirs is {difference.other}"
            yield _Finding(aspect, "differs", told)
        elif any(all(getattr(m, name) is None for name in names) for m in (fitted_on, reads)):
            yield _Finding(aspect, "unknown", f"whether they share a {aspect} is not known")
