"""What names of tensors and of files say about the vectors in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tistore.datasets.foreign.vectors_tensors import Key

VECTOR_KEYS = ("vector", "direction", "steering_vector", "control_vector", "values")
"""Under one of these a dict keeps its vector; tensors beside it are something else."""

_WRAPPERS = {
    *("vectors", "directions", "steering_vectors", "control_vectors", "layers", "data"),
    *("layer_activations", "state_dict", *VECTOR_KEYS),
}
"""Names that say no more than that vectors follow."""

_FACTS = {
    "trait": ("trait", "behavior", "behaviour", "concept", "persona"),
    "layer": ("layer", "layer_index", "layer_idx"),
    "method": ("method", "extraction_method"),
    "component": ("component",),
    "position": ("position", "token_position"),
    "model": ("model", "model_name", "model_id"),
    "layer_type": ("layer_type",),
}

LAYER_TYPES = {"decoder_block": "residual", "self_attn": "attn_out", "mlp": "mlp_out"}
"""What steering-vectors calls the modules whose output it reads."""

_PLACES: dict[str, tuple[str, int]] = {
    "": ("residual", 0),
    "hook_resid_post": ("residual", 0),
    "resid_post": ("residual", 0),
    "residual": ("residual", 0),
    # The stream before block L is what block L - 1 put out.
    "hook_resid_pre": ("residual", -1),
    "resid_pre": ("residual", -1),
    "hook_attn_out": ("attn_out", 0),
    "attn_out": ("attn_out", 0),
    "self_attn": ("attn_out", 0),
    "hook_mlp_out": ("mlp_out", 0),
    "mlp_out": ("mlp_out", 0),
    "mlp": ("mlp_out", 0),
}

_LAYERED = re.compile(
    r"(?:(?P<trait>.+?)[._/@: -])??(?:layers?|blocks?|h|l|direction)[._-]?\[?(?P<layer>\d{1,4})\]?"
    r"(?:[._/](?P<place>.*))?",
    re.IGNORECASE,
)
_AT_LAYER = re.compile(r"(?P<trait>.+)@(?P<layer>\d{1,4})")
_MODULES = {"model", "model.model", "model.language_model", "transformer", "gpt_neox", "blocks"}

_PERSONA = re.compile(r"(?P<trait>.+)_(?P<where>response_avg|prompt_avg|prompt_last)_diff")
_PERSONA_POSITIONS = {
    "response_avg": "response[:]",
    "prompt_avg": "prompt[:]",
    "prompt_last": "prompt[-1]",
}


@dataclass(frozen=True, slots=True)
class Naming:
    """
    What a name tells; a field is None where it does not.

    Attributes:
        trait: What the vector is for.
        layer: Number of the layer, as it was counted there.
        component: As the store names components, or as the file does.
        shift: What to add to the number for blocks to be counted as the store does.
        method: How it was fitted.
        position: Tokens it was fitted on.
        model: Model it was fitted on.
        is_persona: The file is named as persona-vectors names its stacks.
    """

    trait: str | None = None
    layer: int | None = None
    component: str | None = None
    shift: int = 0
    method: str | None = None
    position: str | None = None
    model: str | None = None
    is_persona: bool = False

    def or_else(self, other: Self) -> Naming:
        """Take from another what this one does not tell."""
        return Naming(
            trait=self.trait if self.trait is not None else other.trait,
            layer=self.layer if self.layer is not None else other.layer,
            component=self.component if self.component is not None else other.component,
            shift=self.shift if self.layer is not None else other.shift,
            method=self.method if self.method is not None else other.method,
            position=self.position if self.position is not None else other.position,
            model=self.model if self.model is not None else other.model,
            is_persona=self.is_persona or other.is_persona,
        )


def read_file_name(stem: str) -> Naming:
    """Read a file's name without its ending: `trait`, `trait_layer12`, `trait_prompt_avg_diff`."""
    if found := _PERSONA.fullmatch(stem):
        return Naming(
            trait=found["trait"],
            method="mean_diff",
            position=_PERSONA_POSITIONS[found["where"]],
            is_persona=True,
        )
    return read_name(stem)


def read_name(name: str) -> Naming:
    """
    Read one name: `12`, `layer_12`, `blocks.12.hook_resid_post`, `flattery.layer12`, `flattery`.

    A number counts as a layer only where a word or an @ says so, or where it is all there is.
    """
    if name.isascii() and name.isdigit() and len(name) <= 4:
        return Naming(layer=int(name))
    found = _LAYERED.fullmatch(name)
    if found and (found["place"] or "") in _PLACES:
        component, shift = _PLACES[found["place"] or ""]
        trait = found["trait"] if found["trait"] not in _MODULES else None
        # A bare layer leaves open what was read there.
        told = component if found["place"] else None
        return Naming(trait=trait, layer=int(found["layer"]), component=told, shift=shift)
    if found := _AT_LAYER.fullmatch(name):
        return Naming(trait=found["trait"], layer=int(found["layer"]))
    return Naming(trait=name) if name.strip() else Naming()


def read_keys(keys: Sequence[Key]) -> Naming:
    """Read the names on the way to a tensor: the inner ones first, traits joined by `/`."""
    told, traits = Naming(), []
    for key in keys:
        if key in _WRAPPERS:
            continue
        found = read_name(str(key))
        traits += [found.trait] if found.trait else []
        told = Naming(layer=found.layer, component=found.component, shift=found.shift).or_else(told)
    return Naming(trait="/".join(traits) or None).or_else(told)


def read_facts(facts: Mapping[str, Any]) -> Naming:
    """Read what stands beside a tensor: `layer`, `trait`, `method`, … and names alike."""
    layer = _pick(facts, "layer")
    if isinstance(layer, str) and layer.strip().isascii() and layer.strip().isdigit():
        layer = int(layer)
    component = _pick(facts, "component")
    if component is None and (kind := _pick(facts, "layer_type")) is not None:
        component = LAYER_TYPES.get(str(kind), str(kind))
    return Naming(
        trait=_text(_pick(facts, "trait")),
        layer=layer if type(layer) is int else None,
        component=_text(component),
        method=_text(_pick(facts, "method")),
        position=_text(_pick(facts, "position")),
        model=_text(_pick(facts, "model")),
    )


def _pick(facts: Mapping[str, Any], what: str) -> Any:
    return next((facts[name] for name in _FACTS[what] if name in facts), None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
