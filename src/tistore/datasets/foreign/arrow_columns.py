"""What the columns of a data set of activations mean, and their values as arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tistore.datasets.foreign.identity import FIELD_NAMES
from tistore.datasets.foreign.sample import ACTIVATION_NAMES, TOKEN_ID_NAMES
from tistore.datasets.torch_files.source import Refused
from tistore.schemas.site import COMPONENTS

PER_TOKEN = {
    "token": "tokens",
    "role": "roles",
    "turn": "turns",
    "is_response": "is_response",
    "logprob": "logprobs",
}
"""Columns of data sets with a row a token, and the field of the sample they make up."""

READING_KEY = "reading_key"

SAMPLE_KEYS = (READING_KEY, "sample_id", "response_id", "sequence_id")
"""Columns that tell samples apart, besides the fields of their identity."""

POSITION = "position"

_HOOKS = {
    "hook_resid_post": ("residual", 0),
    # What goes into a block is what came out of the one before.
    "hook_resid_pre": ("residual", -1),
    "hook_attn_out": ("attn_out", 0),
    "hook_mlp_out": ("mlp_out", 0),
}
_HOOK = re.compile(rf"blocks\.([0-9]{{1,4}})\.({'|'.join(_HOOKS)})")
_LAYER = re.compile(r"layer_([0-9]{1,4})")
_MOST_BLOCKS = 400

WANTED = (
    *(*FIELD_NAMES, *TOKEN_ID_NAMES, "token_id", "input_id"),
    *(*ACTIVATION_NAMES, *COMPONENTS, *PER_TOKEN, *SAMPLE_KEYS, POSITION),
    *(f"layer_{block}" for block in range(_MOST_BLOCKS)),
    *(f"blocks.{block}.{hook}" for block in range(_MOST_BLOCKS) for hook in _HOOKS),
)
"""Every column that is read, where it is there."""


@dataclass(frozen=True, slots=True)
class Columns:
    """
    The columns of one file.

    Attributes:
        token_ids: Column of token ids.
        is_row_a_token: A row is one token of a sample, not a sample.
        activations: For each component, None where it is not named, its columns: one of all
            layers, or one for each block number, ascending.
        layers: Those block numbers.
        fields: Columns that are fields of the identity.
    """

    token_ids: str
    is_row_a_token: bool
    activations: Mapping[str | None, tuple[str, ...]]
    layers: tuple[int, ...] | None
    fields: tuple[str, ...]

    @classmethod
    def find(cls, schema: pa.Schema) -> Columns:
        """
        Tell what a file's columns mean.

        Raises:
            Refused: Token ids or activations are missing, or are there twice.
        """
        names = schema.names
        holds_ids = {name for name in names if pa.types.is_integer(_leaf(schema.field(name).type))}
        # A column `tokens` holds ids or texts, by the tool that wrote it.
        candidates = (*TOKEN_ID_NAMES, "token_id", "input_id", "tokens")
        ids = [name for name in candidates if name in holds_ids]
        if len(ids) != 1:
            raise Refused(
                f"its columns of token ids are {', '.join(ids) or 'missing'}; there is "
                f"{_list(names)}",
                "name the one column of token ids token_ids",
            )
        activations, layers = _find_activations(names)
        fields = [name for name in cls.find_fields(schema) if name != ids[0]]
        is_row_a_token = pa.types.is_integer(schema.field(ids[0]).type)
        if is_row_a_token:
            fields = [name for name in fields if name not in PER_TOKEN.values()]
        return cls(ids[0], is_row_a_token, activations, layers, tuple(fields))

    @staticmethod
    def find_fields(schema: pa.Schema) -> list[str]:
        """List the columns that are fields of an identity."""
        return [name for name in FIELD_NAMES if name in schema.names]


def _find_activations(
    names: list[str],
) -> tuple[dict[str | None, tuple[str, ...]], tuple[int, ...] | None]:
    hooked: dict[str | None, dict[int, str]] = {}
    for name in names:
        if match := _LAYER.fullmatch(name):
            hooked.setdefault(None, {})[int(match[1])] = name
        if match := _HOOK.fullmatch(name):
            component, shift = _HOOKS[match[2]]
            layer = int(match[1]) + shift
            if layer < 0:
                raise Refused(
                    f"its column {name} is the embedding, which is no block's output",
                    "leave the column out",
                )
            if layer in hooked.setdefault(component, {}):
                raise Refused(f"two of its columns are {component} of block {layer}")
            hooked[component][layer] = name
    plain = [name for name in (*ACTIVATION_NAMES, *COMPONENTS) if name in names]
    if bool(hooked) == bool(plain) or (None in hooked and len(hooked) > 1):
        what = ", ".join(plain) if plain else "missing"
        raise Refused(
            f"its columns of activations are {what}; there is {_list(names)}",
            f"name the one column of activations {ACTIVATION_NAMES[0]}",
        )
    if plain:
        if len(plain) > 1 and set(plain) & set(ACTIVATION_NAMES):
            raise Refused(f"its columns of activations are {', '.join(plain)}", "keep one of them")
        if plain[0] in ACTIVATION_NAMES:
            return {None: (plain[0],)}, None
        return {name: (name,) for name in plain}, None
    layers = {tuple(sorted(by_layer)) for by_layer in hooked.values()}
    if len(layers) > 1:
        raise Refused("its components are of different blocks", "write them as several data sets")
    return {
        component: tuple(by_layer[layer] for layer in sorted(by_layer))
        for component, by_layer in hooked.items()
    }, layers.pop()


def _leaf(kind: pa.DataType) -> pa.DataType:
    while _is_list(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if _is_list(kind) else kind.storage_type
    return kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _list(names: list[str]) -> str:
    return ", ".join(map(ascii, names[:12])) or "no column that is known"


def to_array(values: pa.Array, name: str) -> NDArray[Any]:
    """
    Bring nested lists of numbers into an array.

    Args:
        values: Rows of a column: lists, of any kind of list, or fixed-shape tensors.
        name: Of the column, for messages.

    Returns:
        [row, …], in the memory of the column.

    Raises:
        Refused: It is ragged, has a missing value, or is no list of numbers.
    """
    shape = [len(values)]
    if isinstance(values, pa.FixedShapeTensorArray):
        permutation = values.type.permutation
        if permutation is not None and list(permutation) != sorted(permutation):
            raise Refused(f"its column {name} holds tensors with permuted axes")
        shape += values.type.shape
        values = values.storage.flatten() if not values.null_count else values.storage
    elif isinstance(values, pa.ExtensionArray):
        # Another library's type, known where that is loaded: its values are lists all the same.
        values = values.storage
    while _is_list(values.type):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if values.null_count or len(lengths) > 1:
            raise Refused(
                f"its column {name} is ragged, or misses values: lengths {lengths[:6]} in a sample",
                "give every token a row of the same length",
            )
        shape.append(lengths[0] if lengths else 0)
        values = values.flatten()
    kind = values.type
    if values.null_count or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        what = "missing values" if values.null_count else str(kind)[:40]
        raise Refused(f"its column {name} holds {what}, not numbers")
    array: NDArray[Any] = values.to_numpy(zero_copy_only=True)
    return array.reshape(shape)


def read_activations(
    rows: pa.RecordBatch, columns: Columns
) -> tuple[dict[str | None, NDArray[Any]], tuple[int, ...] | None]:
    """
    Read the activations of rows, [row, …, hidden], blocks with a column each put together.

    A block whose column is null in all of the rows was not captured there.

    Returns:
        For each component its activations, the layer axis before the last; and the block numbers,
        where the columns tell them.

    Raises:
        Refused: The values are not numbers of one shape, or there are none.
    """
    if columns.layers is None:
        named = {component: names[0] for component, names in columns.activations.items()}
        return {component: to_array(rows[name], name) for component, name in named.items()}, None
    first = next(iter(columns.activations.values()))
    there = [at for at, name in enumerate(first) if rows[name].null_count < rows.num_rows]
    if not there:
        raise Refused("a sample has activations of no layer", "leave it out")
    arrays = {
        component: np.stack([to_array(rows[names[at]], names[at]) for at in there], axis=-2)
        for component, names in columns.activations.items()
    }
    return arrays, tuple(columns.layers[at] for at in there)
