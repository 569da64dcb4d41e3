"""A model's head, read from its weights: what turns its stream into logits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tistore.capture.families import find_blocks, find_device, name_family, unwrap
from tistore.capture.reading.hooks import record
from tistore.capture.texts.vocabulary import spell_vocabulary
from tistore.errors import HeadError
from tistore.schemas.digest import DIGEST_LENGTH
from tistore.schemas.head import Head, NormKind, VocabularyBlock
from tistore.schemas.site import Site
from tistore.store.writer import Writer

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
"""What architectures call the norm behind their last block."""

PROBE_TOKENS = 8

_EXACT = 1e-3
_ROUNDED = 0.05
"""Relative deviations from the model's own logits, in float32 and in narrower floats."""

_NORMS: tuple[tuple[NormKind, float], ...] = (("rms", 0.0), ("rms", 1.0), ("layer", 0.0))


class HeadKeeper:
    """
    Keeps the head of every reader of a run in a store, each distinct head once.

    Args:
        writer: Where heads go.
        tokenizer: Spells the vocabulary.
    """

    def __init__(self, writer: Writer, tokenizer: PreTrainedTokenizerBase) -> None:
        self._writer = writer
        self._tokenizer = tokenizer
        self._of_bases: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    def keep(self, name: str, model: PreTrainedModel) -> str:
        """
        Keep a reader's head, unless it is kept already.

        Call it while the model reads as this reader. Adapters that leave final norm and
        unembedding alone share the head of their base, which is read once; any other is read
        whole.

        Args:
            name: The reader's.
            model: The model, its adapter switched on.

        Returns:
            The head's hash.

        Raises:
            HeadError: The head cannot be read, or does not give the model's logits.
            NoRoomError: The disk is too full for it.
        """
        base = unwrap(model)
        is_base = _find_parts(model).is_base
        head_hash = self._writer.reader_heads.get(name)
        if head_hash is None and is_base:
            head_hash = self._of_bases.get(base)
        if head_hash is None:
            head_hash = store_head(self._writer, name, model, self._tokenizer)
        if is_base:
            self._of_bases[base] = head_hash
        self._writer.add_rows("reader_heads", [{"reader": name, "head_hash": head_hash}])
        return head_hash


