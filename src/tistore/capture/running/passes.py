"""In which order weights come into memory, and what is done with each."""

from __future__ import annotations

from dataclasses import dataclass

from tistore.capture.config import RunConfig


@dataclass(frozen=True, slots=True)
class Stage:
    """
    One author's responses, read by models on the weights in memory.

    Attributes:
        author: Whose responses.
        readers: Who reads them now; none where they are only written.
        is_own: Whether the author is on these weights, so that it can write what is missing.
    """

    author: str
    readers: tuple[str, ...]
    is_own: bool


@dataclass(frozen=True, slots=True)
class Pass:
    """
    What is done while some weights are in memory.

    Attributes:
        weights: Their name, as `RunConfig.weights` has it.
        stages: In order.
    """

    weights: str
    stages: tuple[Stage, ...]


def list_passes(config: RunConfig) -> list[Pass]:
    """
    Order a run so that each weights are loaded once, as far as that can be.

    Fine-tunes with weights of their own and further bases go first, the base last: it reads what
    all of them have written. Only who reads what later weights write is loaded a second time.
    """
    left = {author: list(config.readers_of(author)) for author in config.answerers}
    is_written = {author for author in left if config.is_given(author)}
    passes = []
    for weights in [*config.weights, *config.weights]:
        stages = []
        for author, readers in left.items():
            is_own = config.weights_of(author) == weights and not config.is_given(author)
            writes = is_own and author not in is_written
            if not writes and author not in is_written:
                continue
            now = [reader for reader in readers if config.weights_of(reader) == weights]
            if now or writes:
                stages += [Stage(author, some, is_own) for some in _share_out(config, author, now)]
            is_written.add(author)
            left[author] = [reader for reader in readers if reader not in now]
        if stages:
            passes.append(Pass(weights, tuple(stages)))
    return passes


def _share_out(config: RunConfig, author: str, readers: list[str]) -> list[tuple[str, ...]]:
    """Have a base's answers read by one adapter after the other: together they may be too many."""
    if author not in config.weights:
        return [tuple(readers)]
    adapters = [reader for reader in readers if reader in config.adapters]
    loaded = tuple(reader for reader in readers if reader not in adapters)
    alone: list[tuple[str, ...]] = [(adapter,) for adapter in adapters]
    # Whoever writes does so before any adapter reads.
    return [loaded, *alone] if loaded or not alone else alone
