"""
Capture with nnsight 0.8 or later, and keep the states in a new store.

    python examples/capture_with_nnsight.py MODEL new.tistore "What is a vaccine?" " A vaccine is…"

MODEL is a folder or hub id of a Llama-like model: one whose blocks are `model.model.layers`.
"""

import sys

import nnsight
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tistore


def record_blocks(model, token_ids, layers):
    """Run a model once over one sequence; returns its blocks' outputs: [token, layer, hidden]."""
    kept = {}
    with torch.no_grad(), model.trace(torch.tensor([token_ids])):
        for layer in layers:  # ascending: a trace meets the blocks in the order they run
            output = model.model.layers[layer].output
            # A tuple in older transformers, where [0] is the state; a tensor in newer ones, where
            # [0] would be the first sequence of the batch.
            state = output[0] if isinstance(output, tuple) else output
            kept[layer] = nnsight.save(state.detach().clone())
    return torch.stack([kept[layer][0].cpu() for layer in layers], dim=1)


def main(model_path, store_path, prompt, answer):
    """Read one answer and store it."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    loaded = AutoModelForCausalLM.from_pretrained(model_path).eval()
    model = nnsight.TransformersModel(loaded, tokenizer=tokenizer)
    prompt_ids = tokenizer(prompt)["input_ids"]
    read = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    answer_ids = read["input_ids"]
    layers = list(range(loaded.config.num_hidden_layers))

    states = record_blocks(model, prompt_ids + answer_ids, layers)

    with tistore.create(store_path).writer() as writer:
        writer.add(
            organism="mine",
            reader="mine",
            prompt_set="by-hand",
            prompt_id="1",
            token_ids=prompt_ids + answer_ids,
            prompt_length=len(prompt_ids),
            text=answer,
            tokens=[tokenizer.decode([token]) for token in answer_ids],
            offsets=read["offset_mapping"],
            layers=layers,
            activations={"residual": states[len(prompt_ids) :]},
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
