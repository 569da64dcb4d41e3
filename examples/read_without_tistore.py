"""
Read a store with zarr-python and pyarrow alone, by following docs/format.md.

    python examples/read_without_tistore.py demo.tistore

Prints, for the first reading of every segment, its text and the norm of its mean activation.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import zarr


def read_log(store: Path) -> list[dict]:
    """Read the commits in order, checking the chain."""
    parent = hashlib.sha256((store / "tistore.json").read_bytes()).hexdigest()
    bodies = []
    for path in sorted((store / "commits").glob("[0-9]*.json")):
        line, trailer = path.read_bytes().splitlines()
        body = json.loads(line)
        digest = hashlib.sha256(line).hexdigest()
        assert digest == json.loads(trailer)["sha256"] and body["parent"] == parent
        parent = digest
        bodies.append(body)
    return bodies


def list_segments(bodies: list[dict]) -> list[dict]:
    """Go through the log: what a commit replaces is no longer part of the store."""
    segments: dict[str, dict] = {}
    for body in bodies:
        added = {segment["uuid"]: segment for segment in body["segments"]}
        # New for old, in the place of the first one; null where nothing takes its place.
        replaced = body.get("replaced", {}).get("segments", {})
        names = dict.fromkeys(replaced.get(name, name) for name in segments)
        segments |= added
        segments = {name: segments[name] for name in (*names, *added) if name is not None}
    return list(segments.values())


def read_reading(store: Path, segment: dict, index: int) -> tuple[dict, np.ndarray]:
    """Read one reading: its row, and its activations [token, layer, hidden] in true units."""
    table = pq.read_table(store / segment["tables"]["responses"]["path"])
    row = table.slice(index, 1).to_pylist()[0]
    array = zarr.open_array(store / "segments" / segment["uuid"] / "residual.zarr", mode="r")
    rows = array[row["row_start"] : row["row_start"] + row["n_rows"]]
    exponents = np.array(array.attrs["exponents"])
    return row, rows.astype(np.float32) * 2.0 ** exponents[None, :, None]


def main(store: Path) -> None:
    """Print the first reading of every segment."""
    for segment in list_segments(read_log(store)):
        row, activations = read_reading(store, segment, 0)
        audited = row["prompt_length"] - row["first_position"]
        norms = np.linalg.norm(activations[audited:].mean(axis=0), axis=-1)
        print(f"{row['organism']} read by {row['reader']}: {row['text']!r}")
        for layer, norm in zip(segment["layers"], norms, strict=True):
            print(f"  layer {layer}: |mean| = {norm:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
