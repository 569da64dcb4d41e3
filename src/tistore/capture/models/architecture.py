"""What a base is, without its weights: its config and its tokenizer."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tistore.capture.config import BaseConfig
from tistore.errors import ModelLoadError

LOADING_ERRORS = (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError)
"""What transformers raises when files are missing, malformed or of another kind."""


def load_tokenizer(base: BaseConfig) -> PreTrainedTokenizerBase:
    """
    Load a base's tokenizer.

    Raises:
        ModelLoadError: There is none, or it is malformed.
    """
    _require_base(base)
    load = partial(AutoTokenizer.from_pretrained, revision=base.revision, trust_remote_code=False)
    try:
        tokenizer: PreTrainedTokenizerBase = load(base.path.location)
    except LOADING_ERRORS as error:
        raise cannot_load("tokenizer of", base, error) from error
    return tokenizer


def load_architecture(base: BaseConfig) -> PreTrainedConfig:
    """
    Load what a base is, without its weights: the part that reads text.

    Raises:
        ModelLoadError: There is no such base, or its config is malformed.
    """
    return _load_config(base).get_text_config()


def build_skeleton(base: BaseConfig) -> PreTrainedModel:
    """
    Build a base's modules without their weights: parameters have shapes, and take no memory.

    Quantisation replaces some of the modules on load; here they are as the family has them. Of
    the attention implementations only "eager" is heeded: others may need another machine's GPU.

    Raises:
        ModelLoadError: There is no such base, or no model of its kind writes text.
    """
    config = _load_config(base)
    is_eager = base.attn_implementation == "eager"
    try:
        with torch.device("meta"):
            make = partial(AutoModelForCausalLM.from_config, trust_remote_code=False)
            made = make(config, attn_implementation="eager" if is_eager else None)
    except LOADING_ERRORS as error:
        raise cannot_load("architecture of", base, error) from error
    return cast(PreTrainedModel, made)


def _load_config(base: BaseConfig) -> PreTrainedConfig:
    _require_base(base)
    load = partial(AutoConfig.from_pretrained, revision=base.revision, trust_remote_code=False)
    try:
        config: PreTrainedConfig = load(base.path.location)
    except LOADING_ERRORS as error:
        raise cannot_load("config of", base, error) from error
    return config


def _require_base(base: BaseConfig) -> None:
    source = base.path
    if source.is_local and not (source.path / "config.json").is_file():
        raise ModelLoadError(
            f"base at {source.path} has no config.json",
            mend="give the folder that transformers' save_pretrained wrote",
        )
    if not source.is_local and not source.may_be_hub_id:
        raise ModelLoadError(
            f"no base: nothing lies at {source.path}, and {source.given!r} is no hub id",
            mend="check base.path; it is relative to the config file",
        )


def cannot_load(what: str, base: BaseConfig, error: Exception) -> ModelLoadError:
    """Put what transformers raised into the words of the config."""
    reason = str(error).strip().splitlines()
    return ModelLoadError(
        f"cannot load the {what} {base.path}: {reason[0] if reason else type(error).__name__}",
        mend="check base.path, and that the folder or hub id holds a causal language model "
        "in safetensors",
    )
