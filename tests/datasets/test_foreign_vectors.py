"""Vectors of other tools are read exactly, at the right block, or refused with the file's name."""

from __future__ import annotations

import json
import os
import resource
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tistore.datasets.foreign.vectors import Numbering, read_vector_file
from tistore.datasets.foreign.vectors_gguf import MOST_HEADER_BYTES
from tistore.errors import ForeignFileError

HIDDEN = 6


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layers_of(file):
    """What was found: layer to values."""
    return {vector.layer: vector.read() for vector in file.vectors}


def assert_same(found, expected: torch.Tensor):
    """Equal to the last bit, in the file's own element type."""
    assert found.dtype.itemsize == expected.dtype.itemsize
    np.testing.assert_array_equal(found.astype(np.float64), expected.double().numpy())


@pytest.fixture
def saved(tmp_path):
    def save(value, name="evil.pt"):
        torch.save(value, tmp_path / name)
        return tmp_path / name

    return save


# Stacks.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_stack_of_hidden_states_is_placed_one_block_lower(saved, dtype):
    """Row 0 is the embedding, the last is after the final norm: no block's output."""
    stack = numbers(5, HIDDEN, dtype=dtype)

    file = read_vector_file(saved(stack), Numbering("embedding"))

    found = layers_of(file)
    assert list(found) == [0, 1, 2]
    for layer, values in found.items():
        assert_same(values, stack[layer + 1])
    assert [entry.label for entry in file.refused] == ["row 0", "row 4"]
    assert "embedding" in file.refused[0].reason
    assert "final norm" in file.refused[1].reason


def test_a_stack_of_blocks_is_placed_as_it_is(saved):
    stack = numbers(4, HIDDEN)

    file = read_vector_file(saved(stack), Numbering("block-0"))

    assert list(layers_of(file)) == [0, 1, 2, 3]
    assert_same(file.vectors[3].read(), stack[3])
    assert not file.refused


@pytest.mark.parametrize(
    ("n_blocks", "layers"), [(5, [0, 1, 2, 3, 4]), (4, [0, 1, 2, 3])], ids=["blocks", "states"]
)
def test_the_number_of_blocks_tells_where_a_stack_begins(saved, n_blocks, layers):
    file = read_vector_file(saved(numbers(5, HIDDEN)), Numbering(n_blocks=n_blocks))

    assert [vector.layer for vector in file.vectors] == layers[: len(file.vectors)]
    assert len(file.vectors) == (5 if n_blocks == 5 else 3)


