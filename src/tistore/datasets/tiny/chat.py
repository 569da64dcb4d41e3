"""The chat format of the tiny language: its special tokens, and one rendering in two forms."""

from collections.abc import Sequence

BOS = "<s>"
EOS = "</s>"
PAD = "<pad>"
SPECIAL_TOKENS: tuple[str, ...] = (PAD, BOS, EOS, "<|system|>", "<|user|>", "<|assistant|>")
GENERATION_PROMPT = "<|assistant|>"

# The template writes the one BOS; the tokenizer adds no special token of its own.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + eos_token -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def render_conversation(
    messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = False
) -> str:
    """Render messages exactly as `CHAT_TEMPLATE` does."""
    turns = [f"<|{message['role']}|>{message['content']}{EOS}" for message in messages]
    return BOS + "".join(turns) + (GENERATION_PROMPT if add_generation_prompt else "")