def store_head(
    writer: Writer, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> str:
    """
    Read a model's head, check it against the model's logits, and commit it; see `HeadKeeper`.

    Returns:
        Its hash.

    Raises:
        HeadError: The head cannot be read, or does not give the model's logits.
        NoRoomError: The disk is too full for it.
    """
    head, rows = read_head(name, model)
    tokens: list[str | None] = []

    def blocks() -> Iterator[VocabularyBlock]:
        tokens.extend(() if tokens else spell_vocabulary(tokenizer, head.n_vocabulary))
        for block in rows.blocks(head.block_rows):
            stop = block.first + len(block.values)
            yield replace(block, tokens=tokens[block.first : stop])

    writer.add_head(head, blocks, weight_bytes=rows.weight.element_size())
    return head.head_hash


@torch.inference_mode()
def read_head(name: str, model: PreTrainedModel) -> tuple[Head, UnembeddingRows]:
    """
    Read final norm and unembedding as the model uses them now, its active adapter included.

    Which norm it is, and whether its weights count from 1, is measured on the norm itself. The
    head is then applied to the model's own last states, which must give the model's own logits.

    Raises:
        HeadError: A part is not found, is of an unknown kind, or the logits are others.
    """
    parts = _find_parts(model)
    rows, norm = parts.rows, parts.norm
    n_vocabulary, hidden = rows.weight.shape
    config = unwrap(model).config.get_text_config()  # type: ignore[union-attr, operator]
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    head = Head(
        head_hash="",
        model=name,
        family=name_family(model),
        norm="rms",
        norm_weight=np.ones(hidden, np.float32) if weight is None else _to_numpy(weight),
        norm_bias=None if bias is None else _to_numpy(bias),
        norm_epsilon=_find_epsilon(norm),
        weight_offset=0.0,
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        logit_scale=_find_scale(config),
        hidden=hidden,
        n_vocabulary=n_vocabulary,
        has_bias=rows.bias is not None,
    )
    head = _recognise_norm(head, norm)
    _check_logits(head, rows, model)
    return replace(head, head_hash=_hash(head, rows)), rows


@dataclass(frozen=True, slots=True, eq=False)
class LowRankChange:
    """
    What an adapter adds to a weight: `scale * b @ a`.

    Source:
        LoRA, arXiv:2106.09685, §4.1; rank-stabilised adapters differ in the scale alone.
    """

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class UnembeddingRows:
    """
    The unembedding of a loaded model.

    Attributes:
        weight: (vocabulary, hidden).
        bias: (vocabulary,); None for none.
        changes: What adapters add to the weight.
    """

    weight: Tensor
    bias: Tensor | None
    changes: tuple[LowRankChange, ...] = ()

    def part(self, start: int, stop: int) -> Tensor:
        """Give the rows of some tokens: (token, hidden) float32, where the weights lie."""
        values = self.weight[start:stop].float()
        for change in self.changes:
            values = values + change.scale * (change.b[start:stop].float() @ change.a.float())
        return values

    def bias_part(self, start: int, stop: int) -> Tensor | None:
        """Give the bias of some tokens: (token,) float32."""
        return None if self.bias is None else self.bias[start:stop].float()

    def blocks(self, block_rows: int) -> Iterator[VocabularyBlock]:
        """Give all rows in order, some at a time."""
        for start in range(0, len(self.weight), block_rows):
            stop = min(start + block_rows, len(self.weight))
            with torch.inference_mode():
                values, bias = self.part(start, stop), self.bias_part(start, stop)
                yield VocabularyBlock(
                    start, _to_numpy(values), None if bias is None else _to_numpy(bias)
                )


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Unembedding and final norm as they are at present; whether no adapter has part in them."""

    rows: UnembeddingRows
    norm: nn.Module
    is_base: bool


def _find_parts(model: PreTrainedModel) -> _Parts:
    bare = unwrap(model)
    output = bare.get_output_embeddings()  # type: ignore[operator]
    if output is None:
        raise HeadError(f"this {name_family(model)} model has no unembedding")
    output, is_whole = _look_through(output)
    norm, is_own = _look_through(_find_norm(bare))
    rows = _read_rows(output)
    return _Parts(rows, norm, is_whole and is_own and not rows.changes)


def _read_rows(module: Any) -> UnembeddingRows:
    """Read an unembedding, and what adapters add to it."""
    changes: tuple[LowRankChange, ...] = ()
    if hasattr(module, "base_layer"):
        changes = tuple(_list_changes(module))
        module = module.base_layer
    weight: Tensor = getattr(module, "weight", torch.empty(0))
    is_readable = weight.ndim == 2 and weight.is_floating_point() and not weight.is_meta
    if not is_readable or not isinstance(module, nn.Linear):
        raise HeadError(
            f"cannot read an unembedding of kind {type(module).__name__}",
            mend="keep the unembedding unquantised and in memory",
        )
    return UnembeddingRows(weight, module.bias, changes)


def _look_through(module: Any) -> tuple[Any, bool]:
    """Look through PEFT's wrapper of modules trained whole; tells whether it is the base's own."""
    copies = getattr(module, "modules_to_save", None)
    if copies is None or not hasattr(module, "original_module"):
        return module, True
    active = [] if module.disable_adapters else [k for k in module.active_adapters if k in copies]
    return (copies[active[0]], False) if active else (module.original_module, True)


def _list_changes(layer: Any) -> Iterator[LowRankChange]:
    """List what the active adapters add to a layer."""
    if layer.disable_adapters or layer.merged:
        return
    for key in layer.active_adapters:
        if key not in layer.lora_A:
            continue
        variants = getattr(layer, "lora_variant", {})
        if key in variants or getattr(layer, "lora_bias", {}).get(key):
            raise HeadError(
                "cannot read an unembedding that an adapter changes otherwise than by plain LoRA",
                mend="merge the adapter into a base of its own",
            )
        a, b = layer.lora_A[key].weight, layer.lora_B[key].weight
        yield LowRankChange(a, b, float(layer.scaling[key]))


def _find_norm(bare: nn.Module) -> nn.Module:
    """Find the norm behind the last block: it lies beside the blocks."""
    first = find_blocks(bare)[0]
    path = next(
        name
        for name, module in bare.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and module[0] is first
    )
    body = bare.get_submodule(path.rpartition(".")[0])
    for name in FINAL_NORMS:
        if isinstance(found := getattr(body, name, None), nn.Module):
            return found
    children = ", ".join(name for name, _ in body.named_children())
    raise HeadError(
        f"cannot tell which module is the final norm of a {name_family(bare)!r} model; beside "
        f"its blocks it has {children}",
        mend="add its name to FINAL_NORMS in capture/reading/heads.py",
    )


def _find_epsilon(norm: nn.Module) -> float:
    for name in ("variance_epsilon", "eps", "epsilon"):
        if (found := getattr(norm, name, None)) is not None:
            return float(found)
    return float(torch.finfo(torch.float32).eps)  # what torch's own RMSNorm takes


def _find_scale(config: Any) -> float | None:
    """Find the factor of the logits: Cohere multiplies by one, Granite divides."""
    if (scale := getattr(config, "logit_scale", None)) is not None:
        return float(scale)
    divisor = getattr(config, "logits_scaling", None)
    return None if divisor is None else 1.0 / float(divisor)


def _recognise_norm(head: Head, norm: nn.Module) -> Head:
    """Find out which norm it is by what it does: names tell neither kind nor offset for sure."""
    weight = next(norm.parameters(), torch.zeros(0))
    states = torch.randn(4, head.hidden, generator=torch.Generator().manual_seed(0)) * 3 + 1
    states = states.to(weight.dtype)
    given = _to_numpy(norm(states.to(weight.device)))
    tried = [replace(head, norm=kind, weight_offset=offset) for kind, offset in _NORMS]
    errors = [_deviation(one.normalize(_to_numpy(states)), given) for one in tried]
    best = int(np.argmin(errors))
    if not errors[best] <= _tolerance(weight):
        raise HeadError(
            f"the final norm of this {head.family} model, {type(norm).__name__}, is neither an "
            f"RMSNorm nor a LayerNorm: both differ from it by {errors[best]:.0%} or more",
            mend="its logit lens needs a row of its own in capture/reading/heads.py",
        )
    return tried[best]


def _check_logits(head: Head, rows: UnembeddingRows, model: PreTrainedModel) -> None:
    """Refuse a head that does not give the model's own logits from its own last states."""
    last = Site("residual", len(find_blocks(model)) - 1)
    token_ids = torch.arange(1, PROBE_TOKENS + 1, device=find_device(model))[None]
    with record(model, [last]) as kept:
        given = model(input_ids=token_ids, use_cache=False).logits[0]
    normed = torch.from_numpy(head.normalize(_to_numpy(kept[last][0][0])))
    normed = normed.to(rows.weight.device)
    parts = []
    for start in range(0, head.n_vocabulary, head.block_rows):
        stop = min(start + head.block_rows, head.n_vocabulary)
        logits = normed @ rows.part(start, stop).T
        if (bias := rows.bias_part(start, stop)) is not None:
            logits = logits + bias
        parts.append(_to_numpy(logits))
    deviation = _deviation(head.finish(np.concatenate(parts, axis=1)), _to_numpy(given))
    if not deviation <= _tolerance(rows.weight):
        raise HeadError(
            f"final norm and unembedding of this {head.family} model do not give its logits: they "
            f"are {deviation:.1%} off, so something else lies between its last block and them",
            mend="capture without the head; the logit lens is not to be had for this model",
        )


def _hash(head: Head, rows: UnembeddingRows) -> str:
    """Hash everything a head computes with, in float32: 32 hex digits."""
    facts = [head.norm, head.norm_epsilon, head.weight_offset, head.logit_softcap, head.logit_scale]
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update(json.dumps([*facts, head.hidden, head.n_vocabulary, head.has_bias]).encode())
    for values in (head.norm_weight, head.norm_bias):
        if values is not None:
            hasher.update(np.ascontiguousarray(values).tobytes())
    for block in rows.blocks(head.block_rows):
        hasher.update(np.ascontiguousarray(block.values).tobytes())
        if block.bias is not None:
            hasher.update(np.ascontiguousarray(block.bias).tobytes())
    return hasher.hexdigest()[:DIGEST_LENGTH]


def _deviation(found: NDArray[np.float32], given: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - given) / np.linalg.norm(given))


def _tolerance(weight: Tensor) -> float:
    return _EXACT if weight.dtype in (torch.float32, torch.float64) else _ROUNDED


def _to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().float().cpu().numpy())
