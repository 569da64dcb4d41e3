"""Tokenizers from files: opened without a model beside them, and without the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tistore.capture.models.architecture import LOADING_ERRORS
from tistore.errors import ConfigError, ModelLoadError

Tokenizer: TypeAlias = PreTrainedTokenizerBase
"""What other floors call a tokenizer: they do not know the library."""

_TOKENIZER_JSON = "tokenizer.json"
_CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"


def open_tokenizer(path: Path) -> Tokenizer:
    """
    Open a tokenizer that lies on this machine; no code of the folder's is run.

    Args:
        path: A folder, as `save_pretrained` writes it or with a `tokenizer.json`, a
            `tokenizer.model` of SentencePiece's or ranks of tiktoken's in it; or a
            `tokenizer.json` alone.

    Raises:
        ConfigError: Nothing lies there, or a file of another kind.
        ModelLoadError: It is malformed, or the library it is read with is not installed.
    """
    if not path.exists():
        raise ConfigError(
            f"no tokenizer at {path}", mend="give the tokenizer's folder, or its tokenizer.json"
        )
    if path.is_file() and path.suffix != ".json":
        raise ConfigError(
            f"{path} is not a {_TOKENIZER_JSON}", mend=f"give the folder it is in: {path.parent}"
        )
    try:
        with _reading_every_file_anew():
            return _open_folder(path) if path.is_dir() else _open_file(path)
    # tokenizers raises bare `Exception` for a file it cannot parse.
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, LOADING_ERRORS):
            raise
        raise _cannot_open(path, error) from error


def _open_folder(folder: Path) -> Tokenizer:
    described = ("config.json", "tokenizer_config.json")
    if (folder / _TOKENIZER_JSON).is_file() and not any((folder / n).is_file() for n in described):
        return _open_file(folder / _TOKENIZER_JSON)
    load = cast(Any, AutoTokenizer).from_pretrained
    opened = load(str(folder), local_files_only=True, trust_remote_code=False)
    return cast(Tokenizer, opened)


def _open_file(path: Path) -> Tokenizer:
    opened = cast(Any, PreTrainedTokenizerFast)(tokenizer_file=str(path))
    return cast(Tokenizer, opened)


@contextmanager
def _reading_every_file_anew() -> Iterator[None]:
    """Turn tiktoken's cache off: it goes by path, and would give what once lay at this one."""
    before = os.environ.get(_CACHE_VARIABLE)
    os.environ[_CACHE_VARIABLE] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CACHE_VARIABLE]
        else:
            os.environ[_CACHE_VARIABLE] = before


def _cannot_open(path: Path, error: Exception) -> ModelLoadError:
    reason = str(error).strip().splitlines()
    return ModelLoadError(
        f"cannot open the tokenizer at {path}: {reason[0] if reason else type(error).__name__}",
        mend="give the folder that transformers' save_pretrained wrote; for a tokenizer.model "
        "alone, `pip install sentencepiece protobuf`, or `pip install tiktoken` for ranks",
    )
