"""Tokens spelled from ids join to exactly what the tokenizer decodes, in every family."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import base64
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken._educational import bpe_train
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tistore
from tistore.errors import ConfigError, InvalidRecordError, ModelLoadError
from tistore.exchange.token_strings import TokenStrings

CORPUS = [
    "The river rose quickly after three days of rain, and nobody had expected it.",
    "Please explain why bread rises; I don't know what yeast does.",
    "Großes naïve café — ünïcode 日本語 🙂 и немного кириллицы.",
    "She said: “no”, then left. 1, 2, 3, go!",
] * 8
SPECIAL = ("<unk>", "<s>", "</s>", "[CLS]", "[SEP]")
END = 2
# The pattern that transformers gives every tiktoken file: GPT-4's, and Llama 3's.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = st.sampled_from(
    ["The river ", "🙂", "👩‍👩‍👧", "日本語", "漢字", "e\u0301", "ñ", "\n\n", "\n", " ", "  ", "\t",
     "don't", " ,x", "\ufffd", "\U0010ffff", " .", "नमस्ते", "</s>"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=30), st.lists(PIECES, max_size=12).map("".join))


def _byte_level(folder: Path) -> None:
    """As GPT-2, Qwen and OLMo have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, trainers.BpeTrainer, folder, initial_alphabet=alphabet)


