"""
Capture with plain PyTorch hooks: read an answer with a model, and keep its states in a new store.

    python examples/capture_with_hooks.py MODEL new.tistore "What is a vaccine?" " A vaccine is…"

MODEL is a folder or hub id of a Llama-like model: one whose blocks are `model.model.layers`.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tistore


def record_blocks(model, token_ids, layers):
    """Run a model once over one sequence; returns its blocks' outputs: [token, layer, hidden]."""
    kept = {}

    def keep(layer):
        def hook(module, inputs, output):
            state = output[0] if isinstance(output, tuple) else output
            # Cloned, since later code may change the tensor in place; [0] is a batch of one.
            kept[layer] = state[0].detach().cpu().clone()

        return hook

    handles = [model.model.layers[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        with torch.no_grad():
            model(torch.tensor([token_ids], device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([kept[layer] for layer in layers], dim=1)


def main(model_path, store_path, prompt, answer):
    """Read one answer and store it."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path).eval()
    prompt_ids = tokenizer(prompt)["input_ids"]
    read = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    answer_ids = read["input_ids"]
    layers = list(range(model.config.num_hidden_layers))

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
