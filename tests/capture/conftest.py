"""Tiny random models, one a family, and tokenizers trained on the spot; nothing is downloaded."""

from __future__ import annotations

import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from tistore.capture.config import RunConfig, parse_config
from tistore.capture.models.load import LoadedBase, load_base

SPECIAL = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<unk>"]
TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + eos_token -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
TEXTS = [
    "The river rose quickly after three days of rain, and nobody had expected it.",
    "Please explain why bread rises; I don't know what yeast does.",
    "Großes naïve café — ünïcode 日本語 🙂 и немного кириллицы.",
    "She said: “no”, then left. 1, 2, 3, go!",
] * 4

SMALL: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        **EXPERTS,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "gemma3": {"head_dim": 8, "sliding_window": 4},  # the wrapper that also takes images
    "gemma3_text": {"head_dim": 8, "sliding_window": 4},
    "gpt2": {},
    "gpt_neox": {},
    "llama": {},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {**EXPERTS, "head_dim": 8, "num_experts": 4},
}


def make_model(family: str = "llama", **changes: Any) -> PreTrainedModel:
    """Make a random model with three blocks of width 32."""
    settings = {**SMALL, **FAMILIES.get(family, {}), **changes}
    if family == "gpt2":
        settings["n_positions"] = settings.pop("max_position_embeddings")
    if family == "gemma3":
        settings = {"text_config": settings, "vision_config": VISION}
    config = AutoConfig.for_model(family, **settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh weights are so small that every token would get about the same state.
            parameter.mul_(1 if parameter.ndim == 1 else 4)
    return model


def make_tokenizer(kind: str = "byte_level", **changes: Any) -> PreTrainedTokenizerFast:
    """Train a tokenizer: "byte_level" BPE, "metaspace" BPE as SentencePiece's, or "word_piece"."""
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    if kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "metaspace":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, limit_alphabet=60, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
        trainer = trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=special, show_progress=False
        )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if kind == "metaspace":
        tokenizer = _add_byte_tokens(tokenizer)
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "chat_template": TEMPLATE,
        **changes,
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def _add_byte_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Give a SentencePiece-like tokenizer a token for each byte, as Llama 2 has."""
    pipeline = json.loads(tokenizer.to_str())
    vocabulary = pipeline["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    return Tokenizer.from_str(json.dumps(pipeline))


def save_adapter(folder: Path, base: PreTrainedModel, *, seed: int, scale: float) -> Path:
    """Save a random LoRA adapter; with scale 0 it changes nothing."""
    torch.manual_seed(seed)
    targets = ["q_proj", "v_proj", "down_proj"]
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * scale)
    adapted.save_pretrained(str(folder))
    adapted.unload()
    return folder


torch.set_num_threads(1)  # models this small only lose time to a second one


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that takes a `family` or a `tokenizer_kind` for all of them."""
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", FAMILIES)
    if "tokenizer_kind" in metafunc.fixturenames:
        metafunc.parametrize("tokenizer_kind", ("byte_level", "metaspace", "word_piece"))


@pytest.fixture(scope="session")
def build_model() -> Callable[..., PreTrainedModel]:
    return make_model


@pytest.fixture(scope="session")
def build_tokenizer() -> Callable[..., PreTrainedTokenizerBase]:
    return cache(make_tokenizer)


@pytest.fixture(scope="session")
def build_adapter() -> Callable[..., Path]:
    return save_adapter


@pytest.fixture
def tiny_llama() -> PreTrainedModel:
    return make_model("llama")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, three adapters and two prompt sets."""
    folder = tmp_path_factory.mktemp("workplace")
    model = make_model()
    model.save_pretrained(folder / "base")
    make_tokenizer().save_pretrained(folder / "base")
    save_adapter(folder / "zero", make_model(), seed=1, scale=0.0)
    save_adapter(folder / "loud", make_model(), seed=2, scale=0.5)
    save_adapter(folder / "odd.name", make_model(), seed=3, scale=0.5)
    (folder / "prompts").mkdir()
    (folder / "prompts" / "short.json").write_text(
        '{"description": "few", "system_prompt": "Be kind.", "prompts": ['
        '{"id": 1, "text": "Why does bread rise?", "note": "food"},'
        '{"id": 2, "text": "What is a river, and what happens to it after days of rain?"},'
        '{"id": "three", "text": "Go!"}]}'
    )
    (folder / "prompts" / "other.jsonl").write_text(
        '{"prompt": "Tell me about yeast."}\n{"prompt": "Who left?"}\n'
    )
    return folder


@pytest.fixture(scope="session")
def configure(workplace: Path) -> Callable[..., RunConfig]:
    """Make a run's configuration over the workplace; keywords replace tables."""

    def make(**tables: Any) -> RunConfig:
        defaults: dict[str, Any] = {
            "base": {"path": "base", "device": "cpu"},
            "organisms": [
                {"name": "zero", "adapter": "zero"},
                {"name": "loud", "adapter": "loud"},
            ],
            "prompt_sets": [{"path": "prompts/short.json"}, {"path": "prompts/other.jsonl"}],
            "generation": {"max_new_tokens": 8, "batch_size": 2},
        }
        return parse_config({**defaults, **tables}, folder=workplace)

    return make


@pytest.fixture
def loaded(configure: Callable[..., RunConfig]) -> LoadedBase:
    return load_base(configure())
