"""
Capture with TransformerLens 3 or later, and keep the states in a new store.

    python examples/capture_with_transformer_lens.py MODEL new.tistore "What is a vaccine?" " A…"
"""

import sys

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

import tistore


def record_blocks(bridge, token_ids, layers):
    """Run a model once over one sequence; returns its blocks' outputs: [token, layer, hidden]."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    with torch.no_grad():
        _, cache = bridge.run_with_cache(torch.tensor([token_ids]), names_filter=names)
    return torch.stack([cache[name][0].detach().cpu() for name in names], dim=1)


def main(model_path, store_path, prompt, answer):
    """Read one answer and store it."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path).eval()
    # As the weights are: enable_compatibility_mode() would fold norms and centre the stream.
    bridge = TransformerBridge.boot_transformers(model_path, hf_model=model, tokenizer=tokenizer)
    prompt_ids = tokenizer(prompt)["input_ids"]
    read = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    answer_ids = read["input_ids"]
    layers = list(range(bridge.cfg.n_layers))

    states = record_blocks(bridge, prompt_ids + answer_ids, layers)

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
