"""Identities of readings as Arrow: a row a reading, a column for each thing known."""

from __future__ import annotations

import json
from dataclasses import asdict

import pyarrow as pa

from tistore.datasets.foreign.identity import SampleIdentity
from tistore.exchange.files.one_each import TOKEN_IDS, read_token_ids
from tistore.exchange.files.samples import Sample

IDENTITY = pa.schema(
    [
        pa.field("reading_key", pa.string()),
        pa.field("response_id", pa.string()),
        pa.field("content_hash", pa.string()),
        pa.field("organism", pa.string()),
        pa.field("reader", pa.string()),
        pa.field("prompt_set", pa.string()),
        pa.field("prompt_id", pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("prompt_length", pa.int32()),
        pa.field("first_position", pa.int32()),
        pa.field("layers", pa.list_(pa.int32())),
        pa.field("component", pa.string()),
        pa.field("text", pa.string()),
        pa.field(TOKEN_IDS, pa.list_(pa.int32())),
        pa.field("tokens", pa.list_(pa.string())),
        pa.field("roles", pa.list_(pa.string())),
        pa.field("turns", pa.list_(pa.int32())),
        pa.field("is_response", pa.list_(pa.bool_())),
        pa.field("logprobs", pa.list_(pa.float32())),
        pa.field("finish_reason", pa.string()),
        pa.field("organism_model", pa.string()),
        pa.field("reader_model", pa.string()),
        pa.field("prompt", pa.string()),
    ]
)
"""The fields of `SampleIdentity`, models and prompt as JSON, and what the store calls it."""

_OBJECTS = ("organism_model", "reader_model", "prompt")
_NAMES = ("reading_key", "response_id", "content_hash")


def build_identity_row(sample: Sample, identity: SampleIdentity) -> pa.RecordBatch:
    """Lay one reading's identity out: one row of `IDENTITY`."""
    row = asdict(identity) | {name: sample.row[name] for name in _NAMES}
    for name in _OBJECTS:
        if row[name] is not None:
            row[name] = json.dumps(row[name], ensure_ascii=False)
    row[TOKEN_IDS] = read_token_ids(sample)
    return pa.RecordBatch.from_pylist([row], schema=IDENTITY)
