"""Where each architecture keeps its blocks: one row a family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tistore.capture.layers import check_layers
from tistore.errors import SiteNotFoundError
from tistore.schemas.site import Component, Site


@dataclass(frozen=True, slots=True)
class Family:
    """
    Where an architecture keeps what can be captured.

    Attributes:
        blocks: Path of the list of blocks in the causal language model.
        attn_out: Module of a block whose output its attention adds to the stream: the norm behind
            it, where there is one.
        mlp_out: The same of its MLP.
        o_proj: Module that joins the heads' outputs.
        down_proj: Last module of the MLP; None where every block has experts instead.
    """

    blocks: str = "model.layers"
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    o_proj: str = "self_attn.o_proj"
    down_proj: str | None = "mlp.down_proj"

    def path(self, component: Component) -> str | None:
        """Path of a component's module from its block; empty for the block itself."""
        paths = {
            "residual": "",
            "attn_out": self.attn_out,
            "mlp_out": self.mlp_out,
            "o_proj": self.o_proj,
            "down_proj": self.down_proj,
        }
        return paths[component]


_NORMED = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}

FAMILIES: dict[str, Family] = {
    "deepseek_v3": Family(),
    "gemma2": Family(**_NORMED),
    "gemma3": Family(blocks="model.language_model.layers", **_NORMED),
    "gemma3_text": Family(**_NORMED),
    "gpt2": Family("transformer.h", "attn", "mlp", "attn.c_proj", "mlp.c_proj"),
    "gpt_neox": Family(
        "gpt_neox.layers", "attention", "mlp", "attention.dense", "mlp.dense_4h_to_h"
    ),
    "llama": Family(),
    "mistral": Family(),
    "mixtral": Family(down_proj=None),
    "olmo2": Family(**_NORMED),
    "phi3": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(down_proj=None),
}
"""What is known of each architecture, by its `model_type`."""


def find_module(model: nn.Module, site: Site) -> nn.Module:
    """
    Find the module whose output a site is.

    Raises:
        SiteNotFoundError: The model has no such layer, or the layer no such module; or the family
            is not known, and what enters its stream cannot be told.
    """
    blocks = find_blocks(model)
    check_layers([site.layer], len(blocks))
    block = blocks[site.layer]
    if site.component == "residual":
        return block
    family = name_family(model)
    if family not in FAMILIES:
        raise SiteNotFoundError(
            f"cannot tell where {site} is in a {family!r} model; its blocks have "
            f"{_name_parts(block)}",
            mend="add the family to FAMILIES in capture/families.py, or capture residual only",
        )
    path = FAMILIES[family].path(site.component)
    found = _get(block, path) if path else None
    if found is None:
        raise SiteNotFoundError(
            f"layer {site.layer} of this {family} model has no {site.component}: where experts "
            f"take the MLP's place there is no one module; its block has {_name_parts(block)}",
            mend="capture mlp_out, which is what the experts add together",
        )
    return found


def find_blocks(model: nn.Module) -> Sequence[nn.Module]:
    """
    Find a model's blocks, in the order they run.

    Families that `FAMILIES` does not know are found by structure: the longest list whose
    items are all of one class. A PEFT wrapper is looked through.

    Raises:
        SiteNotFoundError: No list, or several of the same length, could be the blocks.
    """
    bare = unwrap(model)
    known = FAMILIES.get(name_family(bare))
    if known is not None and isinstance(blocks := _get(bare, known.blocks), nn.ModuleList):
        return list(blocks)
    return list(_find_by_structure(bare))


def unwrap(model: nn.Module) -> nn.Module:
    """Look through a PEFT wrapper, if there is one."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if callable(get_base_model) else model


def find_device(model: nn.Module) -> torch.device:
    """Find where a model takes token ids: its parts may lie on several devices."""
    embeddings = unwrap(model).get_input_embeddings()  # type: ignore[operator]
    device: torch.device = next(embeddings.parameters()).device
    return device


def name_family(model: nn.Module) -> str:
    """Name the architecture as its config does: `model_type`; "unknown" without a config."""
    return str(getattr(getattr(unwrap(model), "config", None), "model_type", "unknown"))


def _get(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _name_parts(block: nn.Module) -> str:
    names = (name for name, _ in block.named_modules() if name and name.count(".") < 2)
    return ", ".join(names)


def _find_by_structure(model: nn.Module) -> nn.ModuleList:
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(item) for item in module}) == 1
    }
    longest = max((len(module) for module in lists.values()), default=0)
    candidates = [name for name, module in lists.items() if len(module) == longest]
    if len(candidates) == 1:
        return lists[candidates[0]]
    found = ", ".join(f"{name} ({longest})" for name in candidates) or "no list of equal modules"
    raise SiteNotFoundError(
        f"cannot tell which modules are the blocks of a {name_family(model)!r} model; "
        f"candidates: {found}",
        mend="add the family to FAMILIES in capture/families.py",
    )
