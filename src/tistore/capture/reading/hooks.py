"""Recording what a model's parts put out, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

from tistore.capture.reading.taps import find_tap
from tistore.errors import SiteNotReachedError
from tistore.schemas.site import Site

Take = Callable[[Site, Tensor], None]
"""Gets what a site put out, once a pass; must copy what it keeps: a later module may edit it."""


@contextmanager
def watch(model: nn.Module, sites: Sequence[Site], take: Take) -> Iterator[None]:
    """
    Hand each forward pass of `model` at `sites` over while the block runs.

    Args:
        model: The model, or a PEFT wrapper around it.
        sites: What to watch; each once.
        take: Gets (batch, position, width) of each site, in the order they are reached. A row of
            attention patterns is (head, key), with as many keys as the longest sequence of the
            batch has; `trim_keys` cuts those of a shorter one.

    Raises:
        SiteNotFoundError: A site names no module; no hook has been set yet.
        SiteNotReachedError: The block ended, but a site's module never ran.
    """
    taps = {site: find_tap(model, site) for site in sites}
    missed = dict.fromkeys(taps)
    with ExitStack() as hooks:
        for site, tap in taps.items():
            hooks.callback(tap.attach(partial(_hand_over, site, missed, take)).remove)
        yield
    if missed:
        raise SiteNotReachedError(
            f"no forward pass ran through {', '.join(map(str, missed))}",
            mend="run the model inside the block",
        )


@contextmanager
def record(model: nn.Module, sites: Sequence[Site]) -> Iterator[Mapping[Site, list[Tensor]]]:
    """
    Record each forward pass of `model` at `sites` while the block runs.

    Tensors are detached copies: a later module may edit its input in place.

    Yields:
        For each site, one (batch, position, width) tensor per pass, in the model's dtype.

    Raises:
        SiteNotFoundError: A site names no module; no hook has been set yet.
        SiteNotReachedError: The block ended, but a site's module never ran.
    """
    kept: dict[Site, list[Tensor]] = {site: [] for site in sites}
    with watch(model, sites, lambda site, state: kept[site].append(state.detach().clone())):
        yield kept


def _hand_over(site: Site, missed: dict[Site, None], take: Take, state: Tensor) -> None:
    missed.pop(site, None)
    take(site, state)
