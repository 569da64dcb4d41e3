"""A response's JSON, read beside its activations."""

from __future__ import annotations

from dataclasses import dataclass

from tistore.datasets.trait_interp.files import ResponseFile
from tistore.datasets.trait_interp.responses import Response, read_response
from tistore.errors import DatasetError
from tistore.exchange.trait_interp.past import FileStamp, stamp_file
from tistore.exchange.trait_interp.seen import explain


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """
    The JSON of a response, read or refused.

    Attributes:
        file: The file.
        response: What it says; None where it was refused.
        stamp: What the file was; None where it could not be read.
        reason: Why it was refused; None where it was not.
    """

    file: ResponseFile
    response: Response | None
    stamp: FileStamp | None
    reason: str | None = None


def read_response_document(
    file: ResponseFile, token_ids: tuple[int, ...], prompt_length: int | None
) -> ReadDocument:
    """
    Read the JSON of a response, and refuse it where its tokens are not the activations'.

    Args:
        file: The file.
        token_ids: Ids the activations have; empty where there are none.
        prompt_length: How many of them are the prompt's.
    """
    try:
        stamp = stamp_file(file.path)
        response = read_response(file.path)
    except DatasetError as error:
        return ReadDocument(file, None, None, explain(error, file.path))
    ids, length = response.token_ids, response.prompt_length
    if token_ids and ids and (ids != token_ids or length not in (None, prompt_length)):
        reason = "its tokens are not those of the activations of this response"
        return ReadDocument(file, None, stamp, reason)
    return ReadDocument(file, response, stamp)
