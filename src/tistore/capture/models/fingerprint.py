"""Content hashes of weights, adapters and tokenizers: what makes two models the same model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3
from transformers import PreTrainedTokenizerBase

from tistore.schemas.digest import DIGEST_LENGTH, digest

WEIGHT_PATTERNS = ("*.safetensors", "*.bin")
BASE_FILES = ("config.json",)
ADAPTER_SETTINGS = "adapter_config.json"


def hash_base(folder: Path) -> str:
    """Hash a local base's weights and architecture: 32 hex digits."""
    return _hash_files(_list_files(folder, BASE_FILES))


def hash_adapter(folder: Path) -> str:
    """
    Hash an adapter's weights and settings: 32 hex digits.

    Left out is what the same adapter may be saved with differently: where its base lay, and the
    order of names that PEFT keeps as sets.
    """
    settings = json.loads((folder / ADAPTER_SETTINGS).read_text())
    settings.pop("base_model_name_or_path", None)
    ordered = {
        name: sorted(value, key=str) if isinstance(value, list) else value
        for name, value in settings.items()
    }
    weights = _hash_files(_list_files(folder, ()))
    return digest([json.dumps(ordered, sort_keys=True), weights])


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what a tokenizer does to text: vocabulary, merges, normalisation, special tokens."""
    special = [sorted(map(str, tokenizer.special_tokens_map.items()))]
    if tokenizer.is_fast:
        pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
        # Set by whoever called last; they change batches, not what a text means.
        state = {key: pipeline[key] for key in pipeline if key not in ("padding", "truncation")}
        return digest([special, json.dumps(state, sort_keys=True)])
    return digest([special, sorted(map(str, tokenizer.get_vocab().items()))])


def hash_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Hash the chat template; None where there is none."""
    template = getattr(tokenizer, "chat_template", None)
    return digest(template) if template else None


def _list_files(folder: Path, names: Iterable[str]) -> list[Path]:
    weights = [path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern)]
    return sorted({*weights, *(folder / name for name in names if (folder / name).exists())})


def _hash_files(paths: Iterable[Path]) -> str:
    """Hash names and contents; a hundred gigabytes take about a minute."""
    hasher = blake3(max_threads=blake3.AUTO)
    for path in paths:
        hasher.update(f"{path.name}:{path.stat().st_size}:".encode())
        hasher.update_mmap(path)
    return hasher.hexdigest()[:DIGEST_LENGTH]
