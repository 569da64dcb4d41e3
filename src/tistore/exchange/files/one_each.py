"""
One file a reading: `.safetensors`, or `.npy` with its JSON beside it.

Source:
    safetensors: https://github.com/huggingface/safetensors#format
    NPY: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tistore.datasets.foreign.identity import METADATA_KEY, SampleIdentity
from tistore.exchange.destination import Destination
from tistore.exchange.files.samples import Sample

STATES = "hidden_states"
"""Name of the states, [row, layer, hidden]."""

TOKEN_IDS = "token_ids"
"""Name of the ids of prompt and response, [token]."""

_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
_SLUG_LENGTH = 32
_ALIGNMENT = 8
_SAFETENSORS_NAMES = {"float16": "F16", "float32": "F32", "int32": "I32"}


def name_sample(sample: Sample) -> str:
    """
    Name a reading's file, its suffix left out.

    For people it starts with set, prompt, organism and reader, as far as any file system takes
    them; the reading's key at its end is what no other reading has.
    """
    row = sample.row
    words = (row["prompt_set"], row["prompt_id"], row["organism"], row["reader"])
    slugs = [_UNSAFE.sub("-", word)[:_SLUG_LENGTH].strip("-") for word in words]
    return "_".join([slug for slug in slugs if slug] + [sample.key])


def write_safetensors(
    destination: Destination, name: str, sample: Sample, identity: SampleIdentity
) -> None:
    """Write `hidden_states` and `token_ids`, the identity as JSON in the file's metadata."""
    with destination.write(f"{name}.safetensors") as file:
        encode_safetensors(
            file,
            {STATES: sample.read(), TOKEN_IDS: read_token_ids(sample)},
            {METADATA_KEY: identity.to_json()},
        )


def encode_safetensors(
    file: BinaryIO, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write tensors of float16, float32 or int32 in the safetensors format."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    # The widest first, so that each lies at a multiple of its own width.
    ordered = sorted(tensors.items(), key=lambda pair: -pair[1].dtype.itemsize)
    offset = 0
    for name, values in ordered:
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [offset, offset + values.nbytes],
        }
        offset += values.nbytes
    encoded = json.dumps(header, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    file.write(struct.pack("<Q", len(encoded)))
    file.write(encoded)
    for _, values in ordered:
        file.write(_as_bytes(values))


def write_npy(
    destination: Destination, name: str, sample: Sample, identity: SampleIdentity
) -> None:
    """Write the states as `.npy`, and `.json` beside it: the identity and the token ids."""
    with destination.write(f"{name}.npy") as file:
        states = sample.read()
        header = np.lib.format.header_data_from_array_1_0(states)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(_as_bytes(states))
    said = json.loads(identity.to_json()) | {TOKEN_IDS: read_token_ids(sample).tolist()}
    # The JSON comes last: where it is, the states are, and the reading is done.
    with destination.write(f"{name}.json") as file:
        file.write(json.dumps(said).encode())


def read_token_ids(sample: Sample) -> NDArray[np.int32]:
    """Give the ids of prompt and response: [token]."""
    return np.asarray(sample.row["token_ids"], dtype=np.int32)


def _as_bytes(values: NDArray[Any]) -> memoryview:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).view(np.uint8).reshape(-1).data