def test_a_stack_that_stops_early_keeps_its_last_row(saved):
    """Only the row after the last block is normed."""
    file = read_vector_file(saved(numbers(5, HIDDEN)), Numbering("embedding", n_blocks=30))

    assert [vector.layer for vector in file.vectors] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("numbering", "said"),
    [
        (Numbering(), "evil.pt: its 5 rows may begin"),
        (Numbering(n_blocks=30), "evil.pt: it has 5 rows, where 30 blocks have 30, or 31 with"),
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_a_stack_that_does_not_tell_its_beginning_is_not_guessed(saved, numbering, said, as_list):
    stack = numbers(5, HIDDEN)
    path = saved([row.clone() for row in stack] if as_list else stack)

    with pytest.raises(ForeignFileError, match=said) as refusal:
        read_vector_file(path, numbering)

    assert "--first-row" in refusal.value.mend


def test_a_stack_with_more_rows_than_the_model_has_layers_is_refused(saved):
    with pytest.raises(ForeignFileError, match="5 rows, more than a model of 3 blocks"):
        read_vector_file(saved(numbers(5, HIDDEN)), Numbering("embedding", n_blocks=3))


def test_a_list_of_layers_is_a_stack(saved):
    stack = numbers(4, HIDDEN)
    path = saved([row.clone() for row in stack])

    of_states = read_vector_file(path, Numbering("embedding"))
    of_blocks = read_vector_file(path, Numbering("block-0"))

    assert list(layers_of(of_states)) == [0, 1]
    assert_same(layers_of(of_states)[1], stack[2])
    assert list(layers_of(of_blocks)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("where", "position"),
    [("response_avg", "response[:]"), ("prompt_avg", "prompt[:]"), ("prompt_last", "prompt[-1]")],
)
def test_persona_vectors_files_are_known_by_their_names(saved, where, position):
    """`generate_vec.py` stacks every hidden state, and names the file so."""
    stack = numbers(5, HIDDEN)

    file = read_vector_file(saved(stack, f"evil_{where}_diff.pt"))

    assert list(layers_of(file)) == [0, 1, 2]
    assert_same(layers_of(file)[0], stack[1])
    naming = file.vectors[0].naming
    assert (naming.trait, naming.method, naming.position) == ("evil", "mean_diff", position)


# Single vectors, dicts, names.


@pytest.mark.parametrize("shape", [(HIDDEN,), (1, HIDDEN), (1, 1, HIDDEN)])
def test_a_bare_vector_leaves_its_layer_to_the_user(saved, shape):
    vector = numbers(*shape)

    file = read_vector_file(saved(vector))

    (found,) = file.vectors
    assert found.layer is None
    assert_same(found.read(), vector.reshape(-1))


@pytest.mark.parametrize(
    "name",
    [
        *("{}", "layer_{}", "layer.{}", "layer{}", "L{}", "layers.{}", "blocks.{}"),
        *("model.layers.{}", "blocks.{}.hook_resid_post", "transformer.h.{}", "layers[{}]"),
    ],
)
def test_layers_are_known_by_many_names(saved, name):
    vectors = {name.format(layer): numbers(HIDDEN, seed=layer) for layer in (3, 12)}

    file = read_vector_file(saved(vectors))

    found = layers_of(file)
    assert list(found) == [3, 12]
    assert_same(found[12], vectors[name.format(12)])
    assert {vector.naming.trait for vector in file.vectors} == {"evil"}


def test_the_stream_before_a_block_is_the_output_of_the_one_before(saved):
    names = [f"blocks.{layer}.hook_resid_pre" for layer in (0, 4)]

    file = read_vector_file(saved({name: numbers(HIDDEN) for name in names}))

    assert [vector.layer for vector in file.vectors] == [3]
    assert "embedding" in file.refused[0].reason


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            {"tone/warmth.layer3": 1, "tone/warmth.layer4": 2},
            [("tone/warmth", 3), ("tone/warmth", 4)],
        ),
        ({"warmth": {3: 1, 4: 2}, "rage": {3: 3}}, [("warmth", 3), ("warmth", 4), ("rage", 3)]),
        ({3: {"warmth": 1}}, [("warmth", 3)]),
        ({"warmth@3": 1}, [("warmth", 3)]),
        ({"v2": 1}, [("v2", None)]),
        ({"layer_activations": {3: 1}, "layer_type": "decoder_block"}, [("evil", 3)]),
        ({"vectors": {"layer_3": 1}}, [("evil", 3)]),
    ],
)
def test_traits_and_layers_come_from_the_keys(saved, tree, expected):
    def fill(value):
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        return numbers(HIDDEN, seed=value) if isinstance(value, int) else value

    file = read_vector_file(saved(fill(tree)))

    assert [(vector.naming.trait, vector.layer) for vector in file.vectors] == expected


def test_what_stands_beside_a_vector_is_read_and_other_tensors_are_not_vectors(saved):
    vector = numbers(HIDDEN)
    path = saved(
        {
            "vector": vector,
            "mean": numbers(HIDDEN, seed=1),
            "layer": 7,
            "behavior": "warmth",
            "method": "probe",
            "model_name": "tiny",
            "accuracy": 0.9,
        }
    )

    file = read_vector_file(path)

    (found,) = file.vectors
    assert_same(found.read(), vector)
    naming = found.naming
    assert (found.layer, naming.trait, naming.method, naming.model) == (
        7,
        "warmth",
        "probe",
        "tiny",
    )
    assert [(entry.label, entry.reason) for entry in file.refused] == [
        ("mean", "it lies beside 'vector', which is the vector")
    ]


@pytest.mark.parametrize(
    ("kind", "component"),
    [("decoder_block", "residual"), ("self_attn", "attn_out"), ("mlp", "mlp_out")],
)
def test_a_steering_vector_saved_as_a_dict_tells_its_component(saved, kind, component):
    file = read_vector_file(saved({"layer_activations": {2: numbers(HIDDEN)}, "layer_type": kind}))

    assert file.vectors[0].naming.component == component


