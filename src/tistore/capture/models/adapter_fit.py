"""Whether adapters belong on a base, told from shapes alone: no weights are read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import PreTrainedModel

from tistore.capture.models.adapter_files import AdapterFolder
from tistore.errors import ModelLoadError

Shapes = Mapping[str, tuple[int, ...]]

_KEY = "adapter"
_RANK_AXES = {"lora_A": 0, "lora_B": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}
"""Which axis of a weight is the rank."""
_WEIGHT = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.(?P<part>lora_\w+?)(?:\.weight|\.bias)?$"
)


class FitCheck:
    """
    A base's modules, on which adapters are tried one after the other.

    PEFT itself lays each adapter out on modules without memory, as it will on the real ones.
    Adapters of one training recipe are alike in settings and shapes, and are tried once.

    Args:
        skeleton: The base without its weights; as it was after each check that passes.
        base: What to call it.
    """

    def __init__(self, skeleton: PreTrainedModel, base: str) -> None:
        self._skeleton = skeleton
        self._base = base
        self._fitting: set[str] = set()

    def check(self, adapter: AdapterFolder) -> None:
        """
        Refuse an adapter that does not belong on the base.

        Raises:
            ModelLoadError: It is of a kind that cannot be read with, lacks weights, has too many,
                or has weights of other shapes; the message says which and why.
        """
        recipe = json.dumps([dict(adapter.settings), sorted(adapter.shapes.items())], default=str)
        if recipe in self._fitting:
            return
        config = _read_config(adapter)
        check_kind(adapter.name, adapter.folder, config)
        self._try_on(adapter, config)
        self._fitting.add(recipe)

    def _try_on(self, adapter: AdapterFolder, config: PeftConfig) -> None:
        weights = {
            name: torch.empty(shape, device="meta") for name, shape in adapter.shapes.items()
        }
        try:
            wrapper = PeftModel(self._skeleton, config, adapter_name=_KEY, low_cpu_mem_usage=True)
            expected = _list_expected(wrapper)
            self._refuse_other_shapes(adapter, expected)
            result: Any = set_peft_model_state_dict(
                wrapper, weights, adapter_name=_KEY, low_cpu_mem_usage=True
            )
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()
            raise ModelLoadError(
                f"adapter {adapter.name!r} at {adapter.folder} does not fit base {self._base}: "
                f"{reason[-1].strip() if reason else type(error).__name__}",
                mend=_TRAINED_ELSEWHERE,
            ) from error
        self._refuse_unplaced(adapter, result.unexpected_keys)
        prefix = str(wrapper.base_model.prefix)
        missing = [key for key in result.missing_keys if prefix in key and f".{_KEY}" in key]
        if missing:
            raise ModelLoadError(
                f"adapter {adapter.name!r} at {adapter.folder} lacks weights that its config "
                f"promises for base {self._base}, such as {missing[0].replace(f'.{_KEY}', '')} "
                f"({len(missing)} in all)",
                mend=_TRAINED_ELSEWHERE,
            )
        wrapper.unload()
        # The wrapper leaves these on the model it wrapped.
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            self._skeleton.__dict__.pop(attribute, None)

    def _refuse_unplaced(self, adapter: AdapterFolder, unexpected: list[str]) -> None:
        if not unexpected:
            return
        name = unexpected[0]
        module = _split_name(name)[0]
        is_known = any(module == known for known, _ in self._skeleton.named_modules())
        why = (
            f"its config does not target {module}"
            if is_known
            else f"base {self._base} has no module {module}"
        )
        raise ModelLoadError(
            f"adapter {adapter.name!r} at {adapter.folder} has weights for modules that the base "
            f"does not have: {why}, which {name} is for ({len(unexpected)} weights in all)",
            mend=_TRAINED_ELSEWHERE,
        )

    def _refuse_other_shapes(self, adapter: AdapterFolder, expected: Shapes) -> None:
        for name, shape in adapter.shapes.items():
            wanted = expected.get(name, shape)
            if wanted == shape:
                continue
            module, part = _split_name(name)
            where = f"adapter {adapter.name!r} at {adapter.folder}"
            axis = _RANK_AXES.get(part)
            if axis is not None and _differ_only_at(axis, shape, wanted):
                raise ModelLoadError(
                    f"{where} has rank {shape[axis]} at {module}, and its adapter_config.json "
                    f"says {wanted[axis]}",
                    mend="weights and adapter_config.json are not of one training: copy both "
                    "from the same checkpoint",
                )
            raise ModelLoadError(
                f"{where} does not fit base {self._base}: {part} of {module} is "
                f"{_show(shape)}, and the base takes {_show(wanted)}",
                mend=_TRAINED_ELSEWHERE,
            )


_TRAINED_ELSEWHERE = "check that the adapter was trained on this base, and base.path"


def check_kind(name: str, folder: Path, config: PeftConfig) -> None:
    """
    Refuse kinds of adapters whose readings could not be compared with the base's.

    Raises:
        ModelLoadError: It adds tokens, or trains parameters that stay when it is switched off.
    """
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ModelLoadError(
            f"adapter {name!r} at {folder} is of kind {config.peft_type}, which adds "
            "tokens: its readings would not align with the base's",
            mend="use an adapter of weights, such as LoRA",
        )
    bias = getattr(config, "bias", "none")
    if bias != "none":
        raise ModelLoadError(
            f"adapter {name!r} at {folder} trains biases of the base (bias={bias!r}), "
            "which stay when it is switched off: replays would not be the base's",
            mend="merge it into a base of its own, or train it with bias='none'",
        )


def _read_config(adapter: AdapterFolder) -> PeftConfig:
    try:
        config: PeftConfig = PeftConfig.from_pretrained(str(adapter.folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            f"adapter {adapter.name!r} at {adapter.folder} has no usable adapter_config.json: "
            f"{error}",
            mend="give the folder that PEFT's save_pretrained wrote",
        ) from error
    config.inference_mode = True
    return config


def _list_expected(wrapper: PeftModel) -> dict[str, tuple[int, ...]]:
    """List the shapes that PEFT would save, by the names it would give them."""
    saved = get_peft_model_state_dict(wrapper, adapter_name=_KEY, save_embedding_layers=False)
    return {name: tuple(weight.shape) for name, weight in saved.items()}


def _split_name(name: str) -> tuple[str, str]:
    """Split a weight's name into its module's, as the base has it, and which part it is."""
    match = _WEIGHT.match(name)
    return (match["module"], match["part"]) if match else (name, "weight")


def _differ_only_at(axis: int, shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    if len(shape) != len(other):
        return False
    return all(a == b for at, (a, b) in enumerate(zip(shape, other, strict=True)) if at != axis)


def _show(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
