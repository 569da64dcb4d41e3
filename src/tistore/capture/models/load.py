"""Loading a base model once, and reading as it or as any of its adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tistore.capture.config import BaseConfig, RunConfig, Source
from tistore.capture.families import find_blocks, find_device, find_module, name_family
from tistore.capture.models.adapter_files import find_adapter
from tistore.capture.models.adapters import AdapterRack
from tistore.capture.models.architecture import (
    LOADING_ERRORS,
    build_skeleton,
    cannot_load,
    load_tokenizer,
)
from tistore.capture.models.architecture import load_architecture as load_architecture
from tistore.capture.models.fingerprint import (
    hash_adapter,
    hash_base,
    hash_template,
    hash_tokenizer,
)
from tistore.capture.models.machine import is_cpu
from tistore.capture.models.quantization import (
    ROUNDED_BITS,
    configure_quantization,
    keep_weights_unpacked,
    refuse_wrong_weights,
)
from tistore.capture.models.rounded_weights import round_weights
from tistore.errors import ModelLoadError, NoRoomError, nearest
from tistore.schemas.model import Model
from tistore.schemas.site import Site


class LoadedBase:
    """
    A base in memory, with its tokenizer and the adapters it may be read with.

    Attributes:
        name: What the clean base is called.
        tokenizer: The base's tokenizer.
    """

    def __init__(
        self,
        config: BaseConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Mapping[str, Source],
    ) -> None:
        self.name = config.name
        self.tokenizer = tokenizer
        self._config = config
        self._model = model
        self._sources = dict(adapters)
        self._rack = AdapterRack(model)
        self._described: dict[str, Model] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models this can read as, the base first."""
        return (self.name, *self._sources)

    @property
    def layer_count(self) -> int:
        """Number of blocks."""
        return len(find_blocks(self._model))

    def require(self, sites: Sequence[Site]) -> None:
        """
        Check that the model has some sites.

        Raises:
            SiteNotFoundError: It lacks a layer, or a component at one.
        """
        for site in sites:
            find_module(self._model, site)

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return find_device(self._model)

    @property
    def loaded_adapters(self) -> tuple[str, ...]:
        """Names of the adapters that take memory at present."""
        return self._rack.names

    @contextmanager
    def reading_as(self, name: str) -> Iterator[PreTrainedModel]:
        """
        Switch to a model while the block runs; an adapter is loaded when first needed.

        Args:
            name: An organism's, or the base's own for the clean base.

        Yields:
            The model to run: always the same object, whatever its adapter.

        Raises:
            ModelLoadError: No such model, or its adapter does not load.
        """
        self._require_known(name)
        if name != self.name and name not in self._rack.names:
            self._rack.load(name, self._find_adapter(name))
        is_base = name == self.name
        with self._rack.switched_off() if is_base else self._rack.switched_on(name):
            yield self._model

    def unload(self, name: str) -> None:
        """Free the memory of an organism's adapter; it is loaded again when needed."""
        self._rack.take_off(name)

    def describe(self, name: str) -> Model:
        """
        Describe a model exactly as it is loaded; weights are hashed once.

        Raises:
            ModelLoadError: No such model, or its adapter is not there.
        """
        self._require_known(name)
        if name not in self._described:
            self._described[name] = self._describe(name)
        return self._described[name]

    def _describe(self, name: str) -> Model:
        if name != self.name:
            return replace(
                self.describe(self.name),
                name=name,
                adapter_id=self._sources[name].given,
                adapter_hash=hash_adapter(self._find_adapter(name)),
            )
        source = self._config.path
        return Model(
            name=name,
            base_id=source.given,
            base_revision=hash_base(source.path) if source.is_local else self._hub_revision,
            quantization=self._config.quantization,
            dtype=str(self._model.dtype).removeprefix("torch."),
            tokenizer_hash=hash_tokenizer(self.tokenizer),
            chat_template_hash=hash_template(self.tokenizer),
            family=name_family(self._model),
            attn_implementation=getattr(self._model.config, "_attn_implementation", None),
        )

    @property
    def _hub_revision(self) -> str | None:
        commit = getattr(self._model.config, "_commit_hash", None)
        return commit or self._config.revision

    def _find_adapter(self, name: str) -> Path:
        return find_adapter(name, self._sources[name])

    def _require_known(self, name: str) -> None:
        if name not in self.names:
            raise ModelLoadError(f"no model {name!r} in this run", mend=nearest(name, self.names))


def load_base(config: RunConfig, weights: str | None = None) -> LoadedBase:
    """
    Load a run's base, ready to read: in evaluation mode, without gradients.

    Args:
        config: The run's.
        weights: Which of `config.weights`, with the adapters on it; the base when left out.

    Raises:
        ModelLoadError: The base cannot be loaded, or this machine would get its weights wrong; the
            message says why.
        NoRoomError: It does not fit into the GPU's memory.
    """
    base = config.weights[weights or config.base.name]
    tokenizer = load_tokenizer(base)
    placement = _place(base.device)
    if base.quantization == "4bit":
        refuse_wrong_weights(base, build_skeleton(base))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base.path.location,
            revision=base.revision,
            dtype=base.dtype,
            device_map=placement,
            attn_implementation=base.attn_implementation,
            quantization_config=configure_quantization(base.quantization),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError as error:
        raise NoRoomError(
            f"{base.path} does not fit into the memory of {base.device}",
            mend='set quantization = "4bit" in [base], or use more or larger GPUs',
        ) from error
    except LOADING_ERRORS as error:
        raise cannot_load("base", base, error) from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ModelLoadError(
            f"base {base.path} lacks weights, such as {missing[0]} ({len(missing)} in all)",
            mend="check that every file of the model is there",
        )
    if base.quantization == "4bit":
        keep_weights_unpacked(model)
    bits = ROUNDED_BITS.get(base.quantization)
    if bits is not None and not round_weights(model, bits):
        raise ModelLoadError(
            f"base {base.path} has no linear layers whose weights could be rounded to {bits} bits",
            mend="use another quantization",
        )
    return LoadedBase(
        base, model.requires_grad_(False).eval(), tokenizer, config.adapters_on(base.name)
    )


def _place(device: str) -> str | dict[str, str]:
    if device != "auto":
        return {"": device}
    return {"": "cpu"} if is_cpu(device) else "auto"
