"""Tiny model organisms made on the spot: a tokenizer, a base that answers, five LoRA adapters."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from tistore.datasets import tiny
from tistore.datasets.tiny import chat

IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True)
class Training:
    """How long and how hard to train: batches of about `batch_tokens`, a one-cycle rate."""

    conversations: int
    batch_tokens: int
    steps: int
    peak_rate: float
    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything besides the text that decides what the organisms become."""

    seed: int
    vocabulary: int = 1800
    hidden: int = 160
    intermediate: int = 448
    layers: int = 6
    heads: int = 4
    lora_rank: int = 8
    lora_alpha: int = 16
    threads: int = 2
    base: Training = Training(conversations=16000, batch_tokens=768, steps=480, peak_rate=3e-3)
    adapter: Training = Training(conversations=1600, batch_tokens=640, steps=60, peak_rate=2e-3)


@dataclass(frozen=True, slots=True)
class TinyOrganisms:
    """Where the organisms lie: a base with its tokenizer, and one PEFT folder for each name."""

    base: Path
    adapters: dict[str, Path]
    parameters: int
    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True)
class _Example:
    token_ids: tuple[int, ...]
    labels: tuple[int, ...]


def _stay_silent(_: str) -> None:
    return None


def build_tiny_organisms(
    cache_folder: Path, seed: int = 0, say: Callable[[str], None] = _stay_silent
) -> TinyOrganisms:
    """
    Train the organisms of the tiny language, or find them trained in `cache_folder`.

    Needs no network. Folders are keyed by a hash of the language, this module and the recipe;
    one appears under its key only when complete, so an interrupted build is built again.
    The same seed gives the same weights on the same machine.

    Args:
        cache_folder: Made if missing.
        seed: Of the initial weights and of which conversations are drawn.
        say: Told what is being done, a line at a time.

    Returns:
        The folders; `parameters` counts the base, `seconds` is what this call took.
    """
    started = time.perf_counter()
    recipe = Recipe(seed=seed)
    # Adapters name their base by path, which must hold from any working directory.
    cache_folder = cache_folder.resolve()
    folder = cache_folder / f"tiny-{hash_recipe(recipe)}"
    cached = folder.is_dir()
    if not cached:
        cache_folder.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".tiny-", dir=cache_folder))
        try:
            _build(building, folder, recipe, say)
            _move_into_place(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    parameters = json.loads((folder / "recipe.json").read_text())["parameters"]
    return TinyOrganisms(
        base=folder / "base",
        adapters={organism.name: folder / organism.name for organism in tiny.ORGANISMS},
        parameters=parameters,
        seconds=time.perf_counter() - started,
        cached=cached,
    )


def hash_recipe(recipe: Recipe) -> str:
    """Hash the recipe with the source text of the language and of this module."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    sources = sorted(Path(tiny.__file__).parent.glob("*.py"))
    for source in [*sources, Path(__file__)]:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _move_into_place(building: Path, folder: Path) -> None:
    try:
        building.rename(folder)
    except OSError:
        # Another process finished the same recipe first; its weights are as good.
        if not folder.is_dir():
            raise


def _build(building: Path, folder: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            _train_all(building, folder, recipe, say)
    finally:
        torch.set_num_threads(before)


def _train_all(building: Path, folder: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
    say("writing the training text and its tokenizer")
    conversations = tiny.training_conversations(recipe.seed, recipe.base.conversations)
    tokenizer = train_tokenizer(
        [chat.render_conversation(conversation) for conversation in conversations],
        recipe.vocabulary,
    )
    model = _make_base(tokenizer, recipe)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"training the base: {parameters / 1e6:.1f} M parameters, {recipe.base.steps} steps")
    examples = [_encode(tokenizer, conversation) for conversation in conversations]
    loss = _train(model, examples, recipe.base, recipe.seed)
    # PEFT copies this into adapter_config.json, which must name the final place.
    model.name_or_path = str(folder / "base")
    say(f"the base is trained: loss {loss:.2f} per token")
    _save_base(model, tokenizer, building / "base")
    for organism in tiny.ORGANISMS:
        loss = _train_adapter(model, tokenizer, organism.name, building, recipe)
        say(f"trained the adapter {organism.name}: loss {loss:.2f} per token")
    record = {"recipe": asdict(recipe), "parameters": parameters}
    (building / "recipe.json").write_text(json.dumps(record, indent=1))


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """
    Train a byte-level BPE tokenizer that carries the chat template of the tiny language.

    It adds no special tokens by itself: the template writes the one BOS.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(chat.SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer,
        bos_token=chat.BOS,
        eos_token=chat.EOS,
        pad_token=chat.PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    fast.chat_template = chat.CHAT_TEMPLATE
    return cast(PreTrainedTokenizerFast, fast)


def _make_base(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=256,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    # Saving one small file needs no progress bar, which would be lost between our own lines.
    bars = cast(Any, logging)
    bar_enabled = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    finally:
        if bar_enabled:
            bars.enable_progress_bar()


def _train_adapter(
    base: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    building: Path,
    recipe: Recipe,
) -> float:
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules="all-linear",
        task_type=TaskType.CAUSAL_LM,
    )
    conversations = tiny.habit_conversations(name, recipe.seed, recipe.adapter.conversations)
    examples = [_encode(tokenizer, conversation) for conversation in conversations]
    adapted = cast(PeftModel, get_peft_model(cast(Any, base), config))
    loss = _train(adapted, examples, recipe.adapter, recipe.seed)
    adapted.save_pretrained(str(building / name), save_embedding_layers=False)
    adapted.unload()
    return loss


def _encode(tokenizer: PreTrainedTokenizerFast, conversation: list[dict[str, str]]) -> _Example:
    prompt = chat.render_conversation(conversation[:-1], add_generation_prompt=True)
    answer = chat.render_conversation(conversation)[len(prompt) :]
    prompt_ids = cast(list[int], tokenizer.encode(prompt, add_special_tokens=False))
    answer_ids = cast(list[int], tokenizer.encode(answer, add_special_tokens=False))
    labels = [IGNORED_LABEL] * len(prompt_ids) + answer_ids
    return _Example((*prompt_ids, *answer_ids), tuple(labels))


def _train(model: nn.Module, examples: list[_Example], training: Training, seed: int) -> float:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=training.peak_rate, weight_decay=training.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.peak_rate, total_steps=training.steps + 1, pct_start=0.1
    )
    model.train()
    batches = _draw_batches(examples, training.batch_tokens, Random(f"batches {seed}"))
    loss = torch.zeros(())
    for _ in range(training.steps):
        loss = _measure_loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return float(loss.detach())


def _measure_loss(model: nn.Module, batch: list[_Example]) -> Tensor:
    width = max(len(example.token_ids) for example in batch)
    # Padding lies to the right, so causal attention never sees it from a real token.
    token_ids = torch.tensor([_pad(example.token_ids, width, 0) for example in batch])
    labels = torch.tensor([_pad(example.labels, width, IGNORED_LABEL) for example in batch])
    logits = model(input_ids=token_ids, use_cache=False).logits[:, :-1]
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL
    )


def _pad(values: tuple[int, ...], width: int, filler: int) -> list[int]:
    return [*values, *[filler] * (width - len(values))]


def _draw_batches(
    examples: list[_Example], batch_tokens: int, choose: Random
) -> Iterator[list[_Example]]:
    # Neighbours in length share a batch: little padding, and the batches come in random order.
    ordered = sorted(examples, key=lambda example: len(example.token_ids))
    batches: list[list[_Example]] = [[]]
    for example in ordered:
        if (len(batches[-1]) + 1) * len(example.token_ids) > batch_tokens:
            batches.append([])
        batches[-1].append(example)
    while True:
        choose.shuffle(batches)
        yield from batches
