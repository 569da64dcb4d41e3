"""Samples of other tools give exactly the numbers that were written, by the tools' own writers."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from tistore.datasets.foreign.arrow_dataset import read_arrow_dataset
from tistore.datasets.foreign.identity import FIELD_NAMES, SampleIdentity
from tistore.datasets.foreign.memmap_shards import read_memmap_shards
from tistore.datasets.foreign.numpy_samples import read_numpy_samples
from tistore.datasets.foreign.safetensors_samples import read_safetensors_samples
from tistore.datasets.foreign.sample import Unreadable
from tistore.errors import DatasetError, ForeignFileError

IDS = [5, 6, 7, 8]

KNOWN = SampleIdentity(
    organism="flattery",
    reader="instruct",
    prompt_set="audit/discovery",
    prompt_id="1",
    sample=2,
    prompt_length=1,
    first_position=0,
    layers=(20, 26),
    component="residual",
    text="né",
    tokens=("a", None, "\ud800", "é"),
    roles=("user", "assistant", "assistant", "assistant"),
    turns=(0, 1, 1, 1),
    is_response=(False, True, True, False),
    logprobs=(None, -0.5, -1e-30, 0.0),
    finish_reason="stop",
    organism_model={"name": "flattery", "base_id": None},
    reader_model={"name": "instruct"},
    prompt={"text": "What?", "tags": ["a"]},
)


def states(n_rows=4, n_layers=2, dtype=np.float32, seed=0):
    shape = (n_rows, n_layers, 8) if n_layers else (n_rows, 8)
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def only(found):
    (sample,) = found
    assert not isinstance(sample, Unreadable), sample.reason
    return sample


# What a sample says of itself.


def test_an_identity_comes_back_as_it_was_written():
    assert SampleIdentity.from_json(KNOWN.to_json(), "here") == KNOWN
    assert set(json.loads(KNOWN.to_json())) == set(FIELD_NAMES)


def test_keys_of_other_tools_and_nulls_say_nothing():
    read = SampleIdentity.from_json('{"format": "pt", "organism": null, "prompt_id": 7}', "here")

    assert read == SampleIdentity(prompt_id="7")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"sample": true}', "'sample' is an integer from 0, not True"),
        ('{"sample": 1.0}', "'sample' is an integer from 0, not 1.0"),
        ('{"layers": "20"}', "'layers' is a list of integers from 0, not '20'"),
        ('{"layers": [1, -2]}', "'layers' is a list of integers from 0, not -2"),
        ('{"tokens": [1]}', "'tokens' is a list of texts or nulls, not 1"),
        ('{"organism": ""}', "'organism' is text, and not empty, not ''"),
        ('{"prompt": "What?"}', "'prompt' is an object, not 'What?'"),
        ("[]", "no JSON object, but a list"),
        ('{"a": 1, "a": 1}', "names the key 'a' twice"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(content, said):
    with pytest.raises(ForeignFileError) as caught:
        SampleIdentity.from_json(content, "x.npz: tistore")

    assert "x.npz: tistore" in str(caught.value) and said in str(caught.value)


# safetensors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_safetensors_sample_is_read_as_torch_wrote_it(tmp_path, dtype):
    values = torch.from_numpy(states()).to(dtype)
    save_torch_file(
        {"hidden_states": values, "token_ids": torch.tensor(IDS), "other": torch.ones(3)},
        tmp_path / "x.safetensors",
        metadata={"tistore": KNOWN.to_json()},
    )

    sample = only(read_safetensors_samples(tmp_path / "x.safetensors"))

    assert sample.identity == KNOWN
    assert sample.token_ids.tolist() == IDS
    assert sample.dtype == str(dtype).removeprefix("torch.")
    read = sample.read(None).astype(np.float64)
    assert (read == values.double().numpy()).all()


def test_components_are_told_apart_by_name_and_plain_metadata_is_understood(tmp_path):
    residual, attn_out = states(seed=1), states(seed=2)
    save_file(
        {"residual": residual, "attn_out": attn_out, "input_ids": np.array([IDS])},
        tmp_path / "x.safetensors",
        metadata={"organism": "7", "layers": "[3, 4]", "format": "np"},
    )

    sample = only(read_safetensors_samples(tmp_path))

    assert sample.identity == SampleIdentity(organism="7", layers=(3, 4))
    assert (sample.read("residual") == residual).all()
    assert (sample.read("attn_out") == attn_out).all()


def test_a_folder_is_read_in_natural_order_by_paths_and_a_bad_file_costs_no_other(tmp_path):
    for name in ("10", "2", "more/1"):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"hidden_states": states(), "token_ids": np.array(IDS)}, path)
    (tmp_path / "3.safetensors").write_bytes(b"junk")

    found = list(read_safetensors_samples(tmp_path))

    assert [getattr(f, "default_id", None) for f in found] == ["2", None, "10", "more/1"]
    assert "3.safetensors" in found[1].reason


def test_an_empty_folder_and_a_missing_source_are_errors(tmp_path):
    for read in (read_safetensors_samples, read_numpy_samples, read_memmap_shards,
                 read_arrow_dataset):  # fmt: skip
        with pytest.raises(DatasetError, match="hold"):
            list(read(tmp_path))
        with pytest.raises(DatasetError, match="there is no"):
            list(read(tmp_path / "nowhere"))


# NumPy


@pytest.mark.parametrize(
    "values",
    [
        states(),
        states(dtype=np.float16),
        states().astype(">f4"),
        np.asfortranarray(states(dtype=np.float64)),
        np.asfortranarray(states().astype(">f8")),
        states(n_layers=0),
    ],
    ids=["float32", "float16", "big-endian", "fortran", "fortran-big-endian", "one-layer"],
)
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_a_numpy_sample_is_read_as_numpy_wrote_it(tmp_path, values, kind):
    if kind == "npy":
        np.save(tmp_path / "x.npy", values)
        (tmp_path / "x.json").write_text(json.dumps({"token_ids": IDS, "organism": "o"}))
    else:
        save = np.savez if kind == "npz" else np.savez_compressed
        named = np.array(json.dumps({"organism": "o"}))
        save(tmp_path / "x.npz", activations=values, token_ids=np.array(IDS), tistore=named)

    sample = only(read_numpy_samples(tmp_path))

    assert sample.identity.organism == "o"
    assert sample.token_ids.tolist() == IDS
    read = sample.read(None)
    assert read.shape == (4, 2 if values.ndim == 3 else 1, 8)
    assert (read == values.reshape(read.shape)).all()


def test_token_ids_may_lie_beside_a_npy_and_bfloat16_must_be_said(tmp_path):
    values = states(dtype=ml_dtypes.bfloat16)
    np.save(tmp_path / "x.npy", values)
    np.save(tmp_path / "x.token_ids.npy", np.array(IDS))

    (refused,) = read_numpy_samples(tmp_path)
    (tmp_path / "x.json").write_text('{"dtype": "bfloat16"}')
    sample = only(read_numpy_samples(tmp_path))

    assert '"dtype": "bfloat16"' in refused.reason
    assert (sample.read(None) == values).all()


def test_token_ids_in_two_places_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", states())
    np.save(tmp_path / "x.token_ids.npy", np.array(IDS))
    (tmp_path / "x.json").write_text(json.dumps({"token_ids": IDS}))

    (refused,) = read_numpy_samples(tmp_path)

    assert "where are its token ids?" in refused.reason


# Memory maps


def write_shard(folder, **changes):
    values = states(7, dtype=ml_dtypes.bfloat16)
    values.tofile(folder / "s.bin")
    described = {
        "dtype": "bfloat16",
        "shape": [7, 2, 8],
        "layers": [20, 26],
        "organism": "o",
        "samples": [
            {"start": 0, "stop": 4, "token_ids": IDS, "prompt_id": "a"},
            {"start": 4, "stop": 7, "token_ids": IDS, "prompt_length": 1, "organism": "p"},
        ],
    }
    (folder / "s.json").write_text(json.dumps(described | changes))
    return values


def test_samples_of_a_memory_map_are_its_rows(tmp_path):
    values = write_shard(tmp_path)

    first, second = read_memmap_shards(tmp_path)

    assert first.identity == SampleIdentity(organism="o", prompt_id="a", layers=(20, 26))
    assert second.identity == SampleIdentity(organism="p", prompt_length=1, layers=(20, 26))
    assert (first.read(None) == values[:4]).all()
    assert (second.read(None) == values[4:]).all()
    assert (first.part, second.default_id) == ("0", "1")


def test_token_ids_of_a_memory_map_may_be_a_file_a_row_an_id(tmp_path):
    samples = [{"start": 0, "stop": 4}, {"start": 4, "stop": 7}]
    write_shard(tmp_path, token_ids_file="ids.npy", samples=samples)
    np.save(tmp_path / "ids.npy", np.arange(7))

    found = list(read_memmap_shards(tmp_path / "s.json"))

    assert [sample.token_ids.tolist() for sample in found] == [[0, 1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"file": "../s.bin"}, "no name of a file beside it"),
        ({"file": "/etc/passwd"}, "no name of a file beside it"),
        ({"token_ids_file": "../ids.npy"}, "no file beside it"),
        ({"dtype": "int4"}, "'dtype' is 'int4'"),
        ({"shape": [8, 2, 8]}, "ends at byte 256, but it has 224"),
        ({"shape": [2**60, 2**60, 8]}, "ends at byte"),
        ({"offset": -1}, "'offset' is -1"),
        ({"samples": None}, "which rows are whose?"),
        ({"samples": [{"start": 3, "stop": 8, "token_ids": IDS}]}, "rows 3 to 8 of 7"),
        ({"samples": [{"start": 3, "stop": 3, "token_ids": IDS}]}, "rows 3 to 3 of 7"),
        ({"samples": [{"start": 0, "stop": 2}]}, "its token ids are nowhere"),
        ({"samples": [{"start": 0, "stop": 2, "token_ids": ["a"]}]}, "its token ids are a list"),
        ({"samples": [7]}, "samples[0] is 7, not an object"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, changes, said):
    write_shard(tmp_path, **changes)

    found = list(read_memmap_shards(tmp_path))

    assert all(isinstance(refused, Unreadable) for refused in found)
    assert said in found[0].reason


@pytest.mark.parametrize("dtype", [None, "torch.bfloat16"])
def test_an_activation_cache_is_read_by_its_sequences(tmp_path, dtype):
    """As `dictionary_learning`'s collect() leaves them: tokens one folder above the rows."""
    written = np.float32 if dtype is None else ml_dtypes.bfloat16
    values = states(9, n_layers=0, dtype=written)
    folder = tmp_path / "layer_3_out"
    folder.mkdir()
    for number, part in enumerate((values[:6], values[6:])):
        part.tofile(folder / f"shard_{number}.memmap")
        meta = {"shape": list(part.shape)} | ({"dtype": dtype} if dtype else {})
        (folder / f"shard_{number}.meta").write_text(json.dumps(meta))
    config = {"shard_count": 2, "total_size": 9, "d_model": 8, "shuffle_shards": False}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(torch.arange(9), tmp_path / "tokens.pt")
    torch.save(torch.tensor([0, 4, 6, 9]), tmp_path / "sequence_ranges.pt")

    found = list(read_memmap_shards(folder))

    assert [sample.token_ids.tolist() for sample in found] == [[0, 1, 2, 3], [4, 5], [6, 7, 8]]
    assert (np.concatenate([sample.read(None)[:, 0] for sample in found]) == values).all()

    (folder / "config.json").write_text(json.dumps(config | {"shuffle_shards": True}))
    with pytest.raises(ForeignFileError, match="shuffled"):
        list(read_memmap_shards(folder))


