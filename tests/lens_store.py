"""The audited store, with heads of its readers made up: what a capture run would have kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from audited_store import HIDDEN, Written, write_audited_store
from tistore.query.store import Store
from tistore.schemas.head import Head, VocabularyBlock

VOCABULARY = 950


def make_head(head_hash: str, rng: np.random.Generator, **changes: Any) -> Head:
    """Make a head of the audited store's width."""
    facts: dict[str, Any] = {
        "model": "instruct",
        "family": "llama",
        "norm": "rms",
        "norm_weight": rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32),
        "norm_bias": None,
        "norm_epsilon": 1e-5,
        "weight_offset": 0.0,
        "logit_softcap": None,
        "logit_scale": None,
        "hidden": HIDDEN,
        "n_vocabulary": VOCABULARY,
        "has_bias": False,
    }
    return Head(head_hash=head_hash, **facts | changes)


def cut(values: np.ndarray, bias: np.ndarray | None, rows: int) -> list[VocabularyBlock]:
    """Cut an unembedding into blocks; token 7 has no string."""
    return [
        VocabularyBlock(
            start,
            values[start : start + rows],
            None if bias is None else bias[start : start + rows],
            [None if i == 7 else f"<{i}>" for i in range(start, min(start + rows, len(values)))],
        )
        for start in range(0, len(values), rows)
    ]


def add_head(
    store: Store, head: Head, values: np.ndarray, bias: np.ndarray | None = None, rows: int = 64
) -> None:
    """Commit a head, in row groups of so many tokens."""
    with store.writer() as writer:
        writer.add_head(head, lambda: cut(values, bias, rows))


def write_lens_store(
    path: Path, **changes: Any
) -> tuple[Store, list[Written], dict[str, tuple[Head, np.ndarray, np.ndarray | None]]]:
    """
    Write it: flattery shares instruct's head, hedge has one of its own kind.

    Returns:
        The store; what is in it; and each reader's head, unembedding and bias.
    """
    rng = np.random.default_rng(5)
    store, written = write_audited_store(path, **changes)
    plain = make_head("plain", rng, weight_offset=1.0, logit_softcap=2.5)
    other = make_head(
        "other",
        rng,
        norm="layer",
        norm_bias=rng.standard_normal(HIDDEN).astype(np.float32),
        logit_scale=0.5,
        has_bias=True,
    )
    values = [rng.standard_normal((VOCABULARY, HIDDEN)).astype(np.float32) for _ in range(2)]
    bias = rng.standard_normal(VOCABULARY).astype(np.float32)
    add_head(store, plain, values[0])
    add_head(store, other, values[1], bias)
    heads = {
        "instruct": (plain, values[0], None),
        "flattery": (plain, values[0], None),
        "hedge": (other, values[1], bias),
    }
    rows = [{"reader": name, "head_hash": one[0].head_hash} for name, one in heads.items()]
    store.add_rows("reader_heads", rows)
    return store, written, heads


def compute_logits(head: Head, values: np.ndarray, bias: Any, states: np.ndarray) -> np.ndarray:
    """Logits by the formulas on the page, in float64: (row, vocabulary)."""
    states = states.astype(np.float64)
    if head.norm == "layer":
        states = states - states.mean(axis=1, keepdims=True)
    normed = states / np.sqrt((states**2).mean(axis=1, keepdims=True) + head.norm_epsilon)
    normed = normed * (head.norm_weight.astype(np.float64) + head.weight_offset)
    if head.norm_bias is not None:
        normed = normed + head.norm_bias
    logits = normed @ values.astype(np.float64).T
    if bias is not None:
        logits = logits + bias
    if head.logit_scale is not None:
        logits = logits * head.logit_scale
    if head.logit_softcap is not None:
        logits = np.tanh(logits / head.logit_softcap) * head.logit_softcap
    return logits
