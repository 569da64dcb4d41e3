"""Recording what blocks put out, while a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

from tistore.capture.families import find_blocks
from tistore.capture.layers import check_layers
from tistore.errors import ConfigError, SiteNotReachedError
from tistore.schemas.site import Site


@contextmanager
def record(model: nn.Module, sites: Sequence[Site]) -> Iterator[Mapping[Site, list[Tensor]]]:
    """
    Record each forward pass of `model` at `sites` while the block runs.

    Tensors are detached copies: a later module may edit its input in place.

    Yields:
        For each site, one (batch, position, hidden) tensor per pass, in the model's dtype.

    Raises:
        ConfigError: A site's component is not captured by this version.
        SiteNotFoundError: A site names no module; no hook has been set yet.
        SiteNotReachedError: The block ended, but a site's module never ran.
    """
    modules = find_modules(model, sites)
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


def find_modules(model: nn.Module, sites: Sequence[Site]) -> dict[Site, nn.Module]:
    """
    Find the module whose output each site is.

    Raises:
        ConfigError: A component is not captured by this version.
        SiteNotFoundError: A layer is not the model's.
    """
    for site in sites:
        if site.component != "residual":
            raise ConfigError(
                f"cannot capture {site}: this version captures residual only",
                mend='write components = ["residual"]',
            )
    blocks = find_blocks(model)
    check_layers([site.layer for site in sites], len(blocks))
    return {site: blocks[site.layer] for site in sites}


def _keep(kept: list[Tensor], _module: nn.Module, _inputs: object, output: object) -> None:
    state = output[0] if isinstance(output, tuple) else output
    assert isinstance(state, Tensor)  # every block of transformers puts its state first
    kept.append(state.detach().clone())