def test_a_pickled_object_is_not_built_but_its_way_in_is_told(saved):
    class SteeringVector:
        pass

    SteeringVector.__module__ = "steering_vectors.steering_vector"
    SteeringVector.__qualname__ = "SteeringVector"
    import sys
    import types

    module = types.ModuleType("steering_vectors.steering_vector")
    module.SteeringVector = SteeringVector
    sys.modules["steering_vectors"] = types.ModuleType("steering_vectors")
    sys.modules[module.__name__] = module
    try:
        path = saved(SteeringVector())
    finally:
        del sys.modules[module.__name__], sys.modules["steering_vectors"]

    with pytest.raises(ForeignFileError, match="evil.pt") as refusal:
        read_vector_file(path)

    assert "add_steering_vector" in refusal.value.mend


# Other formats.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_safetensors_are_read_exactly_with_their_metadata(tmp_path, dtype):
    tensors = {
        f"warmth.layer{layer}": numbers(HIDDEN, seed=layer, dtype=dtype) for layer in (1, 10)
    }
    metadata = {"model": "tiny", "method": "mean_diff", "position": "response[:5]"}
    save_file(tensors, tmp_path / "all.safetensors", metadata)

    file = read_vector_file(tmp_path / "all.safetensors")

    found = layers_of(file)
    assert sorted(found) == [1, 10]
    assert_same(found[10], tensors["warmth.layer10"])
    naming = file.vectors[0].naming
    assert (naming.trait, naming.model, naming.method, naming.position) == (
        *("warmth", "tiny", "mean_diff", "response[:5]"),
    )
    assert file.vectors[0].dtype == str(dtype).removeprefix("torch.")


def test_the_layer_of_a_safetensors_vector_may_lie_in_its_metadata(tmp_path):
    save_file({"vector": numbers(HIDDEN)}, tmp_path / "warmth.safetensors", {"layer": "9"})

    (found,) = read_vector_file(tmp_path / "warmth.safetensors").vectors

    assert (found.layer, found.naming.trait) == (9, "warmth")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", "<f8", "<i4"])
def test_npy_is_read_exactly(tmp_path, kind, order):
    stack = (np.arange(3 * HIDDEN).reshape(3, HIDDEN) - 7).astype(kind)
    np.save(tmp_path / "warmth.npy", np.asarray(stack, order=order))

    file = read_vector_file(tmp_path / "warmth.npy", Numbering("block-0"))

    for vector in file.vectors:
        np.testing.assert_array_equal(vector.read(), stack[vector.layer])


def write_gguf(path, directions, *, count=None, order=None, dtype=np.float32):
    """A control vector by the gguf package; `count` is "int32" (llama.cpp) or "uint32" (repeng)."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    endian = gguf.GGUFEndian.BIG if order == "big" else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, "controlvector", False, endian)
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_array("general.tags", ["a", "list", "of", "text"])
    if count:
        getattr(writer, f"add_{count}")("controlvector.layer_count", len(directions))
    for layer, values in directions.items():
        writer.add_tensor(f"direction.{layer}", values.numpy().astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_repengs_directions_are_those_of_their_blocks(tmp_path, order, dtype):
    """repeng's direction N is of `hidden_states[N + 1]`, the output of block N."""
    directions = {layer: numbers(HIDDEN, seed=layer) for layer in (1, 2, 5)}
    path = write_gguf(
        tmp_path / "warmth.gguf", directions, count="uint32", order=order, dtype=dtype
    )

    file = read_vector_file(path)

    found = layers_of(file)
    assert list(found) == [1, 2, 5]
    for layer, values in found.items():
        np.testing.assert_array_equal(values, directions[layer].numpy().astype(dtype))
    assert {vector.naming.trait for vector in file.vectors} == {"warmth"}


def test_a_direction_of_one_row_is_a_direction(tmp_path):
    """GGUF names the fastest axis first."""
    path = write_gguf(tmp_path / "warmth.gguf", {2: numbers(1, HIDDEN)})

    (found,) = read_vector_file(path).vectors

    np.testing.assert_array_equal(found.read(), numbers(1, HIDDEN).numpy()[0])


def test_repengs_last_direction_is_noted_to_be_after_the_norm(tmp_path):
    directions = {layer: numbers(HIDDEN, seed=layer) for layer in (1, 2, 3)}

    file = read_vector_file(write_gguf(tmp_path / "warmth.gguf", directions, count="uint32"))

    assert [vector.note is not None for vector in file.vectors] == [False, False, True]


