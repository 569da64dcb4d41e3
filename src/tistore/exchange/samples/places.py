"""Where a foreign sample belongs in a store: what its file says, and what the user adds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from tistore.capture.layers import split_spans
from tistore.datasets.foreign.identity import SampleIdentity
from tistore.datasets.foreign.sample import ForeignSample
from tistore.datasets.trait_interp.documents import MAX_DEPTH
from tistore.errors import ConfigError, DatasetError, nearest
from tistore.schemas.model import Model
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import CaptureSettings, ResponseSlot, Rows, identify_reading
from tistore.schemas.site import COMPONENTS, Component

RowConvention = Literal["at-token", "predicting"]
"""What row t is: the state at token t, or the state from which token t was predicted, which is
that at the token before it."""


@dataclass(frozen=True, slots=True)
class Supplied:
    """
    What the user says of all samples of a source.

    Attributes:
        identity: Fields that the files may leave out; one that contradicts a file is an error.
        row_convention: How the files count rows.
    """

    identity: SampleIdentity = SampleIdentity()
    row_convention: RowConvention = "at-token"


def parse_layers(text: str) -> tuple[int, ...]:
    """
    Read block numbers as people write them: "20,26", "5-20", "0-75:5".

    Raises:
        ConfigError: It is something else, or not ascending.
    """
    layers: list[int] = []
    for item in split_spans(text):
        if item == "all" or "%" in item:
            raise ConfigError(
                f"--layers {text}: {item} depends on a model, and a file does not tell its size",
                mend='write block numbers: "26", "20,26", "5-20"',
            )
        ends, _, step = item.partition(":")
        first, _, last = ends.partition("-")
        layers += range(int(first), int(last or first) + 1, int(step or 1))
    if any(before >= after for before, after in zip(layers, layers[1:], strict=False)):
        raise ConfigError(f"--layers {text}: blocks are not ascending", mend="sort them")
    return tuple(layers)


@dataclass(frozen=True, slots=True)
class Place:
    """
    A sample as `Writer.add` wants it, its activations aside.

    Attributes:
        slot: Place of the response.
        organism: Its author, by name or as a record.
        reader: Whose activations they are.
        prompt_length: How many of the token ids are the prompt's.
        layers: Block numbers of the layer axis.
        components: For each component, the name of its array in the sample.
        skipped_rows: Rows at the start that belong to no token of the sample.
        first_position: Position of the first row that is kept; None where it follows from the
            number of rows.
        reading_key: Key of the reading in the store.
        tokens: A string for each token, where at least one is known.
        is_response: Which tokens are under audit, where the file says.
        prompt: The prompt's content, where the file has it.
    """

    slot: ResponseSlot
    organism: str | Model
    reader: str | Model
    prompt_length: int
    layers: tuple[int, ...]
    components: Mapping[Component, str | None]
    skipped_rows: int
    first_position: int | None
    reading_key: str
    tokens: Sequence[str] | None
    is_response: tuple[bool, ...] | None
    prompt: Prompt | None

    @property
    def reader_name(self) -> str:
        """What the reader is called."""
        return self.reader.name if isinstance(self.reader, Model) else self.reader


def place_sample(sample: ForeignSample, supplied: Supplied) -> Place:
    """
    Find where a sample belongs.

    Raises:
        DatasetError: Neither the file nor the user says something that is needed, or they
            contradict each other.
    """
    told = _Told(sample, supplied.identity)
    slot = ResponseSlot(
        told.require("organism"),
        told.require("prompt_set"),
        told.get("prompt_id") or sample.default_id,
        told.get("sample") or 0,
    )
    reader = told.get("reader") or slot.organism
    prompt_length = told.require("prompt_length")
    layers = _find_layers(sample, told)
    components = _find_components(sample, told)
    first, skipped = _place_rows(sample, prompt_length, told, supplied.row_convention)
    rows = _name_rows(sample, first)
    settings = CaptureSettings(layers, tuple(sorted(components)), rows)
    kept = slice(first or 0, (first or 0) + sample.n_rows - skipped)
    return Place(
        slot=slot,
        organism=_find_model(sample, "organism_model", slot.organism),
        reader=_find_model(sample, "reader_model", reader),
        prompt_length=prompt_length,
        layers=layers,
        components=components,
        skipped_rows=skipped,
        first_position=first,
        reading_key=identify_reading(slot, reader, settings),
        tokens=_find_tokens(sample.identity),
        is_response=_mark_kept(
            sample.identity.is_response, kept.stop if first is not None else None
        ),
        prompt=_find_prompt(sample, slot),
    )


class _Told:
    """A field of what the file says; of what the user says where the file is silent."""

    def __init__(self, sample: ForeignSample, given: SampleIdentity) -> None:
        self._sample = sample
        self._given = given

    def get(self, name: str) -> Any:
        """
        Look a field up.

        Raises:
            DatasetError: File and user contradict each other.
        """
        by_file, by_user = getattr(self._sample.identity, name), getattr(self._given, name)
        if by_file is not None and by_user is not None and by_file != by_user:
            raise DatasetError(
                f"{self._sample.where}: its {name} is {by_file!r}, and {_option(name)} says "
                f"{by_user!r}",
                mend=f"leave {_option(name)} out: what a file says of itself holds",
            )
        return by_user if by_file is None else by_file

    def require(self, name: str) -> Any:
        """
        Look a field up that is needed.

        Raises:
            DatasetError: Nobody says it.
        """
        value = self.get(name)
        if value is None:
            raise DatasetError(
                f"{self._sample.where} does not say its {name}", mend=f"say it: {_option(name)}"
            )
        return value


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _find_layers(sample: ForeignSample, told: _Told) -> tuple[int, ...]:
    layers: tuple[int, ...] = told.require("layers")
    if len(layers) != sample.n_layers:
        raise DatasetError(
            f"{sample.where}: its activations have {sample.n_layers} layers, but layers "
            f"{', '.join(map(str, layers))} are named",
            mend="name the block of every place on the layer axis, in order: --layers",
        )
    return layers


def _find_components(sample: ForeignSample, told: _Told) -> dict[Component, str | None]:
    named = told.get("component")
    if named is not None and named not in COMPONENTS:
        raise DatasetError(
            f"{sample.where}: no component {named!r}; {nearest(named, COMPONENTS)}",
            mend="only these are stored",
        )
    if None in sample.arrays:
        return {cast(Component, named or "residual"): None}
    if named is not None and set(sample.arrays) != {named}:
        held = ", ".join(sorted(map(str, sample.arrays)))
        raise DatasetError(
            f"{sample.where} holds {held}, and {named} is named", mend="leave --component out"
        )
    return {cast(Component, name): name for name in sample.arrays}


def _place_rows(
    sample: ForeignSample, prompt_length: int, told: _Told, convention: RowConvention
) -> tuple[int | None, int]:
    """
    Tell the position of the first row that is kept, and how many rows before it are not.

    Where a row is the state that predicts token t, it is the state at token t - 1. The first row
    then belongs to the token before the first: to none, or to the prompt's last, whose state is
    there a second time where the prompt is. It is dropped, and the last token has no row.
    """
    first: int | None = told.get("first_position")
    n_ids = len(sample.token_ids)
    if convention == "at-token":
        return first, 0
    if first is None:
        starts = {n_ids: 0, n_ids - prompt_length: prompt_length}
        first = starts.get(sample.n_rows)
    if first is None or sample.n_rows < 2:
        raise DatasetError(
            f"{sample.where}: {sample.n_rows} rows that predict tokens, and {n_ids} tokens, "
            f"{prompt_length} of them the prompt's",
            mend="say which token row 0 predicts: --first-position",
        )
    return first, 1


def _name_rows(sample: ForeignSample, first: int | None) -> Rows:
    """Tell what rows there are, as the store will."""
    if first is None:
        return "all" if sample.n_rows == len(sample.token_ids) else "response"
    return "all" if first == 0 else "response"


def _find_tokens(identity: SampleIdentity) -> Sequence[str] | None:
    tokens = identity.tokens
    if tokens is None or all(token is None for token in tokens):
        return None
    return cast(Sequence[str], tokens)


def _mark_kept(marks: tuple[bool, ...] | None, stop: int | None) -> tuple[bool, ...] | None:
    """Take marks off the tokens behind the last row, where rows are known to end before them."""
    if marks is None or stop is None:
        return marks
    return tuple(mark and place < stop for place, mark in enumerate(marks))


def _find_model(sample: ForeignSample, name: str, called: str) -> str | Model:
    row: Mapping[str, Any] | None = getattr(sample.identity, name)
    if row is None:
        return called
    known = {field.name: row.get(field.name) for field in fields(Model)}
    wrong = [key for key, value in known.items() if not isinstance(value, str | None)]
    if wrong or known["name"] != called:
        raise DatasetError(
            f"{sample.where}: {name!r} is no record of {called}: "
            f"{wrong[0] if wrong else 'name'} is {row.get(wrong[0] if wrong else 'name')!r}",
            mend="leave the record out",
        )
    model = Model(**known)  # type: ignore[arg-type]  # checked above
    if row.get("fingerprint") not in (None, model.fingerprint):
        raise DatasetError(
            f"{sample.where}: {name!r} does not have the fingerprint it names",
            mend="leave the record out, or only its fingerprint",
        )
    return model


def _find_prompt(sample: ForeignSample, slot: ResponseSlot) -> Prompt | None:
    """Build the prompt's record; alone, or as the conversation that its row spells out."""
    row = sample.identity.prompt
    if row is None:
        return None
    where = f"{sample.where}: 'prompt'"
    texts = {name: row.get(name) for name in ("text", "system_prompt", "note")}
    tags = row.get("tags") or []
    if not isinstance(texts["text"], str) or not all(
        isinstance(value, str | None) for value in (*texts.values(), *tags)
    ):
        raise DatasetError(f"{where} has no text, or what is no text", mend="leave it out")
    messages = _find_messages(row.get("messages"), where)
    tools = _find_objects(row.get("tools"), "tools", where)
    alone = [{"role": "user", "content": texts["text"]}]
    prompts = [
        Prompt(
            slot.prompt_set,
            slot.prompt_id,
            texts["text"],
            conversation,
            texts["system_prompt"],
            texts["note"],
            tuple(tags),
            tuple(tools),
        )
        for conversation in ([()] if messages == alone else []) + [tuple(messages)]
    ]
    # A row spells the conversation out even where the text was all of it.
    named = row.get("content_hash")
    for prompt in prompts:
        if named in (None, prompt.content_hash):
            return prompt
    raise DatasetError(
        f"{where} does not have the content_hash it names", mend="leave the hash out"
    )


def _find_messages(value: object, where: str) -> list[Mapping[str, Any]]:
    """Read a conversation; what stands beside a message's content is kept as it is."""
    messages = _find_objects(value, "messages", where)
    if not all(
        isinstance(message.get("role"), str) and isinstance(message.get("content"), str | None)
        for message in messages
    ):
        raise DatasetError(
            f"{where} has messages without a role, or whose content is no text",
            mend="leave it out",
        )
    return messages


def _find_objects(value: object, name: str, where: str) -> list[Mapping[str, Any]]:
    try:
        objects = json.loads(value) if isinstance(value, str) else value or []
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} has {name} that are no JSON", mend="leave it out") from error
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise DatasetError(f"{where} has {name} that are no list of objects", mend="leave it out")
    if _is_deeper(objects, MAX_DEPTH):
        raise DatasetError(f"{where} has {name} that nest too deep", mend="leave it out")
    return objects


def _is_deeper(value: object, depth: int) -> bool:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(_is_deeper(one, depth - 1) for one in below)
