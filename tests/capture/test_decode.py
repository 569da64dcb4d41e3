"""Offsets point at exactly the characters a token wrote, whatever the tokenizer."""

from __future__ import annotations

import json
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tistore.capture.texts.decode import decode_tokens, spell

EOS = 2
PIECES = st.sampled_from(
    ["The river ", "🙂", "日本語", "é", "\n\n", " ", "ñ ", "\U0010ffff", "don't"]
)
TEXTS = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join))
IDS = st.lists(st.integers(min_value=0, max_value=399), max_size=30)


def check(tokenizer, token_ids: list[int]) -> None:
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
    plain = [token_id for token_id in token_ids if token_id not in special]

    decoded = decode_tokens(tokenizer, token_ids)

    oracle = tokenizer.decode(plain, clean_up_tokenization_spaces=False)
    assert decoded.text == oracle
    assert len(decoded.tokens) == len(decoded.offsets) == len(token_ids)
    written = [decoded.text[start:end] for start, end in decoded.offsets]
    assert "".join(written) == decoded.text
    ends = [0, *(end for _, end in decoded.offsets)]
    assert [start for start, _ in decoded.offsets] == ends[:-1]
    for token_id, token, text in zip(token_ids, decoded.tokens, written, strict=True):
        if token_id in special:
            assert text == "" and token == tokenizer.convert_ids_to_tokens(token_id)
        else:
            assert token == text


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
@example(text="a 🙂🙂 b")
@example(text="\ufffd real replacement \ufffd\ufffd")
def test_offsets_are_exact_for_any_text(build_tokenizer, tokenizer_kind: str, text: str):
    tokenizer = build_tokenizer(tokenizer_kind)

    check(tokenizer, [*tokenizer(text, add_special_tokens=False)["input_ids"], EOS])


@settings(max_examples=60, deadline=None)
@given(token_ids=IDS)
def test_offsets_are_exact_for_any_tokens(
    build_tokenizer, tokenizer_kind: str, token_ids: list[int]
):
    """Models write halves of characters, and special tokens in odd places."""
    tokenizer = build_tokenizer(tokenizer_kind)

    check(tokenizer, [token_id % len(tokenizer) for token_id in token_ids])


HOSTILE = [
    *(
        "👨‍👩‍👧‍👦",
        "e\u0301\u0323",
        "\u200f\u202eשלום",
        "\ufeff",
        "\x00\x1f",
        "\ufffd",
        "ﬁ",
        "\u2028\r\n",
    ),
    *(
        "\U0010ffff\ufdd0",
        "\u3000",
        "\xa0",
        "▁",
        "Ġ",
        "<0x41>",
        "<|im_end|>",
        "</s>",
        "한글",
        "🇩🇪",
        "a",
    ),
]


@cache
def make_other(kind: str) -> PreTrainedTokenizerFast:
    """Tokenizers built as those of families are: Gemma's, T5's, Llama 3's and Qwen's."""
    special = [AddedToken(token, special=True) for token in ("<pad>", "<s>", "</s>", "<unk>")]
    if kind == "gemma":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence(steps)
        byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            special_tokens=special, initial_alphabet=[], limit_alphabet=60, vocab_size=400
        )
    elif kind == "t5":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        byte_tokens = []
        trainer = trainers.UnigramTrainer(
            special_tokens=special, unk_token="<unk>", vocab_size=200, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.NFC() if kind == "qwen" else None
        words = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+"
        split = pre_tokenizers.Split(Regex(words), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
        tokenizer.decoder = decoders.ByteLevel()
        byte_tokens = []
        trainer = trainers.BpeTrainer(
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            vocab_size=400,
            show_progress=False,
        )
    tokenizer.train_from_iterator(["The river rose — naïve 日本語 🙂 don't 1, 23!\n"] * 8, trainer)
    if byte_tokens:
        pipeline = json.loads(tokenizer.to_str())
        known = pipeline["model"]["vocab"]
        known |= {token: len(known) + at for at, token in enumerate(byte_tokens)}
        tokenizer = Tokenizer.from_str(json.dumps(pipeline))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.mark.parametrize("kind", ["gemma", "llama3", "qwen", "t5"])
@settings(max_examples=60, deadline=None)
@given(
    text=st.one_of(st.text(max_size=30), st.lists(st.sampled_from(HOSTILE)).map("".join)),
    token_ids=IDS,
)
def test_offsets_are_exact_for_every_family_of_tokenizers(kind, text, token_ids):
    tokenizer = make_other(kind)

    check(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    check(tokenizer, [token_id % len(tokenizer) for token_id in token_ids])


def test_a_character_of_several_tokens_belongs_to_the_last(build_tokenizer):
    tokenizer = build_tokenizer("byte_level")
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("x", "ð", "Ł", "Ļ", "Ģ", "y")]
    assert tokenizer.decode(ids) == "x\U0001f640y"

    decoded = decode_tokens(tokenizer, [*ids, EOS])

    assert decoded.tokens == ("x", "", "", "", "\U0001f640", "y", "</s>")
    assert decoded.offsets == ((0, 1), (1, 1), (1, 1), (1, 1), (1, 2), (2, 3), (3, 3))


def test_text_cut_inside_a_character_keeps_what_decoding_gives(build_tokenizer):
    tokenizer = build_tokenizer("byte_level")
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("x", "ð", "Ł")]

    decoded = decode_tokens(tokenizer, ids)

    assert decoded.text == tokenizer.decode(ids)
    assert "".join(decoded.tokens) == decoded.text


def test_spell_is_right_for_decoders_that_look_far_back():
    """A decoder that groups letters from the start: no window of it decodes like the whole."""

    def decode(ids):
        return "".join((" " if i % 3 == 0 and i else "") + chr(97 + n) for i, n in enumerate(ids))

    text, strings = spell([0, 1, 2, 3, 4], decode)

    assert text == "abc de"
    assert strings == ["a", "b", "c", " d", "e"]


def test_a_long_text_cut_inside_a_character_is_decoded_anew_only_at_its_end(build_tokenizer):
    """Two characters of bytes, the second cut short, decode like neither of them alone."""
    tokenizer = build_tokenizer("metaspace")
    face = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    ids = [*tokenizer("a long text " * 200, add_special_tokens=False)["input_ids"], *face, *face]
    read = []

    def decode(token_ids):
        read.append(len(token_ids))
        return tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)

    text, strings = spell(ids[:-1], decode)

    assert text == "".join(strings) == tokenizer.decode(ids[:-1])
    assert sum(read) < 40 * len(ids)
