"""Adapters on a base: loaded when first needed, switched in place, taken off to free memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from tistore.capture.families import find_device
from tistore.capture.models.adapter_files import WEIGHTS_FILE
from tistore.capture.models.adapter_fit import check_kind
from tistore.errors import ModelLoadError, NoRoomError

PROBE_TOKENS = 8
PROBE_TOLERANCE = 0.01
"""Of the base's logits, relative: far above the rounding of kernels that add in any order."""


class AdapterRack:
    """
    The adapters that are on a model at present.

    Layers of the model are wrapped in place, so that the model itself reads as whichever adapter
    is switched on. With none switched on it must compute what it computed before; that is checked
    for each kind of adapter, and for each adapter that brings whole weights or is on a quantized
    base, since a replay is compared with nothing else.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._wrapper: PeftModel | None = None
        self._reference: Tensor | None = None
        self._checked_kinds: set[str] = set()
        self._keys: dict[str, str] = {}
        self._loaded_count = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters that are in memory."""
        return tuple(self._keys)

    def load(self, name: str, folder: Path) -> None:
        """
        Bring an adapter into memory.

        Raises:
            ModelLoadError: It cannot be loaded, does not fit the base, or alters it.
            NoRoomError: The device has no memory left for it.
        """
        # PEFT makes module names of adapter names, in which a dot is not allowed.
        key = f"adapter_{self._loaded_count}"
        self._loaded_count += 1
        if self._reference is None:
            self._reference = self._probe()
        try:
            config = PeftConfig.from_pretrained(str(folder))
            check_kind(name, folder, config)
            config.inference_mode = True
            if self._wrapper is None:
                self._wrapper = PeftModel(
                    self._model, config, adapter_name=key, low_cpu_mem_usage=True
                )
            # Without memory at first: no random weights are drawn only to be written over.
            result = self._wrapper.load_adapter(
                str(folder), key, torch_device=str(self._model.device), low_cpu_mem_usage=True
            )
            _check_fit(name, folder, result)
            self._model.requires_grad_(False)
            self._model.train(False)
            self._check_base(name, folder, _describe_kind(config))
        except torch.OutOfMemoryError as error:
            self._remove(key)
            raise NoRoomError(
                f"adapter {name!r} does not fit into the device's memory beside the base",
                mend="set quantization in [base], or use more or larger GPUs",
            ) from error
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            self._remove(key)
            reason = str(error).strip().splitlines()
            raise ModelLoadError(
                f"adapter {name!r} at {folder} does not fit the base: "
                f"{reason[-1].strip() if reason else type(error).__name__}",
                mend="check that the adapter was trained on this base",
            ) from error
        except ModelLoadError:
            self._remove(key)
            raise
        self._keys[name] = key

    @contextmanager
    def switched_on(self, name: str) -> Iterator[None]:
        """Read as a loaded adapter while the block runs; it stays in memory afterwards."""
        wrapper = self._wrapper
        assert wrapper is not None  # loading made it
        wrapper.set_adapter(self._keys[name], inference_mode=True)
        yield

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Read as the clean base while the block runs."""
        if self._wrapper is None:
            yield
            return
        with self._wrapper.disable_adapter():
            yield

    def take_off(self, name: str) -> None:
        """Free an adapter's memory; one that is not loaded is let be."""
        key = self._keys.pop(name, None)
        if key is not None:
            self._remove(key)

    def _check_base(self, name: str, folder: Path, kind: str) -> None:
        """Refuse an adapter whose loading altered the base itself."""
        assert self._wrapper is not None and self._reference is not None  # loading made them
        is_quantized = getattr(self._model, "is_quantized", False)
        brings_more = _holds_whole_weights(folder, str(self._wrapper.base_model.prefix))
        if kind in self._checked_kinds and not is_quantized and not brings_more:
            return
        with self.switched_off():
            changed = (self._probe() - self._reference).norm() / self._reference.norm()
        if not changed <= PROBE_TOLERANCE:
            raise ModelLoadError(
                f"loading adapter {name!r} from {folder} altered the base: its logits moved by "
                f"{float(changed):.0%}, so that replays would not be the base's",
                mend="use another quantization or device, or an adapter that leaves the base be",
            )
        self._checked_kinds.add(kind)

    @torch.inference_mode()
    def _probe(self) -> Tensor:
        """Run a few tokens: (token, vocabulary) logits, float32 on the CPU."""
        token_ids = torch.arange(1, PROBE_TOKENS + 1, device=find_device(self._model))[None]
        logits: Tensor = self._model(input_ids=token_ids, use_cache=False).logits
        return logits[0].float().cpu()

    def _remove(self, key: str) -> None:
        """Take a whole or half loaded adapter off; unwrap the model when it was the last."""
        if self._wrapper is None:
            return
        # Deleted before unwrapping, too: PEFT would leave the active adapter's own copies of
        # whole modules (modules_to_save) in the base.
        if key in self._wrapper.peft_config:
            self._wrapper.delete_adapter(key)
        if self._keys:
            return
        self._wrapper.unload()
        # The wrapper leaves these on the model it wrapped.
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            self._model.__dict__.pop(attribute, None)
        self._wrapper = None


def _describe_kind(config: PeftConfig) -> str:
    """Spell out what an adapter's modules are made of: all of its config but where it is from."""
    settings = config.to_dict()
    for origin in ("base_model_name_or_path", "revision", "inference_mode"):
        settings.pop(origin, None)
    return json.dumps(settings, sort_keys=True, default=lambda value: sorted(map(str, value)))


def _holds_whole_weights(folder: Path, prefix: str) -> bool:
    """
    Tell whether an adapter's file has more than the adapter's own matrices.

    PEFT saves a targeted embedding or unembedding with them, and loads it over the base's.
    """
    with safe_open(folder / WEIGHTS_FILE, framework="numpy") as weights:
        return any(prefix not in key for key in weights.keys())


def _check_fit(name: str, folder: Path, result: Any) -> None:
    """Refuse weights that found no place, and places that found no weights."""
    for keys, what in (
        (result.missing_keys, "lacks weights that its config promises"),
        (result.unexpected_keys, "has weights for modules that the base does not have"),
    ):
        if keys:
            raise ModelLoadError(
                f"adapter {name!r} at {folder} {what}, such as {keys[0]} ({len(keys)} in all)",
                mend="check that the adapter was trained on this base",
            )
