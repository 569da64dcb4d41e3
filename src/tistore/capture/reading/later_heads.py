"""Heads of readers whose states are stored already."""

from __future__ import annotations

from tistore.capture.config import RunConfig
from tistore.capture.models.load import load_base
from tistore.capture.reading.heads import HeadKeeper
from tistore.errors import KeyConflictError, NotStoredError, nearest
from tistore.schemas.model import Model
from tistore.store.base import BaseStore


def keep_heads(store: BaseStore, config: RunConfig) -> dict[str, str]:
    """
    Keep the heads of a run's models that have read something in a store, where they lack one.

    For stores from before heads were kept, and for imported ones. No text is read again.

    Returns:
        For each reader that lacked one, the hash of its head.

    Raises:
        NotStoredError: None of the run's models has read anything in the store.
        KeyConflictError: A reader's name is another model in the store.
        ModelLoadError: A model cannot be loaded.
        HeadError: A head cannot be read.
    """
    store.refresh()
    readers = {
        name
        for segment in store.snapshot.segments
        for name in segment.table("responses", ["reader"])["reader"].to_pylist()
    }
    if not readers & set(config.known_names):
        raise NotStoredError(
            f"none of the run's models has read anything in {store.path}",
            mend=f"its readers: {nearest('', readers)}; call the run's models the same",
        )
    lacking = readers - set(store.snapshot.reader_heads)
    kept: dict[str, str] = {}
    for weights in config.weights:
        names = [name for name in (weights, *config.adapters_on(weights)) if name in lacking]
        if names:
            kept |= _keep(store, config, weights, names)
    return kept


def _keep(store: BaseStore, config: RunConfig, weights: str, names: list[str]) -> dict[str, str]:
    loaded = load_base(config, weights)
    kept = {}
    with store.writer() as writer:
        keeper = HeadKeeper(writer, loaded.tokenizer)
        for name in names:
            with loaded.reading_as(name) as model:
                _refuse_another(store.snapshot.models.get(name), loaded.describe(name))
                kept[name] = keeper.keep(name, model)
            loaded.unload(name)
    return kept


def _refuse_another(stored: Model | None, loaded: Model) -> None:
    """Refuse a model that goes by the name of another."""
    for fact in ("base_revision", "adapter_hash"):
        known = getattr(stored, fact, None)
        if known is not None and known != getattr(loaded, fact):
            raise KeyConflictError(
                f"{loaded.name!r} in the store is another model: its {fact} is {known}, that of "
                f"the run's is {getattr(loaded, fact)}",
                mend="give the weights that the states were read with",
            )
