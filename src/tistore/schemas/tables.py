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
        pa.field("attn_implementation", pa.string()),
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
        pa.field("tools", pa.string()),
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
        pa.field("bias", pa.float64()),
        pa.field("n_positive", pa.int32()),
        pa.field("n_negative", pa.int32()),
        pa.field("fitted_on", pa.string()),
        pa.field("values", pa.list_(pa.float32()), nullable=False),
    ]
)

CHOICES = pa.schema(
    [
        pa.field("trait", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("vector_hash", pa.string(), nullable=False),
        pa.field("component", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("position", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("n_candidates", pa.int32(), nullable=False),
        pa.field("selected_by", pa.string()),
        pa.field("selection_score", pa.float64()),
        pa.field("auroc", pa.float64()),
        pa.field("g", pa.float64()),
        pa.field("g_low", pa.float64()),
        pa.field("g_high", pa.float64()),
        pa.field("chosen_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

EVALUATIONS = pa.schema(
    [
        pa.field("trait", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("component", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("position", pa.string(), nullable=False),
        pa.field("vector_hash", pa.string(), nullable=False),
        pa.field("fitted_on", pa.string()),
        pa.field("tested_on", pa.string(), nullable=False),
        pa.field("folds", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("n_positive", pa.int32(), nullable=False),
        pa.field("n_negative", pa.int32(), nullable=False),
        pa.field("n_groups", pa.int32(), nullable=False),
        pa.field("is_paired", pa.bool_(), nullable=False),
        pa.field("auroc", pa.float64()),
        pa.field("auroc_low", pa.float64()),
        pa.field("auroc_high", pa.float64()),
        pa.field("balanced_accuracy", pa.float64()),
        pa.field("balanced_accuracy_low", pa.float64()),
        pa.field("balanced_accuracy_high", pa.float64()),
        pa.field("g", pa.float64()),
        pa.field("g_low", pa.float64()),
        pa.field("g_high", pa.float64()),
        pa.field("polarity", pa.int32()),
        pa.field("pairs_ordered", pa.float64()),
        pa.field("positive_mean", pa.float64()),
        pa.field("positive_std", pa.float64()),
        pa.field("negative_mean", pa.float64()),
        pa.field("negative_std", pa.float64()),
        pa.field("n_resamples", pa.int32(), nullable=False),
        pa.field("n_permutations", pa.int32(), nullable=False),
        pa.field("permutation_p", pa.float64()),
        pa.field("permutation_auroc_95", pa.float64()),
        pa.field("n_random", pa.int32(), nullable=False),
        pa.field("random_p", pa.float64()),
        pa.field("random_auroc_95", pa.float64()),
        pa.field("n_splits", pa.int32(), nullable=False),
        pa.field("split_half_cosine", pa.float64()),
        pa.field("reliability", pa.float64()),
        pa.field("massive_energy", pa.float64()),
        pa.field("evaluated_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

SCENARIO_SETS = pa.schema(
    [
        pa.field("fitted_on", pa.string(), nullable=False),
        pa.field("trait", pa.string(), nullable=False),
        pa.field("position", pa.string(), nullable=False),
        pa.field("n_positive", pa.int32(), nullable=False),
        pa.field("n_negative", pa.int32(), nullable=False),
        pa.field("response_ids", pa.list_(pa.string()), nullable=False),
    ]
)

REMOVALS = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("removed_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

JUDGEMENTS = pa.schema(
    [
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("trait", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("endpoint", pa.string(), nullable=False),
        pa.field("rubric_hash", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("weight", pa.float64()),
        pa.field("source", pa.string()),
        pa.field("raw", pa.string(), nullable=False),
        pa.field("n_words", pa.int32(), nullable=False),
        pa.field("n_asked", pa.int32(), nullable=False),
        pa.field("judged_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

RUBRICS = pa.schema(
    [
        pa.field("rubric_hash", pa.string(), nullable=False),
        pa.field("trait", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("words", pa.int32()),
        pa.field("instructions", pa.string()),
        pa.field("question", pa.string(), nullable=False),
        pa.field("reminder", pa.string(), nullable=False),
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

CALIBRATIONS = pa.schema(
    [
        pa.field("calibration_id", pa.string(), nullable=False),
        pa.field("reader", pa.string(), nullable=False),
        pa.field("component", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("dim", pa.int32(), nullable=False),
        pa.field("n_massive", pa.int64(), nullable=False),
        pa.field("n_massive_first", pa.int64(), nullable=False),
        pa.field("n_massive_delimiter", pa.int64(), nullable=False),
        pa.field("massive_mean", pa.float64()),
        pa.field("massive_cv", pa.float64()),
        pa.field("largest", pa.float64(), nullable=False),
        pa.field("ratio", pa.float64()),
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("token", pa.string()),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("magnitude", pa.float64(), nullable=False),
        pa.field("top_rank", pa.int32()),
        pa.field("mean_ratio", pa.float64()),
        pa.field("cv", pa.float64()),
        pa.field("p5_ratio", pa.float64()),
        pa.field("pct_above_10x", pa.float64(), nullable=False),
        pa.field("n_layers_massive", pa.int32(), nullable=False),
        pa.field("n_layers_top", pa.int32(), nullable=False),
    ]
)

CALIBRATION_LAYERS = pa.schema(
    [
        pa.field("calibration_id", pa.string(), nullable=False),
        pa.field("reader", pa.string(), nullable=False),
        pa.field("component", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("hidden", pa.int32(), nullable=False),
        pa.field("prompt_sets", pa.list_(pa.string()), nullable=False),
        pa.field("condition", pa.string()),
        pa.field("snapshot", pa.int64(), nullable=False),
        pa.field("n_readings", pa.int64(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("n_audited", pa.int64(), nullable=False),
        pa.field("layer_norm", pa.float64(), nullable=False),
        pa.field("mean_alignment", pa.float64(), nullable=False),
        pa.field("consecutive_cosine", pa.float64()),
        pa.field("prompt_ratio", pa.float64()),
        pa.field("pct_prompts_massive", pa.float64(), nullable=False),
    ]
)

PARITY = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("organism", pa.string(), nullable=False),
        pa.field("reader", pa.string(), nullable=False),
        pa.field("component", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("n_rows", pa.int32(), nullable=False),
        pa.field("largest", pa.float64(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("logprob_largest", pa.float64()),
        pa.field("tolerance", pa.float64(), nullable=False),
        pa.field("batch_size", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
    ]
)

HEADS = pa.schema(
    [
        pa.field("head_hash", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("family", pa.string()),
        pa.field("norm", pa.string(), nullable=False),
        pa.field("norm_weight", pa.list_(pa.float32()), nullable=False),
        pa.field("norm_bias", pa.list_(pa.float32())),
        pa.field("norm_epsilon", pa.float64(), nullable=False),
        pa.field("weight_offset", pa.float64(), nullable=False),
        pa.field("logit_softcap", pa.float64()),
        pa.field("logit_scale", pa.float64()),
        pa.field("hidden", pa.int32(), nullable=False),
        pa.field("n_vocabulary", pa.int32(), nullable=False),
        pa.field("has_bias", pa.bool_(), nullable=False),
    ]
)

READER_HEADS = pa.schema(
    [
        pa.field("reader", pa.string(), nullable=False),
        pa.field("head_hash", pa.string(), nullable=False),
    ]
)

UNEMBEDDING = pa.schema(
    [
        pa.field("head_hash", pa.string(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("token", pa.string()),
        pa.field("bias", pa.float32()),
        # Elements that may not be null are decoded more than twice as fast.
        pa.field(
            "values", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False
        ),
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
    "heads": HEADS,
    "reader_heads": READER_HEADS,
    "parity": PARITY,
    "calibrations": CALIBRATIONS,
    "calibration_layers": CALIBRATION_LAYERS,
    "choices": CHOICES,
    "evaluations": EVALUATIONS,
    "scenario_sets": SCENARIO_SETS,
    "removals": REMOVALS,
    "judgements": JUDGEMENTS,
    "rubrics": RUBRICS,
}
"""Tables appended by any commit."""

STREAMED_TABLES: dict[str, pa.Schema] = {"unembedding": UNEMBEDDING}
"""Tables of the log that are too large to be read whole; each file is one head's."""

TABLE_KEYS: dict[str, tuple[str, ...]] = {
    "models": ("name",),
    "prompts": ("prompt_set", "prompt_id"),
    # A set may grow: each version of its file is a row, and its prompts stay unique.
    "prompt_sets": ("prompt_set", "source_hash"),
    "vectors": ("trait", "model", "component", "layer", "method", "position"),
    "runs": ("run_id",),
    "generations": ("organism", "prompt_set", "prompt_id", "sample"),
    "sources": ("source_format", "path", "sha256"),
    "heads": ("head_hash",),
    "reader_heads": ("reader",),
    "calibrations": ("calibration_id", "layer", "dim"),
    "calibration_layers": ("calibration_id", "layer"),
    "scenario_sets": ("fitted_on",),
    "judgements": ("response_id", "trait", "judge", "rubric_hash"),
    "rubrics": ("rubric_hash",),
}
"""Columns that are unique in each keyed table."""
