"""A folder of trait-interp's, and what it costs to move it into a store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from data import LAYERS, Reading, generate

N_PROMPT = 20
BATCH = 16

_IMPORT = """
import json, resource, sys, time
from tistore.cli.main import main
from pathlib import Path
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
before = peak()
import threading
sys.argv = ["tistore", "import", "trait-interp", *sys.argv[1:], "--json"]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(json.dumps([before, peak()]), file=sys.stderr)
"""


def write_experiment(root: Path, size_bytes: int, hidden: int, is_batched: bool) -> int:
    """
    Write generated readings as an experiment.

    Args:
        root: Folder of the experiment.
        size_bytes: Of the values.
        hidden: Width.
        is_batched: Whether each file's tensors are views of its whole batch, as they are where
            rows were sliced on the CPU before they were saved: `torch.save` writes all of it.

    Returns:
        Bytes of the values.
    """
    readings = list(generate(size_bytes, hidden))
    organisms = sorted({reading.organism for reading in readings})
    variants = {name: {"model": "base", "lora": f"lora/{name}"} for name in organisms}
    config = {
        "defaults": {"application": "instruct", "extraction": "instruct"},
        "model_variants": {"instruct": {"model": "base"}, **variants},
    }
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps(config))
    step = BATCH if is_batched else 1
    for first in range(0, len(readings), step):
        for reading, tensors in _slice(readings[first : first + step]):
            _save(root, reading, tensors)
    return sum(reading.values.nbytes for reading in readings)


def _slice(batch: Sequence[Reading]) -> list[tuple[Reading, dict[int, torch.Tensor]]]:
    """For each reading, its layers: views of one padded batch a layer."""
    width = max(len(reading.token_ids) for reading in batch)
    found: list[tuple[Reading, dict[int, torch.Tensor]]] = [(reading, {}) for reading in batch]
    for place, layer in enumerate(LAYERS):
        padded = torch.zeros((len(batch), width, batch[0].values.shape[2]), dtype=torch.bfloat16)
        for row, (reading, tensors) in enumerate(found):
            values = torch.from_numpy(reading.values[:, place].view(np.int16)).view(torch.bfloat16)
            padded[row, : len(values)] = values
            tensors[layer] = padded[row, : len(values)]
    return found


def _save(root: Path, reading: Reading, tensors: dict[int, torch.Tensor]) -> None:
    suffix = "" if reading.reader == reading.organism else f"_replay_{reading.organism}"
    folder = root / "inference" / reading.reader / "raw" / "residual" / f"audit{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    halves = {"prompt": slice(None, N_PROMPT), "response": slice(N_PROMPT, None)}
    content = {
        half: {
            "text": "".join(f" {token}" for token in reading.token_ids[part]),
            "tokens": [f" {token}" for token in reading.token_ids[part]],
            "token_ids": reading.token_ids[part],
            "activations": {layer: {"residual": states[part]} for layer, states in tensors.items()},
        }
        for half, part in halves.items()
    }
    torch.save(content, folder / f"{reading.prompt_id}.pt")


def import_experiment(store: Path, experiment: Path) -> tuple[int, int]:
    """Import in a process of its own; gives its memory before, and at its peak."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, str(store), str(experiment)],
        capture_output=True,
        text=True,
        check=True,
    )
    before, peak = json.loads(done.stderr.strip().splitlines()[-1])
    return before, peak


def write_raw(folder: Path, size_bytes: int) -> None:
    """Write as many bytes as the values are, in files of 256 MB, fsynced."""
    folder.mkdir()
    block = np.random.default_rng(0).integers(0, 256, 8 << 20, dtype=np.uint8).tobytes()
    left = size_bytes
    while left > 0:
        with (folder / str(left)).open("wb") as file:
            for _ in range(32):
                left -= file.write(block[: max(0, left)])
            file.flush()
            os.fsync(file.fileno())
    parent = os.open(folder, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)
