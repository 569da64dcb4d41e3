"""Recording what a model's parts put out, while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

from tistore.capture.families import find_module
from tistore.errors import SiteNotReachedError
from tistore.schemas.site import Site


@contextmanager
def record(model: nn.Module, sites: Sequence[Site]) -> Iterator[Mapping[Site, list[Tensor]]]:
    """
    Record each forward pass of `model` at `sites` while the block runs.

    Tensors are detached copies: a later module may edit its input in place.

    Yields:
        For each site, one (batch, position, hidden) tensor per pass, in the model's dtype.

    Raises:
        SiteNotFoundError: A site names no module; no hook has been set yet.
        SiteNotReachedError: The block ended, but a site's module never ran.
    """
    modules = {site: find_module(model, site) for site in sites}
    kept: dict[Site, list[Tensor]] = {site: [] for site in modules}
    with ExitStack() as hooks:
        for site, module in modules.items():
            handle = module.register_forward_hook(partial(_keep, kept[site]))
            hooks.callback(handle.remove)
        yield kept
    if missed := [site for site in kept if not kept[site]]:
        raise SiteNotReachedError(
            f"no forward pass ran through {', '.join(map(str, missed))}",
            mend="run the model inside the block",
        )


def _keep(kept: list[Tensor], _module: nn.Module, _inputs: object, output: object) -> None:
    state = output[0] if isinstance(output, tuple) else output
    assert isinstance(state, Tensor)  # blocks and attentions of transformers put it first
    kept.append(state.detach().clone())