def test_directions_of_llamas_own_generator_are_those_of_the_block_before(tmp_path):
    """cvector-generator calls `l_out-0`, the output of block 0, direction 1."""
    directions = {layer: numbers(HIDDEN, seed=layer) for layer in (1, 2)}
    path = write_gguf(tmp_path / "warmth.gguf", directions, count="int32")

    file = read_vector_file(path)

    assert list(layers_of(file)) == [0, 1]
    assert file.vectors[0].note == "llama.cpp's generator fits direction.1 to block 0"
    told = read_vector_file(path, Numbering("block-0"))
    assert [vector.layer for vector in told.vectors] == [1, 2]


# What is not to be trusted.

TENSOR = struct.pack("<Q", 11) + b"direction.1"


def gguf_bytes(*, n_tensors=1, n_pairs=0, pairs=b"", infos=None, data=b"\0" * 24, version=3):
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + pairs
    head += TENSOR + struct.pack("<IQIQ", 1, HIDDEN, 0, 0) if infos is None else infos
    return head + b"\0" * (-len(head) % 32) + data


def pair(key, kind, rest):
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + rest


def safetensors_bytes(header, data=b"\0" * 24, length=None):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def tensor(shape=(HIDDEN,), offsets=(0, 24), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def npy_header(kind=b"<f4", shape=b"6"):
    return b"{'descr': '%s', 'fortran_order': False, 'shape': (%s,), }\n" % (kind, shape)


def npy_bytes(literal, data=b"\0" * 24, version=1):
    layout = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(layout, len(literal)) + literal + data


HUGE = 2**63

HOSTILE = {
    "empty.gguf": b"",
    "short.gguf": b"GGUF\3\0\0\0\1",
    "magic.gguf": b"GGML" + gguf_bytes()[4:],
    "version.gguf": gguf_bytes(version=9),
    "tensors.gguf": gguf_bytes(n_tensors=HUGE),
    "pairs.gguf": gguf_bytes(n_pairs=HUGE),
    "key.gguf": gguf_bytes(n_pairs=1, pairs=struct.pack("<Q", HUGE)),
    "string.gguf": gguf_bytes(n_pairs=1, pairs=pair(b"k", 8, struct.pack("<Q", HUGE))),
    "array.gguf": gguf_bytes(n_pairs=1, pairs=pair(b"k", 9, struct.pack("<IQ", 0, HUGE))),
    "strings.gguf": gguf_bytes(n_pairs=1, pairs=pair(b"k", 9, struct.pack("<IQ", 8, HUGE))),
    "arrays.gguf": gguf_bytes(n_pairs=1, pairs=pair(b"k", 9, struct.pack("<IQ", 9, 1))),
    "kind.gguf": gguf_bytes(n_pairs=1, pairs=pair(b"k", 77, b"")),
    "width.gguf": gguf_bytes(infos=TENSOR + struct.pack("<IQIQ", 1, 2**40, 0, 0)),
    "overflow.gguf": gguf_bytes(infos=TENSOR + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0)),
    "axes.gguf": gguf_bytes(infos=TENSOR + struct.pack("<I", 2**31)),
    "offset.gguf": gguf_bytes(infos=TENSOR + struct.pack("<IQIQ", 1, HIDDEN, 0, HUGE)),
    "twice.gguf": gguf_bytes(n_tensors=2, infos=2 * (TENSOR + struct.pack("<IQIQ", 1, 1, 0, 0))),
    "aligned.gguf": gguf_bytes(
        n_pairs=1, pairs=pair(b"general.alignment", 4, struct.pack("<I", 2**31))
    ),
    "cut.gguf": gguf_bytes(data=b"\0" * 5),
    "empty.safetensors": b"",
    "length.safetensors": safetensors_bytes({}, length=2**62),
    "big.safetensors": safetensors_bytes({}, length=80_000_000),
    "json.safetensors": safetensors_bytes(b"{'a': 1}"),
    "deep.safetensors": safetensors_bytes(b"[" * 100_000),
    "list.safetensors": safetensors_bytes([1]),
    "entry.safetensors": safetensors_bytes({"a": 3}),
    "dtype.safetensors": safetensors_bytes({"a": tensor(dtype="Q4")}),
    "shape.safetensors": safetensors_bytes({"a": tensor(shape=(2**40,))}),
    "negative.safetensors": safetensors_bytes({"a": tensor(shape=(-HIDDEN,))}),
    "text.safetensors": safetensors_bytes({"a": tensor(shape=("6",))}),
    "beyond.safetensors": safetensors_bytes({"a": tensor(offsets=(0, 10**15))}),
    "backwards.safetensors": safetensors_bytes({"a": tensor(offsets=(24, 0))}),
    "before.safetensors": safetensors_bytes({"a": tensor(offsets=(-24, 0))}),
    "overlap.safetensors": safetensors_bytes(
        {f"a{i}": tensor((6000,), (0, 24_000)) for i in range(40)}, b"\0" * 24_000
    ),
    "fraction.safetensors": safetensors_bytes({"a": tensor(offsets=(0.5, 24))}),
    "none.safetensors": safetensors_bytes({}),
    "magic.npy": b"PK\3\4" + b"\0" * 100,
    "empty.npy": b"",
    "cut.npy": npy_bytes(npy_header(), b"\0"),
    "huge.npy": npy_bytes(npy_header(shape=b"2000000000000")),
    "object.npy": npy_bytes(npy_header(b"|O")),
    "void.npy": npy_bytes(npy_header(b"|V4")),
    "text.npy": npy_bytes(npy_header(b"<U1")),
    "code.npy": npy_bytes(b"__import__('os').abort()\n"),
    "nested.npy": npy_bytes(b"(" * 9000 + b"\n"),
    "version.npy": npy_bytes(npy_header(), version=3),
    "unknown.xyz": b"what",
    "text.pt": b"hello",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name_and_takes_no_memory(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ForeignFileError, match=name):
        read_vector_file(tmp_path / name)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_the_hostile_bytes_are_hostile_only_where_they_mean_to_be(tmp_path):
    """Without their one lie, the hand-written files are read."""
    good = {
        "a.gguf": gguf_bytes(n_pairs=1, pairs=pair(b"k", 9, struct.pack("<IQ", 0, 3) + b"abc")),
        "a.safetensors": safetensors_bytes({"layer.1": tensor()}),
        "a.npy": npy_bytes(npy_header()),
    }
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)

        (vector,) = read_vector_file(tmp_path / name).vectors

        assert vector.read().tolist() == [0.0] * HIDDEN


