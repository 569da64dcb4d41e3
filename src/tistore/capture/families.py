"""Where each architecture keeps its blocks: one row a family."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tistore.errors import SiteNotFoundError

BLOCK_PATHS: dict[str, str] = {
    "deepseek_v3": "model.layers",
    "gemma2": "model.layers",
    "gemma3": "model.language_model.layers",
    "gemma3_text": "model.layers",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "llama": "model.layers",
    "mistral": "model.layers",
    "mixtral": "model.layers",
    "olmo2": "model.layers",
    "phi3": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "qwen3_moe": "model.layers",
}
"""`model_type` of a causal language model, and the path of its block list."""


def find_blocks(model: nn.Module) -> Sequence[nn.Module]:
    """
    Find a model's blocks, in the order they run.

    Families that `BLOCK_PATHS` does not know are found by structure: the longest list whose
    items are all of one class. A PEFT wrapper is looked through.

    Raises:
        SiteNotFoundError: No list, or several of the same length, could be the blocks.
    """
    bare = unwrap(model)
    known = BLOCK_PATHS.get(name_family(bare))
    if known is not None and (blocks := _get_list(bare, known)) is not None:
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


def _get_list(model: nn.Module, path: str) -> nn.ModuleList | None:
    try:
        found = model.get_submodule(path)
    except AttributeError:
        return None
    return found if isinstance(found, nn.ModuleList) else None


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
        mend="add the family and the path of its blocks to BLOCK_PATHS in capture/families.py",
    )
