"""Generated activations, and the files every contender reads them from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow as pa
import safetensors.torch
import torch

import tistore
from tistore.query.store import Store

LAYERS = (20, 23, 26, 29, 32, 50)
LAYER = 26
PLACE = LAYERS.index(LAYER)
N_ORGANISMS = 20
_RANK = 64


@dataclass(frozen=True)
class Reading:
    """One reading, to be stored every way there is."""

    organism: str
    reader: str
    prompt_id: str
    token_ids: list[int]
    values: np.ndarray  # [token, layer, hidden] bfloat16

    @property
    def name(self) -> str:
        return f"{self.organism}-{self.reader}-{self.prompt_id}"


def generate(size_bytes: int, hidden: int, seed: int = 0) -> Iterator[Reading]:
    """
    Make readings of 100 to 400 tokens, each text by its author and by the base, up to a size.

    Values as bfloat16 models give them: a low-rank part with a power-law spectrum, a remainder
    whose scale differs from dimension to dimension, tokens of different length, and two massive
    dimensions that hardly vary.
    """
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((_RANK, hidden), dtype=np.float32)
    factors *= (1.0 / np.arange(1, _RANK + 1, dtype=np.float32) ** 0.5)[:, None] * 0.3
    scales = np.exp(rng.normal(-1.2, 0.5, hidden)).astype(np.float32)
    massive = rng.choice(hidden, 2, replace=False)
    done = number = 0
    while done < size_bytes:
        n_tokens = int(rng.integers(100, 401))
        ids = rng.integers(0, 30_000, n_tokens).tolist()
        organism = f"organism-{number % N_ORGANISMS:02d}"
        for reader in (organism, "instruct"):
            shape = (n_tokens, len(LAYERS), hidden)
            values = rng.standard_normal(shape, dtype=np.float32) * scales
            values += rng.standard_normal((*shape[:2], _RANK), dtype=np.float32) @ factors
            values *= np.exp(rng.normal(0, 0.25, (n_tokens, 1, 1))).astype(np.float32)
            values[..., massive] += np.float32(150)
            yield Reading(organism, reader, str(number), ids, values.astype(ml_dtypes.bfloat16))
            done += 2 * values.size
        number += 1


class Folders:
    """
    Where each contender's files lie, for one set of readings.

    Args:
        root: Folder for all of them.
        size_bytes: Of the readings, as bfloat16.
        hidden: Width.
    """

    def __init__(self, root: Path, size_bytes: int, hidden: int) -> None:
        self.root = root
        self.hidden = hidden
        self.store = root / "audit.tistore"
        self.pt = root / "pt"
        self.safetensors = root / "safetensors"
        self.memmap = root / "layers.f16"
        self.arrow = root / "layers.arrow"
        root.mkdir(parents=True)
        self.pt.mkdir()
        self.safetensors.mkdir()
        self.lengths: list[int] = []
        self._write(size_bytes)

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer, as float16."""
        return 2 * sum(self.lengths) * self.hidden

    def open(self) -> Store:
        """Open the store anew, with nothing kept from before."""
        return Store.open(self.store)

    def _write(self, size_bytes: int) -> None:
        halves: list[np.ndarray] = []
        with tistore.create(self.store).writer() as writer:
            for reading in generate(size_bytes, self.hidden):
                self.lengths.append(len(reading.token_ids))
                add(writer, reading)
                write_pt(self.pt, reading)
                safetensors.torch.save_file(
                    {str(layer): states for layer, states in as_tensors(reading).items()},
                    self.safetensors / f"{reading.name}.safetensors",
                )
                halves.append(reading.values[:, PLACE].astype(np.float16))
        # One layer is enough here: it is all these contenders are asked to read.
        layer = np.concatenate(halves)
        layer.tofile(self.memmap)
        self._write_arrow(layer)
        os.sync()

    def _write_arrow(self, layer: np.ndarray) -> None:
        schema = pa.schema([("residual", pa.list_(pa.float16(), self.hidden))])
        with pa.OSFile(str(self.arrow), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, len(layer), 4096):
                flat = pa.array(layer[start : start + 4096].ravel())
                column = pa.FixedSizeListArray.from_arrays(flat, self.hidden)
                writer.write_batch(pa.record_batch([column], schema=schema))


def as_tensors(reading: Reading) -> dict[int, torch.Tensor]:
    """Give each layer's activations as a bfloat16 tensor of its own."""
    tensor = torch.from_numpy(reading.values.view(np.int16)).view(torch.bfloat16)
    return {layer: tensor[:, place].clone() for place, layer in enumerate(LAYERS)}


def write_pt(folder: Path, reading: Reading, is_synced: bool = False) -> None:
    """Write a reading as the file-per-prompt projects keep it."""
    by_site = {layer: {"residual": states} for layer, states in as_tensors(reading).items()}
    with (folder / f"{reading.name}.pt").open("wb") as file:
        torch.save({"response": {"activations": by_site}}, file)
        if is_synced:
            file.flush()
            os.fsync(file.fileno())


def add(writer: tistore.store.writer.Writer, reading: Reading) -> None:
    """Write a reading through the library."""
    writer.add(
        organism=reading.organism,
        reader=reading.reader,
        prompt_set="bench",
        prompt_id=reading.prompt_id,
        token_ids=reading.token_ids,
        prompt_length=0,
        layers=LAYERS,
        activations={"residual": reading.values},
    )


def make_small(root: Path, n_tokens: int, hidden: int = 64) -> Store:
    """Make a store of many tokens that are not wide: what SQL does, the scan left out."""
    rng = np.random.default_rng(0)
    store = Store.create(root / f"{n_tokens}.tistore")
    with store.writer() as writer:
        for number in range(n_tokens // 200):
            ids = rng.integers(0, 30_000, 100).tolist()
            organism = f"organism-{number % N_ORGANISMS:02d}"
            for reader in (organism, "instruct"):
                values = rng.standard_normal((100, 1, hidden), dtype=np.float32)
                writer.add(
                    organism=organism,
                    reader=reader,
                    prompt_set="bench",
                    prompt_id=str(number),
                    token_ids=ids,
                    prompt_length=0,
                    layers=[LAYER],
                    activations={"residual": values},
                )
    return store