def test_a_header_longer_than_vectors_need_is_not_walked(tmp_path):
    """As a model's, or one that was blown up."""
    long = pair(b"k", 9, struct.pack("<IQ", 0, MOST_HEADER_BYTES)) + b"\0" * MOST_HEADER_BYTES
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(n_pairs=1, pairs=long))

    with pytest.raises(ForeignFileError, match="model.gguf: its header is longer than 8 MiB"):
        read_vector_file(tmp_path / "model.gguf")


def test_a_safetensors_header_longer_than_vectors_need_is_not_read(tmp_path):
    (tmp_path / "big.safetensors").write_bytes(safetensors_bytes({}, length=80_000_000))
    os.truncate(tmp_path / "big.safetensors", 90_000_000)

    with pytest.raises(ForeignFileError, match="its header claims 80,000,000 bytes"):
        read_vector_file(tmp_path / "big.safetensors")


def test_a_file_of_model_weights_is_not_taken_for_vectors(tmp_path):
    save_file(
        {"model.layers.0.mlp.weight": numbers(2000, HIDDEN), "lm_head.weight": numbers(2000, 3)},
        tmp_path / "model.safetensors",
    )

    file = read_vector_file(tmp_path / "model.safetensors", Numbering("block-0"))

    assert not file.vectors
    assert len(file.refused) == 2


def test_more_values_than_vectors_have_are_not_read(tmp_path):
    """A file may be as sparse as it likes: what it claims counts."""
    header = {"a": tensor(shape=(1000, 80_000), offsets=(0, 320_000_000))}
    (tmp_path / "big.safetensors").write_bytes(safetensors_bytes(header))
    os.truncate(tmp_path / "big.safetensors", 320_001_000)

    with pytest.raises(ForeignFileError, match="big.safetensors: its tensors take"):
        read_vector_file(tmp_path / "big.safetensors")


@pytest.mark.parametrize(
    "value", [torch.zeros(4, dtype=torch.bool), numbers(2, 2, 2), torch.ones(())]
)
def test_what_is_no_direction_is_refused_with_its_reason(saved, value):
    file = read_vector_file(saved({"warmth": value}))

    assert not file.vectors
    assert file.refused[0].label == "warmth"


def test_a_matrix_of_one_layer_is_no_stack(saved):
    file = read_vector_file(saved({"layer_3": numbers(4, HIDDEN)}), Numbering("block-0"))

    assert not file.vectors
    assert file.refused[0].reason == f"its shape [4, {HIDDEN}] is no vector's"
