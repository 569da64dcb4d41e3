"""Where each architecture keeps its blocks: one row a family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from tistore.capture.layers import check_layers
from tistore.errors import SiteNotFoundError
from tistore.schemas.site import Component, Site

Packing = Literal["apart", "side_by_side", "by_head", "latent"]
"""
How queries, keys and values come out of their modules.

- apart: Each out of a module of its own.
- side_by_side: Out of one module: all queries, then all keys, then all values.
- by_head: Out of one module: of each head, its query, key and value.
- latent: Keys and values are expanded from one latent state: of each head, the part of its key
  that is not rotated, and its value.
"""


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
        attention: Module that puts out the attention patterns.
        q_proj: Module that puts out queries, or several of which a block has one.
        k_proj: The same of keys; None where no one module does.
        v_proj: The same of values.
        packing: How the three come out of these modules.
        shares_keys: Whether several heads may share one key and value.
        mlp_width: What the config calls the width of the MLP.
    """

    blocks: str = "model.layers"
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    o_proj: str = "self_attn.o_proj"
    down_proj: str | None = "mlp.down_proj"
    attention: str = "self_attn"
    q_proj: str | tuple[str, ...] = "self_attn.q_proj"
    k_proj: str | None = "self_attn.k_proj"
    v_proj: str = "self_attn.v_proj"
    packing: Packing = "apart"
    shares_keys: bool = True
    mlp_width: str = "intermediate_size"

    def paths(self, component: Component) -> tuple[str, ...]:
        """
        Paths, from a block, of the module that a component is read at: the first that is there.

        Empty for the block itself; none where the family has no such module.
        """
        paths: dict[Component, str | tuple[str, ...] | None] = {
            "residual": "",
            "attn_out": self.attn_out,
            "mlp_out": self.mlp_out,
            "o_proj": self.o_proj,
            "down_proj": self.down_proj,
            "q_proj": self.q_proj,
            "k_proj": self.k_proj,
            "v_proj": self.v_proj,
            "heads": self.o_proj,
            "mlp_act": self.down_proj,
            "attention": self.attention,
        }
        found = paths[component]
        return found if isinstance(found, tuple) else () if found is None else (found,)


_NORMED: dict[str, Any] = {
    "attn_out": "post_attention_layernorm",
    "mlp_out": "post_feedforward_layernorm",
}


def _pack(module: str) -> dict[str, Any]:
    """Let queries, keys and values come out of one module."""
    return dict.fromkeys(("q_proj", "k_proj", "v_proj"), module)


FAMILIES: dict[str, Family] = {
    "deepseek_v3": Family(
        # Without a rank of their own, queries are not compressed.
        q_proj=("self_attn.q_b_proj", "self_attn.q_proj"),
        k_proj=None,
        v_proj="self_attn.kv_b_proj",
        packing="latent",
    ),
    "gemma2": Family(**_NORMED),
    "gemma3": Family(blocks="model.language_model.layers", **_NORMED),
    "gemma3_text": Family(**_NORMED),
    "gpt2": Family(
        "transformer.h",
        "attn",
        "mlp",
        "attn.c_proj",
        "mlp.c_proj",
        "attn",
        **_pack("attn.c_attn"),
        packing="side_by_side",
        shares_keys=False,
        mlp_width="n_inner",
    ),
    "gpt_neox": Family(
        "gpt_neox.layers",
        "attention",
        "mlp",
        "attention.dense",
        "mlp.dense_4h_to_h",
        "attention",
        **_pack("attention.query_key_value"),
        packing="by_head",
        shares_keys=False,
    ),
    "llama": Family(),
    "mistral": Family(),
    "mixtral": Family(down_proj=None),
    "olmo2": Family(**_NORMED),
    "phi3": Family(**_pack("self_attn.qkv_proj"), packing="side_by_side"),
    "qwen2": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(down_proj=None),
}
"""What is known of each architecture, by its `model_type`."""


def find_module(model: nn.Module, site: Site) -> nn.Module:
    """
    Find the module that a site is read at: its output, or what it is given.

    Raises:
        SiteNotFoundError: The model has no such layer, or the layer no such module; or the family
            is not known, and what enters its stream cannot be told; or attention patterns are
            wanted of a model that does not put them out.
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
    paths = FAMILIES[family].paths(site.component)
    found = next((module for path in paths if (module := _get(block, path))), None)
    if found is None:
        raise explain_absence(
            f"layer {site.layer} of this {family} model",
            site.component,
            f"; its block has {_name_parts(block)}",
        )
    if site.component == "attention":
        _require_eager(found)
    return found


def explain_absence(model: str, component: Component, parts: str = "") -> SiteNotFoundError:
    """
    Say why a model has no module for a component.

    Args:
        model: What to call it, or the layer of it.
        component: What it lacks.
        parts: What else to say.
    """
    reason, mend = _ABSENCES.get(component, ("there is no such module", "capture residual only"))
    return SiteNotFoundError(f"{model} has no {component}: {reason}{parts}", mend=mend)


_NO_MLP = (
    "where experts take the MLP's place there is no one module",
    "capture mlp_out, which is what the experts add together",
)
_ABSENCES = {
    "down_proj": _NO_MLP,
    "mlp_act": _NO_MLP,
    "k_proj": (
        "its keys are joined from what two modules put out, kv_b_proj and the rotated part of "
        "kv_a_proj_with_mqa",
        "capture q_proj, v_proj or attention, which there are",
    ),
}


def _require_eager(attention: nn.Module) -> None:
    """Refuse attention whose implementation computes no patterns."""
    config = getattr(attention, "config", None)
    used = getattr(config, "_attn_implementation", None)
    if used != "eager":
        raise SiteNotFoundError(
            f"this model's attention runs as {used!r}, which does not put out its patterns",
            mend='set attn_implementation = "eager" in [base]',
        )


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
