"""The examples of capturing with other tools store what the model's own hidden states say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import tistore

PROJECT = Path(__file__).parents[2]
PROMPT, ANSWER = "Please explain why bread rises", "; nobody had expected it, 日本語."

TOOLS = [
    pytest.param("hooks", "torch"),
    pytest.param("transformer_lens", "transformer_lens"),
    pytest.param("nnsight", "nnsight"),
]


def load_example(tool):
    path = PROJECT / "examples" / f"capture_with_{tool}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("tool", "package"), TOOLS)
def test_an_example_stores_what_the_blocks_put_out(
    tmp_path, build_model, build_tokenizer, tool, package
):
    """Residual at L is `hidden_states[L + 1]`; the last one there is after the final norm."""
    pytest.importorskip(package, reason=f"{package} is not installed")
    model, tokenizer = build_model(), build_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    load_example(tool).main(str(tmp_path / "model"), tmp_path / "s.tistore", PROMPT, ANSWER)

    store = tistore.open(tmp_path / "s.tistore")
    (row,) = store.snapshot.segments[0].table("responses").to_pylist()
    prompt_ids = tokenizer(PROMPT)["input_ids"]
    assert row["token_ids"][: row["prompt_length"]] == prompt_ids
    assert (row["text"], row["rows"]) == (ANSWER, "response")
    with torch.no_grad():
        states = model(torch.tensor([row["token_ids"]]), output_hidden_states=True).hidden_states
    n_blocks = model.config.num_hidden_layers
    for layer in range(n_blocks):
        stored = store.activations(row["response_id"], reader="mine", layer=layer)
        seen = torch.from_numpy(stored.astype(np.float32))
        if layer == n_blocks - 1:
            seen = model.model.norm(seen).detach()
        expected = states[layer + 1][0, len(prompt_ids) :]
        np.testing.assert_allclose(seen, expected, rtol=2e-3, atol=2e-3)
    clauses = store.sql("SELECT text FROM clauses ORDER BY clause").fetchall()
    assert [text for (text,) in clauses] == ["; nobody had expected it,", "日本語."]


def test_the_documented_code_is_that_of_the_examples():
    text = (PROJECT / "docs" / "capturing-elsewhere.md").read_text()
    examples = [path.read_text() for path in (PROJECT / "examples").glob("capture_with_*.py")]

    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)

    assert len(blocks) >= 4
    for block in blocks:
        assert any(block in re.sub(r"^    ", "", example, flags=re.M) or block in example
                   for example in examples), block  # fmt: skip
