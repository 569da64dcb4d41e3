"""The lens at the last block is the model's own distribution, in every family."""

from __future__ import annotations

import numpy as np
import torch

import tistore
from tistore.capture.reading.heads import HeadKeeper
from tistore.capture.reading.hooks import record
from tistore.schemas.site import Site

IDS = [1, 5, 9, 30, 12, 77, 3, 200, 41, 8]
SITES = [Site("residual", layer) for layer in range(3)]


def test_the_lens_at_the_last_block_is_the_models_own_distribution(
    family: str, build_model, tokenizer, tmp_path
):
    model = build_model(family)
    with torch.no_grad(), record(model, SITES) as kept:
        logits = model(torch.tensor([IDS])).logits[0].double()
    states = np.stack([kept[site][0][0].numpy() for site in SITES], axis=1)
    store = tistore.create(tmp_path / "s")
    with store.writer() as writer:
        HeadKeeper(writer, tokenizer).keep("instruct", model)
        writer.add(
            organism="instruct", reader="instruct", prompt_set="p", prompt_id="1",
            token_ids=IDS, prompt_length=3, layers=[0, 1, 2], activations={"residual": states},
        )  # fmt: skip

    rows = store.sql("SELECT * FROM lens WHERE layer = 2 ORDER BY position").to_pandas()

    expected = torch.log_softmax(logits, dim=-1).numpy()
    own = expected[np.arange(len(IDS) - 1), IDS[1:]]
    spread = expected.max() - expected.min()  # states are stored as float16
    np.testing.assert_allclose(rows["lens_logprob"][:-1], own, atol=2e-3 * spread)
    ranks = (expected[:-1] > own[:, None]).sum(axis=1) + 1
    assert np.abs(rows["rank"][:-1] - ranks).max() <= 3
    assert (rows["rank"][:-1] == ranks).mean() > 0.5
    entropy = -(np.exp(expected) * expected).sum(axis=1)
    np.testing.assert_allclose(rows["entropy"], entropy, atol=2e-3 * spread)
    for row, logprobs in zip(rows.itertuples(), expected, strict=True):
        likeliest = np.exp(np.sort(logprobs)[::-1][:10])
        np.testing.assert_allclose(row.top_probabilities, likeliest, rtol=5e-3 * spread)
    assert rows["rank"].isna().tolist() == [False] * (len(IDS) - 1) + [True]


def test_at_other_layers_it_is_the_head_put_to_these_states(build_model, tokenizer, tmp_path):
    """By the model's own modules: its final norm and its unembedding."""
    model = build_model("llama")
    with torch.no_grad(), record(model, SITES) as kept:
        model(torch.tensor([IDS]))
        early = model.lm_head(model.model.norm(kept[SITES[0]][0][0].half().float()))
    store = tistore.create(tmp_path / "s")
    with store.writer() as writer:
        HeadKeeper(writer, tokenizer).keep("instruct", model)
        writer.add(
            organism="instruct", reader="instruct", prompt_set="p", prompt_id="1",
            token_ids=IDS, prompt_length=3, layers=[0],
            activations={"residual": kept[SITES[0]][0][0][:, None].numpy()},
        )  # fmt: skip

    rows = store.sql("SELECT * FROM lens ORDER BY position").to_pandas()

    logprobs = torch.log_softmax(early.double(), dim=-1).numpy()
    own = logprobs[np.arange(len(IDS) - 1), IDS[1:]]
    np.testing.assert_allclose(rows["lens_logprob"][:-1], own, atol=1e-4)
    assert rows["top_token_ids"].str[0].tolist() == early.argmax(-1).tolist()
