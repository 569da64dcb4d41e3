"""Ways to project one layer on new vectors: tistore, what people do today, and the limits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors
import torch
import zarr
from data import LAYER, PLACE, Folders

from tistore.query.product import choose_product, one_thread_each
from tistore.query.store import Store
from tistore.schemas.site import Site

SITE = Site("residual", LAYER)
_BLOCK = 256


def file_per_prompt(folders: Folders, vectors: np.ndarray) -> None:
    """
    Load each file; a product, the token norms and a JSON of both for each vector.

    It is what trait projects do today: their files have the norms, computed anew each time.
    """
    out = _fresh(folders.root / "json")
    tensors = [torch.from_numpy(vector) for vector in vectors]
    for path in sorted(folders.pt.iterdir()):
        states = torch.load(path, weights_only=True)["response"]["activations"][LAYER]["residual"]
        for number, vector in enumerate(tensors):
            scores = states.float() @ vector / (vector.norm() + 1e-8)
            written = {
                "metadata": {"component": "residual", "centered": False, "n": len(scores)},
                "projections": [{"layer": LAYER, "prompt": [], "response": scores.tolist()}],
                "token_norms": states.float().norm(dim=-1).tolist(),
            }
            (out / f"{path.stem}-{number}.json").write_text(json.dumps(written))


def stacked_product(folders: Folders, vectors: np.ndarray) -> None:
    """The same with one product for all vectors, and one JSON a file."""
    out = _fresh(folders.root / "json")
    units = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    for path in sorted(folders.pt.iterdir()):
        states = torch.load(path, weights_only=True)["response"]["activations"][LAYER]["residual"]
        scores = states.float() @ units
        (out / f"{path.stem}.json").write_text(json.dumps(scores.T.tolist()))


def safetensors_files(folders: Folders, vectors: np.ndarray) -> np.ndarray:
    """A file a reading, of which only the layer is read."""
    units = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    found = []
    for path in sorted(folders.safetensors.iterdir()):
        with safetensors.safe_open(path, "pt") as file:
            found.append((file.get_tensor(str(LAYER)).float() @ units).numpy())
    return np.concatenate(found)


def memmap(folders: Folders, vectors: np.ndarray) -> np.ndarray:
    """The layer alone, uncompressed, in one file, mapped into memory; block by block."""
    rows = np.memmap(folders.memmap, np.float16, "r").reshape(-1, folders.hidden)
    return _multiply(_blocks(rows), vectors)


def arrow_lists(folders: Folders, vectors: np.ndarray) -> np.ndarray:
    """The layer alone, as fixed-size lists in an uncompressed Arrow file, mapped into memory."""

    def blocks() -> Iterator[np.ndarray]:
        with pa.memory_map(str(folders.arrow)) as source:
            reader = pa.ipc.open_file(source)
            for place in range(reader.num_record_batches):
                flat = reader.get_batch(place)["residual"].flatten().to_numpy()
                yield from _blocks(flat.reshape(-1, folders.hidden))

    return _multiply(blocks(), vectors)


def zarr_python(folders: Folders, vectors: np.ndarray) -> np.ndarray:
    """The store's own arrays, through zarr-python."""

    def blocks() -> Iterator[np.ndarray]:
        for path in sorted(folders.store.glob("segments/*/residual.zarr")):
            yield from _blocks(zarr.open_array(path, mode="r")[:, PLACE])

    return _multiply(blocks(), vectors)


def top_tokens(store: Store, names: list[str]) -> None:
    """A question to tistore about all tokens: the best twenty along the first of some vectors."""
    calls = ", ".join(f"project('{name}') AS s{place}" for place, name in enumerate(names))
    store.sql(f"SELECT response_id, position, {calls} FROM tokens ORDER BY s0 DESC LIMIT 20")


def every_mean(store: Store, names: list[str]) -> None:
    """The mean over all tokens along each of many vectors."""
    calls = ", ".join(f"avg(project('{name}'))" for name in names)
    store.sql(f"SELECT organism, {calls} FROM tokens GROUP BY organism")


def rank_responses(store: Store, name: str) -> None:
    """Every response, ranked."""
    store.sql(
        f"SELECT response_id, reader, project('{name}') AS s FROM responses "
        "ORDER BY s DESC LIMIT 20"
    )


def disk_only(folders: Folders) -> int:
    """Read the layer's compressed bytes, and nothing else: gives how many there are."""
    store = folders.open()
    extents = []
    for segment in store.snapshot.segments:
        blocks = segment.stream(SITE).blocks()
        path = folders.store / "segments" / segment.uuid / "residual.zarr" / "c" / "0" / "0" / "0"
        first, last = blocks[0].offset, blocks[-1].offset + blocks[-1].size_bytes
        extents.append((path, first, last - first))

    def read(extent: tuple[Path, int, int]) -> int:
        path, start, length = extent
        buffer = bytearray(1 << 20)
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)
            file.seek(start)
            left = length
            while left:
                left -= file.readinto(memoryview(buffer)[: min(left, len(buffer))])
        return length

    with ThreadPoolExecutor(2) as threads:
        return sum(threads.map(read, extents))


def decode_only(store: Store) -> None:
    """Read, check and decode the layer, and multiply nothing."""
    streams = [segment.stream(SITE) for segment in store.snapshot.segments]
    work = iter([(stream, block) for stream in streams for block in stream.blocks()])
    lock = Lock()

    def labour() -> None:
        buffers: dict[tuple[int, ...], Any] = {}
        while True:
            with lock:
                task = next(work, None)
            if task is None:
                return
            task[0].read(task[1], buffers)

    _run_two(labour)


def product_only(rows: np.ndarray, vectors: np.ndarray) -> None:
    """Multiply a layer that lies decoded in memory."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.empty((len(units), len(rows)), dtype=np.float32)
    work = iter(range(0, len(rows), 128))
    lock = Lock()

    def labour() -> None:
        product = choose_product(len(units), rows.size)(units)
        while True:
            with lock:
                start = next(work, None)
            if start is None:
                return
            product(rows[start : start + 128], scores[:, start : start + 128])

    with one_thread_each():
        _run_two(labour)


def _run_two(labour: Any) -> None:
    threads = [Thread(target=labour) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]


def _multiply(blocks: Iterator[np.ndarray], vectors: np.ndarray) -> np.ndarray:
    units = np.ascontiguousarray((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T)
    return np.concatenate([block.astype(np.float32) @ units for block in blocks])


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