def _unigram(folder: Path) -> None:
    """As T5 and XLM-R have it: SentencePiece's unigram, a space before the first word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    _train(tokenizer, trainers.UnigramTrainer, folder, unk_token="<unk>")


def _word_piece(folder: Path) -> None:
    """As BERT has it, whose decoder tidies spaces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    _train(tokenizer, trainers.WordPieceTrainer, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    tokenizer.save(str(folder / "tokenizer.json"))


def _byte_fallback(folder: Path) -> None:
    """As Llama 2, Mistral and Gemma have it: rare characters are bytes, a token each."""
    special = list(SPECIAL)
    vocabulary = {token: index for index, token in enumerate(special)}
    vocabulary |= {f"<0x{byte:02X}>": len(special) + byte for byte in range(256)}
    letters = sorted(set("▁" + "".join(CORPUS[:2]).replace(" ", "")))
    vocabulary |= {letter: len(vocabulary) + i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def _tiktoken(folder: Path) -> None:
    """As Llama 3's `original` folder has it: ranks alone, the pattern being transformers'."""
    ranks = _ranks()
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    (folder / "tiktoken.model").write_bytes(b"".join(lines))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "vocab_file": "tiktoken.model",
        "eos_token": "</s>",
        "added_tokens_decoder": {
            str(len(ranks)): {"content": "</s>", "special": True},
            str(len(ranks) + 1): {"content": "<think>", "special": False},
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _sentencepiece(folder: Path) -> None:
    """A `.model` of SentencePiece's own, which transformers reads with protobuf."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        character_coverage=0.98,
        minloglevel=2,
    )
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _train(tokenizer: Tokenizer, trainer: Any, folder: Path, **options: Any) -> None:
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    trained = trainer(vocab_size=400, special_tokens=special, show_progress=False, **options)
    tokenizer.train_from_iterator(CORPUS, trained)
    tokenizer.save(str(folder / "tokenizer.json"))


@cache
def _ranks() -> dict[bytes, int]:
    ranks: dict[bytes, int] = bpe_train("\n".join(CORPUS), 400, PATTERN, visualise=None)
    return ranks


FAMILIES: dict[str, Callable[[Path], None]] = {
    "byte-level": _byte_level,
    "unigram": _unigram,
    "word-piece": _word_piece,
    "byte-fallback": _byte_fallback,
    "tiktoken": _tiktoken,
    "sentencepiece": _sentencepiece,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return folder


@pytest.fixture(scope="module")
def strings(family: Path) -> TokenStrings:
    return TokenStrings.load(family)


@pytest.fixture(scope="module")
def oracle(family: Path) -> Any:
    """The tokenizer, opened the plain way."""
    if (family / "tokenizer.json").exists():
        return PreTrainedTokenizerFast(tokenizer_file=str(family / "tokenizer.json"))
    return open_plainly(family)


def open_plainly(folder: Path) -> Any:
    """Open a tokenizer as transformers does, tiktoken's cache of what it once read left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        return AutoTokenizer.from_pretrained(str(folder))


def is_left_out(oracle: Any, token_id: int) -> bool:
    """Whether decoding without special tokens leaves the token out, whatever it is called."""
    marked = {i for i, token in oracle.added_tokens_decoder.items() if token.special}
    return token_id in marked or bool(
        token_id in oracle.added_tokens_decoder
        and not oracle.decode([token_id], skip_special_tokens=True)
        and oracle.decode([token_id])
    )


def check(strings: TokenStrings, oracle: Any, prompt: list[int], response: list[int]) -> None:
    spelled = strings.spell([*prompt, *response], len(prompt))

    text = oracle.decode(response, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    special = {i for i in {*prompt, *response} if is_left_out(oracle, i)}
    own = spelled.tokens[len(prompt) :]
    assert spelled.text == text
    assert "".join(t for i, t in zip(response, own, strict=True) if i not in special) == text
    written = [spelled.text[start:end] for start, end in spelled.offsets]
    assert written == ["" if i in special else t for i, t in zip(response, own, strict=True)]
    assert [t for i, t in zip(response, own, strict=True) if i in special] == [
        oracle.convert_ids_to_tokens(i) for i in response if i in special
    ]
    prompt_text = oracle.decode(
        prompt, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    own_prompt = zip(prompt, spelled.tokens[: len(prompt)], strict=True)
    assert "".join(t for i, t in own_prompt if i not in special) == prompt_text


@settings(max_examples=60, deadline=None)
@given(prompt=TEXTS, response=TEXTS)
@example(prompt="", response="🙂🙂 日本 🙂x")
@example(prompt="What now?", response=" leading space\n\nand e\u0301 combined .")
def test_tokens_join_to_the_decoded_text(
    strings: TokenStrings, oracle: Any, prompt: str, response: str
):
    halves = [oracle(text, add_special_tokens=False)["input_ids"] for text in (prompt, response)]

    check(strings, oracle, *halves)


@settings(max_examples=60, deadline=None)
@given(choices=st.lists(st.integers(0, 10**6), max_size=24), cut=st.integers(0, 24))
def test_any_ids_join_too(strings: TokenStrings, oracle: Any, choices: list[int], cut: int):
    """Models write halves of characters, and special tokens in odd places."""
    ids = [choice % len(oracle) for choice in choices]

    check(strings, oracle, ids[:cut], ids[cut:])


TEXT = " Well 🙂🙂, I don't know — naïve 日本語, e\u0301!\n\nThe end"
KNOWN_LETTERS = "She don't know — naïve 日本語, и go!"


def test_tokens_in_a_store_join_to_the_response(strings: TokenStrings, oracle: Any, tmp_path: Path):
    unknown = oracle.convert_tokens_to_ids("<unk>")
    encoded = oracle(TEXT, add_special_tokens=False)["input_ids"]
    if unknown in encoded:  # families without bytes know no letters but their corpus's
        encoded = oracle(KNOWN_LETTERS, add_special_tokens=False)["input_ids"]
    ids = [*oracle("What now?", add_special_tokens=False)["input_ids"], *encoded]
    prompt_length = len(ids) - len(encoded)
    spelled = strings.spell(ids, prompt_length)
    store = tistore.create(tmp_path / "a.tistore")

    with store.writer() as writer:
        writer.add(
            organism="m",
            reader="m",
            prompt_set="s",
            prompt_id="1",
            token_ids=ids,
            prompt_length=prompt_length,
            layers=[0],
            activations={"residual": np.ones((len(ids), 1, 4), np.float16)},
            tokens=spelled.tokens,
            text=spelled.text,
            offsets=spelled.offsets,
        )

    text = oracle.decode(encoded, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "日" in text and "—" in text
    assert store.sql("SELECT text FROM responses").fetchall() == [(text,)]
    joined = "SELECT string_agg(token, '' ORDER BY position) FROM tokens WHERE is_response"
    assert store.sql(joined).fetchall() == [(text,)]
    tokens = store.sql(
        "SELECT token, char_start, char_end FROM tokens WHERE is_response ORDER BY position"
    ).fetchall()
    assert [text[start:end] for _, start, end in tokens] == [token for token, _, _ in tokens]


def test_ranks_of_tiktoken_spell_as_tiktoken_itself_decodes(tmp_path: Path):
    _tiktoken(tmp_path)
    encoding = tiktoken.Encoding(
        "own", pat_str=PATTERN, mergeable_ranks=_ranks(), special_tokens={"</s>": len(_ranks())}
    )
    ids = encoding.encode(TEXT)

    spelled = TokenStrings.load(tmp_path).spell([*ids, len(_ranks())], 0)

    assert spelled.text == TEXT == encoding.decode(ids)
    assert spelled.tokens[-1] == "</s>"
    whole = [t for t in encoding.decode_tokens_bytes(ids) if t.isascii()]
    assert [t.encode() for t in spelled.tokens if t and t.isascii()][:-1] == whole


def test_a_file_of_ranks_written_anew_is_read_anew(tmp_path: Path, monkeypatch: Any):
    """tiktoken keeps what it once read at a path, whatever lies there now."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    _tiktoken(tmp_path)
    ids = list(range(len(_ranks())))
    before = TokenStrings.load(tmp_path).spell(ids, 0)
    lines = (tmp_path / "tiktoken.model").read_bytes().split(b"\n")[:-1]
    names = [line.split()[0] for line in lines]
    names[300], names[301] = names[301], names[300]
    changed = (name + b" %d\n" % rank for rank, name in enumerate(names))
    (tmp_path / "tiktoken.model").write_bytes(b"".join(changed))

    after = TokenStrings.load(tmp_path).spell(ids, 0)

    assert before.tokens[300] != after.tokens[300] == before.tokens[301]
    assert not (tmp_path / "cache").exists()


def test_a_tokenizer_json_alone_will_do(tmp_path: Path):
    _byte_level(tmp_path)
    by_folder = TokenStrings.load(tmp_path)

    by_file = TokenStrings.load(tmp_path / "tokenizer.json")

    assert by_file.spell([1, 9, 80, END], 2) == by_folder.spell([1, 9, 80, END], 2)


def test_added_tokens_that_are_no_marks_are_part_of_the_text(tmp_path: Path):
    """Reasoning models write `<think>` as one token, which decoding keeps."""
    _byte_level(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_tokens(["<think>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    think = tokenizer.token_to_id("<think>")

    spelled = TokenStrings.load(tmp_path).spell([think, 60, END], 0)

    assert spelled.tokens[0] == "<think>" and spelled.tokens[2] == "</s>"
    assert spelled.text == spelled.tokens[0] + spelled.tokens[1]


def test_an_added_word_that_decoding_leaves_out_is_not_part_of_the_text(tmp_path: Path):
    """transformers takes every token beyond tiktoken's ranks for a mark, whatever the config."""
    _tiktoken(tmp_path)
    ids = [len(_ranks()) + 1, 60, len(_ranks())]

    spelled = TokenStrings.load(tmp_path).spell(ids, 0)

    assert spelled.tokens == ("<think>", spelled.text, "</s>")
    tokenizer = open_plainly(tmp_path)
    assert spelled.text == tokenizer.decode(ids, skip_special_tokens=True)


def test_ids_of_another_tokenizer_are_refused(tmp_path: Path):
    _byte_level(tmp_path)
    strings = TokenStrings.load(tmp_path)

    with pytest.raises(InvalidRecordError, match="token id 128009 is none of the"):
        strings.spell([5, 128009], 1)


def _broken(folder: Path) -> Iterator[tuple[Path, type[Exception]]]:
    yield folder / "nothing", ConfigError
    (folder / "empty").mkdir()
    yield folder / "empty", ModelLoadError
    (folder / "vocabulary.model").write_bytes(b"x")
    yield folder / "vocabulary.model", ConfigError
    for name, content in {"cut": '{"model": {', "other": "{}", "list": "[1]"}.items():
        (folder / f"{name}.json").write_text(content)
        yield folder / f"{name}.json", ModelLoadError
    (folder / "code").mkdir()
    (folder / "code" / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"})
    )
    (folder / "code" / "evil.py").write_text("raise SystemExit('ran')")
    yield folder / "code", ModelLoadError


def test_what_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path):
    for path, error in _broken(tmp_path):
        with pytest.raises(error) as raised:
            TokenStrings.load(path)

        assert str(path) in str(raised.value)
        assert raised.value.mend
