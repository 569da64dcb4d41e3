"""
Arrow schemas of every table a store holds.

The first three lie in segments, row-aligned with the arrays; the others are appended by any
commit. `docs/format.md` says what each column means.
"""

from __future__ import annotations

import pyarrow as pa

RESPONSES = pa.schema(
    [
        pa.field("reading_key", pa.string(), nullable=False),
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("organism", pa.string(), nullable=False),
        pa.field("organism_fingerprint", pa.string(), nullable=False),
        pa.field("reader", pa.string(), nullable=False),
        pa.field("reader_fingerprint", pa.string(), nullable=False),
        pa.field("prompt_set", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("prompt_length", pa.int32(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("rows", pa.string(), nullable=False),
        pa.field("row_start", pa.int64(), nullable=False),
        pa.field("n_rows", pa.int32(), nullable=False),
        pa.field("first_position", pa.int32(), nullable=False),
        pa.field("settings_hash", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("n_underflow", pa.int64(), nullable=False),
        pa.field("run_id", pa.string()),
    ]
)

TOKENS = pa.schema(
    [
        pa.field("reading", pa.int32(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("token", pa.string()),
        pa.field("role", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("is_response", pa.bool_(), nullable=False),
        pa.field("clause", pa.int32()),
        pa.field("logprob", pa.float32()),
        pa.field("char_start", pa.int32()),
        pa.field("char_end", pa.int32()),
    ]
)

CLAUSES = pa.schema(
    [
        pa.field("reading", pa.int32(), nullable=False),
        pa.field("clause", pa.int32(), nullable=False),
        pa.field("token_start", pa.int32(), nullable=False),
        pa.field("token_end", pa.int32(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("char_start", pa.int32(), nullable=False),
        pa.field("char_end", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)

MODELS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("base_id", pa.string()),
        pa.field("base_revision", pa.string()),
        pa.field("adapter_id", pa.string()),
        pa.field("adapter_hash", pa.string()),
        pa.field("quantization", pa.string()),
        pa.field("dtype", pa.string()),
        pa.field("tokenizer_hash", pa.string()),
        pa.field("chat_template_hash", pa.string()),
        pa.field("family", pa.string()),
    ]
)

PROMPTS = pa.schema(
    [
        pa.field("prompt_set", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("system_prompt", pa.string()),
        pa.field("note", pa.string()),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
    ]
)

PROMPT_SETS = pa.schema(
    [
        pa.field("prompt_set", pa.string(), nullable=False),
        pa.field("description", pa.string()),
        pa.field("source", pa.string()),
        pa.field("source_hash", pa.string()),
        pa.field("n_prompts", pa.int32(), nullable=False),
    ]
)

VECTORS = pa.schema(
    [
        pa.field("vector_hash", pa.string(), nullable=False),
        pa.field("trait", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("component", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("position", pa.string(), nullable=False),
        pa.field("hidden", pa.int32(), nullable=False),
        pa.field("norm", pa.float64(), nullable=False),
        pa.field("separation", pa.float64()),
        pa.field("midpoint", pa.float64()),
        pa.field("values", pa.list_(pa.float32()), nullable=False),
    ]
)

RUNS = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("config", pa.string(), nullable=False),
        pa.field("versions", pa.string(), nullable=False),
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

STEERING = pa.schema(
    [
        pa.field("trait", pa.string(), nullable=False),
        pa.field("vector_hash", pa.string(), nullable=False),
        pa.field("coefficient", pa.float64(), nullable=False),
        pa.field("trait_mean", pa.float64(), nullable=False),
        pa.field("trait_std", pa.float64()),
        pa.field("coherence_mean", pa.float64()),
        pa.field("baseline_mean", pa.float64()),
        pa.field("n", pa.int32(), nullable=False),
    ]
)

ANNOTATIONS = pa.schema(
    [
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("token_start", pa.int32(), nullable=False),
        pa.field("token_end", pa.int32(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("note", pa.string()),
        pa.field("source", pa.string()),
    ]
)

GENERATIONS = pa.schema(
    [
        pa.field("organism", pa.string(), nullable=False),
        pa.field("prompt_set", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("prompt_length", pa.int32()),
        pa.field("messages", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
    ]
)

SOURCES = pa.schema(
    [
        pa.field("source_format", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ns", pa.int64()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("variety", pa.string()),
        pa.field("reading_key", pa.string()),
        pa.field("vector_hash", pa.string()),
        pa.field("row_convention", pa.string()),
        pa.field("source_dtype", pa.string()),
        pa.field("is_paired", pa.bool_()),
        pa.field("note", pa.string()),
        pa.field("run_id", pa.string()),
    ]
)

SEGMENT_TABLES: dict[str, pa.Schema] = {
    "tokens": TOKENS,
    "responses": RESPONSES,
    "clauses": CLAUSES,
}
"""Tables of a segment, in the row order of its arrays."""

LOG_TABLES: dict[str, pa.Schema] = {
    "models": MODELS,
    "prompts": PROMPTS,
    "prompt_sets": PROMPT_SETS,
    "vectors": VECTORS,
    "runs": RUNS,
    "steering": STEERING,
    "annotations": ANNOTATIONS,
    "generations": GENERATIONS,
    "sources": SOURCES,
}
"""Tables appended by any commit."""

TABLE_KEYS: dict[str, tuple[str, ...]] = {
    "models": ("name",),
    "prompts": ("prompt_set", "prompt_id"),
    # A set may grow: each version of its file is a row, and its prompts stay unique.
    "prompt_sets": ("prompt_set", "source_hash"),
    "vectors": ("trait", "model", "component", "layer", "method", "position"),
    "runs": ("run_id",),
    "generations": ("organism", "prompt_set", "prompt_id", "sample"),
    "sources": ("source_format", "path", "sha256"),
}
"""Columns that are unique in each keyed table."""
