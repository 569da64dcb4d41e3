"""Whether prompts fit the model that is to answer them."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from tistore.capture.config import BaseConfig
from tistore.capture.running.workload import Question
from tistore.errors import CaptureError, ModelLoadError
from tistore.schemas.prompt import Prompt
from tistore.schemas.role import UNKNOWN_ROLE

_USUAL_SHARE = 0.8
"""Of a model's embeddings, how many its tokenizer knows at least; the others fill them up."""


def check_tokens(
    tokenizer: PreTrainedTokenizerBase, n_embeddings: int, base: BaseConfig
) -> list[str]:
    """
    Refuse a tokenizer whose vocabulary the model has no embeddings for.

    Tokens added behind the vocabulary, such as Gemma's for images, may lack one as long as no
    prompt holds them.

    Returns:
        What is odd, and no reason to stop.

    Raises:
        ModelLoadError: The tokenizer is another model's.
    """
    added = set(tokenizer.get_added_vocab().values())
    beyond = {i for i in tokenizer.get_vocab().values() if i >= n_embeddings}
    if beyond - added:
        raise ModelLoadError(
            f"the tokenizer of {base.path} has token ids up to {max(beyond - added)}, and the "
            f"model {n_embeddings} embeddings: it is another model's",
            mend="put the model's own tokenizer files into its folder",
        )
    if beyond:
        return [
            f"{len(beyond)} added tokens of {base.path} have no embedding; no prompt may hold them"
        ]
    if len(tokenizer) < _USUAL_SHARE * n_embeddings:
        return [
            f"the tokenizer of {base.path} knows {len(tokenizer)} tokens, and the model has "
            f"{n_embeddings} embeddings: make sure that it is this model's"
        ]
    return []


def check_texts(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], n_embeddings: int
) -> None:
    """
    Refuse prompts whose tokens the model cannot read, or that bring a second BOS along.

    Raises:
        CaptureError: One does; it is named.
    """
    for question in questions:
        largest = max(question.encoded.token_ids)
        if largest >= n_embeddings:
            token = tokenizer.convert_ids_to_tokens(largest)
            raise CaptureError(
                f"prompt {_name(question.prompt)} holds token {token!r} of id {largest}, and the "
                f"model has {n_embeddings} embeddings",
                mend="use the model's own tokenizer and chat template, or leave the prompt out",
            )
        if _brings_bos(tokenizer, question):
            raise CaptureError(
                f"prompt {_name(question.prompt)} would have two {tokenizer.bos_token} tokens: "
                "its own text has one, beside the one that every prompt begins with",
                mend=f"remove {tokenizer.bos_token} from the prompt's text",
            )


def check_context(
    architecture: PreTrainedConfig, questions: Sequence[Question], max_new_tokens: int
) -> None:
    """
    Refuse prompts that leave no room for an answer.

    Raises:
        CaptureError: One is too long; the longest is named.
    """
    context = getattr(architecture, "max_position_embeddings", None)
    lengths = {_name(q.prompt): len(q.encoded.token_ids) for q in questions}
    if context is None or not lengths:
        return
    too_long = [name for name, length in lengths.items() if length + max_new_tokens > context]
    if not too_long:
        return
    longest = max(too_long, key=lambda name: lengths[name])
    room = context - lengths[longest]
    lower = f"set max_new_tokens to {room} at most, or " if room > 0 else ""
    raise CaptureError(
        f"prompt {longest} has {lengths[longest]} tokens; with max_new_tokens = {max_new_tokens} "
        f"that is {lengths[longest] + max_new_tokens}, and the model reads {context} at most"
        + (f" ({len(too_long)} prompts in all)" if len(too_long) > 1 else ""),
        mend=f"{lower}leave it out with prompt_ids in its [[prompt_sets]] table, or use a base of "
        "a longer context",
    )


def _brings_bos(tokenizer: PreTrainedTokenizerBase, question: Question) -> bool:
    bos, encoded = tokenizer.bos_token_id, question.encoded
    # Families such as GPT-2 end and begin with one token, which stands between any two texts.
    if bos is None or bos == tokenizer.eos_token_id:
        return False
    roles = {
        role
        for token_id, role in zip(encoded.token_ids[1:], encoded.roles[1:], strict=True)
        if token_id == bos
    }
    if UNKNOWN_ROLE in roles:
        return any(str(tokenizer.bos_token) in text for text in _list_texts(question.prompt))
    # A template may well begin every turn with one.
    return bool(roles - {"template"})


def _list_texts(prompt: Prompt) -> list[str]:
    contents = [str(message.get("content") or "") for message in prompt.conversation]
    return [*contents, prompt.system_prompt or ""]


def _name(prompt: Prompt) -> str:
    return f"{prompt.prompt_set}#{prompt.prompt_id}"