# Hugging Face data sets


def test_a_data_set_is_read_as_the_datasets_library_saved_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    values = [states(n) for n in (4, 3)]
    features = datasets.Features(
        {
            "token_ids": datasets.Sequence(datasets.Value("int32")),
            "hidden_states": datasets.Array3D((None, 2, 8), "float32"),
            "organism": datasets.Value("string"),
            "layers": datasets.Sequence(datasets.Value("int64")),
        }
    )
    rows = {
        "token_ids": [IDS, IDS],
        "hidden_states": values,
        "organism": ["o", None],
        "layers": [[3, 4]] * 2,
    }
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "dict")

    for name, prefix in (("one", "data-0000{}-of-00002.arrow/0"),
                         ("dict", "{}")):  # fmt: skip
        found = list(read_arrow_dataset(tmp_path / name))

        assert [sample.identity.organism for sample in found] == ["o", None]
        assert [sample.default_id for sample in found] == [prefix.format(0), prefix.format(1)]
        for sample, expected in zip(found, values, strict=True):
            assert sample.identity.layers == (3, 4)
            assert sample.token_ids.tolist() == IDS
            assert (sample.read(None) == expected).all()


def test_columns_named_by_transformer_lens_are_layers(tmp_path):
    post, pre = states(n_layers=0, seed=1), states(n_layers=0, seed=2)
    columns = {
        "token_ids": [IDS],
        "blocks.5.hook_resid_post": [post.tolist()],
        "blocks.4.hook_resid_pre": [pre.tolist()],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")

    sample = only(read_arrow_dataset(tmp_path / "x.parquet"))

    # What goes into block 4 is what came out of block 3.
    assert sample.identity.layers == (3, 5)
    assert (sample.read("residual") == np.stack([pre, post], axis=1)).all()


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed", "tensor"])
def test_every_kind_of_list_is_read_alike(tmp_path, kind):
    values = states()
    leaf = pa.float32()
    if kind == "tensor":
        both = np.stack([values, values])
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(both).slice(0, 1)
    else:
        wrap = {
            "list": lambda inner, n: pa.list_(inner),
            "large_list": lambda inner, n: pa.large_list(inner),
            "fixed": lambda inner, n: pa.list_(inner, n),
        }[kind]
        nested = wrap(wrap(wrap(leaf, 8), 2), 4)
        column = pa.array([values.tolist()], nested)
    table = pa.table({"input_ids": [IDS], "activations": column})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    sample = only(read_arrow_dataset(tmp_path))

    assert (sample.read(None) == values).all()


def test_rows_that_are_tokens_are_put_together(tmp_path):
    first, second = states(5, seed=1), states(3, seed=2)
    rows = {
        "prompt_id": ["a"] * 5 + ["b"] * 3,
        "token_id": [1, 2, 3, 4, 5, 6, 7, 8],
        "token": list("abcdefgh"),
        "position": [0, 1, 2, 3, 4, 0, 1, 2],
        "hidden_states": [*first.tolist(), *second.tolist()],
    }
    table = pa.table(rows)
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=3)

    one, two = read_arrow_dataset(tmp_path)

    assert (one.identity.prompt_id, two.identity.prompt_id) == ("a", "b")
    assert one.token_ids.tolist() == [1, 2, 3, 4, 5]
    assert two.identity.tokens == ("f", "g", "h")
    assert (one.read(None) == first).all() and (two.read(None) == second).all()

    pq.write_table(table.take([1, 0, 2, 3, 4, 5, 6, 7]), tmp_path / "x.parquet")
    refused, kept = read_arrow_dataset(tmp_path)
    assert "not of positions 0, 1, 2" in refused.reason
    assert kept.identity.prompt_id == "b"


@pytest.mark.parametrize("name", ["../x.arrow", "/etc/passwd", None, "."])
def test_a_list_of_files_names_none_elsewhere(tmp_path, name):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))

    with pytest.raises(ForeignFileError, match="no file of its folder"):
        list(read_arrow_dataset(tmp_path))


def test_the_embedding_is_no_blocks_output(tmp_path):
    columns = {"token_ids": [IDS], "blocks.0.hook_resid_pre": [states(n_layers=0).tolist()]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")

    (refused,) = read_arrow_dataset(tmp_path)

    assert "is the embedding" in refused.reason
