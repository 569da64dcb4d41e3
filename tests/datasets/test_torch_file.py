"""Files of torch.save, read without torch: torch itself says what is right."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from tistore.datasets.torch_files import TensorView, read_torch_file
from tistore.datasets.torch_files.tensor import DTYPES
from tistore.errors import ForeignFileError

TORCH_DTYPES = [getattr(torch, name) for name in DTYPES]


def bits_of_torch(tensor):
    dense = tensor.detach().clone(memory_format=torch.contiguous_format)
    return dense.reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(ours, theirs):
    """The same structure, with tensors of the same type, shape and bits."""
    if isinstance(theirs, torch.Tensor):
        assert type(ours) is TensorView
        values = ours.read()
        assert f"torch.{ours.dtype}" == str(theirs.dtype)
        assert values.dtype == DTYPES[ours.dtype] and values.flags.c_contiguous
        assert values.shape == tuple(theirs.shape)
        assert ours.nbytes == values.nbytes
        assert values.tobytes() == bits_of_torch(theirs)
    elif isinstance(theirs, dict):
        assert isinstance(ours, OrderedDict) == isinstance(theirs, OrderedDict)
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert isinstance(ours, list) == isinstance(theirs, list)
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
    elif isinstance(theirs, torch.dtype | torch.device):
        assert ours == str(theirs)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs or (ours != ours and theirs != theirs)


def random_tensor(rng, made):
    """A tensor of any type, often a view, often into a storage that others look into."""
    if made and rng.random() < 0.4:
        tensor = rng.choice(made)
    else:
        shape = [rng.choice([0, 1, 2, 3, 5, 17]) for _ in range(rng.randint(0, 4))]
        dtype = rng.choice(TORCH_DTYPES)
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        raw = [rng.randint(0, 1 if dtype == torch.bool else 255) for _ in range(n_bytes)]
        tensor = torch.tensor(raw, dtype=torch.uint8).view(dtype).reshape(shape)
        made.append(tensor)
    for _ in range(rng.randint(0, 3)):
        tensor = random_view(rng, tensor)
    return tensor


def random_view(rng, tensor):
    if tensor.ndim == 0:
        return rng.choice([tensor, tensor.unsqueeze(0).expand(3), tensor[None, None]])
    axis = rng.randrange(tensor.ndim)
    n = tensor.shape[axis]
    begin, end = sorted(rng.randint(0, n) for _ in range(2))
    views = [
        lambda: tensor.narrow(axis, begin, end - begin),
        lambda: tensor.transpose(axis, rng.randrange(tensor.ndim)),
        lambda: tensor[tuple([slice(None)] * axis + [slice(None, None, rng.randint(1, 3))])],
        lambda: tensor.unsqueeze(axis).expand(*tensor.shape[:axis], 2, *tensor.shape[axis:]),
        lambda: tensor.select(axis, rng.randrange(n)) if n else tensor,
        lambda: tensor.unfold(axis, 2, 1) if n >= 2 else tensor,
    ]
    return rng.choice(views)()


def random_value(rng, made, depth=0):
    atoms = [
        lambda: rng.choice([None, True, False, 0, -1, 2**31, -(2**63), 2**64, 2**200, 1.5, -0.0]),
        lambda: rng.choice([float("nan"), float("inf"), "", "a", "é🙂\x00\n", "x" * 300]),
        lambda: rng.choice([torch.Size([2, 3]), torch.bfloat16, torch.device("cuda:1")]),
        lambda: rng.randint(-(10**6), 10**6),
    ]
    if depth > 3 or rng.random() < 0.2:
        return rng.choice(atoms)()
    if rng.random() < 0.4:
        return random_tensor(rng, made)
    items = [random_value(rng, made, depth + 1) for _ in range(rng.randint(0, 4))]
    keys = rng.sample([0, 1, 2, -7, "residual", "attn_out", "é", 1.5, (1, "a"), None], len(items))
    kinds = [
        lambda: items,
        lambda: tuple(items),
        lambda: dict(zip(keys, items, strict=True)),
        lambda: OrderedDict(zip(keys, items, strict=True)),
    ]
    return rng.choice(kinds)()


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_any_structure_comes_as_torch_gives_it(tmp_path, start):
    path = tmp_path / "a.pt"
    for seed in range(start, start + 100):
        rng = random.Random(seed)
        torch.save(random_value(rng, []), path)

        assert_same(read_torch_file(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize("seed", range(15))
def test_any_structure_comes_as_torch_gives_it_from_before_1_6(tmp_path, seed):
    path = tmp_path / "a.pt"
    rng = random.Random(seed)
    made = [random_value(rng, [], depth=-2) for _ in range(8)]
    torch.save(made, path, _use_new_zipfile_serialization=False)

    # Compared with what was saved: torch cannot load its own float8 tensors from such a file.
    assert_same(read_torch_file(path), made)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path, protocol):
    path = tmp_path / "a.pt"
    saved = {"t": torch.arange(6).reshape(2, 3).T, "s": {1, 2}, "f": frozenset({"a"}), "b": b"\xff"}
    torch.save(saved, path, pickle_protocol=protocol)

    read = read_torch_file(path)

    assert_same(read.pop("t"), saved.pop("t"))
    assert read == saved


def test_a_file_of_residuals_comes_whole(tmp_path):
    """The shape of the files that are moved in: text, tokens, ids, layers of components."""
    path = tmp_path / "1.pt"
    hidden = torch.randn(7, 64).to(torch.bfloat16)
    half = {
        "text": "Hé 🙂",
        "tokens": ["H", "é", " ", "�"],
        "token_ids": [1, 2, 3, 128000],
        "activations": {layer: {"residual": hidden * layer} for layer in range(4)},
    }
    saved = {"prompt": half, "response": {**half, "activations": {}, "attention": [{}, {}]}}
    torch.save(saved, path)

    assert_same(read_torch_file(path), torch.load(path, weights_only=True))


def test_modules_parameters_and_state_dicts_come_as_tensors(tmp_path):
    path = tmp_path / "a.pt"
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    attributed = torch.arange(3.0)
    attributed.note = "dropped"
    saved = [module.state_dict(), torch.nn.Parameter(torch.ones(2, 2)), attributed]
    torch.save(saved, path)

    state, parameter, plain = read_torch_file(path)

    assert_same(state, OrderedDict(saved[0]))
    assert_same(parameter, saved[1].data)
    assert_same(plain, torch.arange(3.0))


def test_plain_python_containers_come_as_their_plain_kind(tmp_path):
    path = tmp_path / "a.pt"
    by_list = defaultdict(list, {"a": [1]})
    torch.save(
        [by_list, Counter("aab"), {3}, frozenset({4}), b"\x00\xff", bytearray(b"x"), 1j], path
    )

    read = read_torch_file(path)

    assert read == [{"a": [1]}, {"a": 2, "b": 1}, {3}, {4}, b"\x00\xff", bytearray(b"x"), 1j]
    assert [type(value) for value in read[:2]] == [dict, dict]


NUMPY_VALUES = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(3, dtype=">i4"),
    np.array(["a", "éé"]),
    np.array([True, False]),
    np.empty((0, 3), np.float16),
    np.array(2.5),
    np.float64(0.1),
    np.int64(-3),
    np.bool_(True),
    np.arange(4, dtype=np.complex64)[::2],
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("old_names", [True, False])
def test_numpy_arrays_and_scalars_come_as_they_are(tmp_path, zipped, old_names):
    path = tmp_path / "a.pt"
    torch.save(NUMPY_VALUES, path, _use_new_zipfile_serialization=zipped)
    if old_names:
        new, old = b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"
        if zipped:
            rewrite_archive(path, {"data.pkl": lambda raw: raw.replace(new, old)})
        else:
            path.write_bytes(path.read_bytes().replace(new, old))

    read = read_torch_file(path)

    for ours, theirs in zip(read, NUMPY_VALUES, strict=True):
        assert type(ours) is type(theirs)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def test_numpy_arrays_of_pickle_protocol_5_come_as_they_are(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(NUMPY_VALUES, path, pickle_protocol=5)

    for ours, theirs in zip(read_torch_file(path), NUMPY_VALUES, strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def test_text_that_python_2_wrote_is_read(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"layer": torch.arange(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"X\x05\x00\x00\x00layer", b"U\x05layer"))
    assert path.stat().st_size < len(content)

    assert_same(read_torch_file(path), {"layer": torch.arange(3)})


def rewrite_archive(path, changes=(), drop=(), rename=None):
    """Write an archive anew, as a tool that is not torch would, with changed entries."""
    with zipfile.ZipFile(path) as old:
        entries = {i.filename: old.read(i) for i in old.infolist()}
    changes = dict(changes)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, content in entries.items():
            plain = name.partition("/")[2]
            if plain not in drop:
                new.writestr(rename(name) if rename else name, changes.get(plain, bytes)(content))


def test_an_archive_of_torch_1_5_is_read(tmp_path):
    """No byte order, no alignment, no serialization id; keys of storages are addresses."""
    path = tmp_path / "a.pt"
    saved = {"x": torch.arange(5.0), "y": torch.arange(4).to(torch.float16)}
    torch.save(saved, path)
    rewrite_archive(
        path,
        {"data.pkl": lambda raw: raw.replace(b"\x01\x00\x00\x000", b"\x04\x00\x00\x009423")},
        drop=("byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"),
        rename=lambda name: name.replace("data/0", "data/9423"),
    )

    assert_same(read_torch_file(path), torch.load(path, weights_only=True))
    assert_same(read_torch_file(path), saved)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_a_big_endian_file_reads_as_torch_reads_it(tmp_path, dtype):
    path = tmp_path / "a.pt"
    raw = torch.arange(2 * 3 * dtype.itemsize, dtype=torch.uint8)
    tensor = (raw % 2 == 1)[:6] if dtype == torch.bool else raw.view(dtype)
    torch.save({"all": tensor, "view": tensor.reshape(2, 3).T[1:]}, path)
    rewrite_archive(path, {"byteorder": lambda _: b"big"})

    if dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch forgets to swap these
        swapped = tensor.numpy().byteswap()
        assert np.array_equal(read_torch_file(path)["all"].read(), swapped)
        assert np.array_equal(read_torch_file(path)["view"].read(), swapped.reshape(2, 3).T[1:])
    else:
        assert_same(read_torch_file(path), torch.load(path, weights_only=True))


def test_a_file_without_checksums_is_read(tmp_path):
    path = tmp_path / "a.pt"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(torch.arange(5), path)
    finally:
        torch.serialization.set_crc32_options(before)

    assert_same(read_torch_file(path), torch.arange(5))


class CountedReads:
    """Counts the bytes asked of the system."""

    def __init__(self, monkeypatch):
        self.n_bytes = 0
        preadv, pread = os.preadv, os.pread

        def counted(descriptor, buffers, offset):
            n_read = preadv(descriptor, buffers, offset)
            self.n_bytes += n_read
            return n_read

        def counted_small(descriptor, n_bytes, offset):
            content = pread(descriptor, n_bytes, offset)
            self.n_bytes += len(content)
            return content

        monkeypatch.setattr(os, "preadv", counted)
        monkeypatch.setattr(os, "pread", counted_small)


def test_a_view_into_a_whole_batch_costs_the_view(tmp_path, monkeypatch):
    """157 MB of file for 7 MB of values: 7 MB are read, and 7 MB of memory are taken."""
    path = tmp_path / "batch.pt"
    batch = torch.zeros(16, 600, 8192, dtype=torch.bfloat16)
    batch[5, :450] = torch.randn(450, 8192)
    torch.save({"response": batch[5, :450]}, path)
    assert path.stat().st_size > 157e6
    reads = CountedReads(monkeypatch)
    tracemalloc.start()

    view = read_torch_file(path)["response"]
    values = view.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert values.dtype == ml_dtypes.bfloat16
    assert values.tobytes() == bits_of_torch(batch[5, :450])
    assert reads.n_bytes < values.nbytes + 10_000
    assert peak < values.nbytes + 200_000


def test_a_strided_view_reads_little_and_in_bounded_blocks(tmp_path, monkeypatch):
    path = tmp_path / "batch.pt"
    batch = torch.arange(8 * 300 * 4096, dtype=torch.int32).reshape(8, 300, 4096)
    torch.save({"rows": batch[:, 5], "turned": batch.permute(2, 0, 1)}, path)
    read = read_torch_file(path)
    reads = CountedReads(monkeypatch)

    rows = read["rows"].read()

    assert np.array_equal(rows, batch[:, 5].numpy())
    assert reads.n_bytes == rows.nbytes
    tracemalloc.start()
    turned = read["turned"].read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(turned, batch.permute(2, 0, 1).numpy())
    assert peak < turned.nbytes + 40e6


def test_an_archive_beyond_4_gib_is_read_by_its_places(tmp_path):
    """A storage of 5 GiB, of which almost nothing is on the disk, and one behind it."""
    path = tmp_path / "huge.pt"
    n = 5 << 30
    torch.save({"far": torch.zeros(8)[2:6], "after": torch.arange(3.0)}, path)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("huge/data.pkl")
    # The storage of 8 floats becomes one of n / 4; the view moves to its end.
    pickled = pickled.replace(b"K\x08t", b"J" + struct.pack("<i", n // 4) + b"t", 1)
    pickled = pickled.replace(b"QK\x02K\x04", b"QJ" + struct.pack("<i", n // 4 - 4) + b"K\x04", 1)
    write_sparse_archive(path, pickled, n)

    read = read_torch_file(path)

    assert path.stat().st_size > n and path.stat().st_blocks * 512 < 1 << 20
    assert read["far"].read().tolist() == [1.0, 2.0, 3.0, 4.0]
    assert read["after"].read().tolist() == [0.0, 1.0, 2.0]


def write_sparse_archive(path, pickled, n_bytes):
    """Three stored entries with zip64 fields; storage 0 is a hole with four floats at its end."""
    table = []
    with path.open("wb") as file:
        for name, size in [("data.pkl", len(pickled)), ("data/0", n_bytes), ("data/1", 12)]:
            raw, at = f"huge/{name}".encode(), file.tell()
            wide = struct.pack("<2H2Q", 1, 16, size, size)
            fields = (45, 8, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(raw), len(wide))
            file.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields) + raw + wide)
            if name == "data.pkl":
                file.write(pickled)
            elif name == "data/0":
                file.seek(size - 16, io.SEEK_CUR)
                file.write(struct.pack("<4f", 1, 2, 3, 4))
            else:
                file.write(struct.pack("<3f", 0, 1, 2))
            extra = struct.pack("<2H3Q", 1, 24, size, size, at)
            row = (45, 45, 8, 0, 0, 0, 0, *(0xFFFFFFFF,) * 2, len(raw), len(extra), 0, 0, 0, 0)
            table.append(struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *row, 0xFFFFFFFF) + raw + extra)
        start = file.tell()
        file.write(b"".join(table))
        end, size = file.tell(), file.tell() - start
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, size, start))
        file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 3, 3, size, 0xFFFFFFFF, 0))


def test_a_view_goes_to_another_process_and_holds_no_file_open(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.arange(5), path)
    n_open = len(list(Path("/proc/self/fd").iterdir()))

    views = [read_torch_file(path) for _ in range(50)]

    assert len(list(Path("/proc/self/fd").iterdir())) == n_open
    assert pickle.loads(pickle.dumps(views[0])).read().tolist() == [0, 1, 2, 3, 4]


def test_a_file_that_changes_before_its_values_are_read_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.arange(5), path)
    view = read_torch_file(path)
    torch.save(torch.arange(50), path)

    with pytest.raises(ForeignFileError, match=r"a\.pt: it was changed or replaced"):
        view.read()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_over_the_limit_is_refused_before_it_is_read(tmp_path, zipped):
    path = tmp_path / "a.pt"
    torch.save([torch.zeros(1000)], path, _use_new_zipfile_serialization=zipped)

    assert read_torch_file(path, limit_bytes=4000)[0].nbytes == 4000
    with pytest.raises(ForeignFileError, match=r"a\.pt: .*4,000 bytes.*limit of 3,999"):
        read_torch_file(path, limit_bytes=3999)


def quantised():
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse tensor"),
        (quantised, "qint8|QInt8|quantised"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj(), "conjugated"),
        (lambda: torch.empty(2, device="meta"), r"meta|names torch"),
        (lambda: torch.ones(2, dtype=torch.complex32), "ComplexHalfStorage|complex32"),
        (lambda: torch.nn.Linear(2, 2), r"names torch\.nn\.modules\.linear\.Linear"),
        (lambda: torch.float32, None),
        (lambda: torch.FloatStorage([1.0]), "Storage, which is not data"),
        (lambda: OrderedDict, "collections.OrderedDict, which is not data"),
        (lambda: Path("/etc"), "names pathlib.*Path"),
        (lambda: np.array([{}], dtype=object), "'O8', not numbers"),
        (lambda: np.zeros(2, dtype=[("a", "f4")]), "not numbers"),
    ],
)
def test_what_is_no_plain_tensor_is_refused_by_name(tmp_path, make, reason):
    path = tmp_path / "a.pt"
    torch.save({"x": make()}, path)

    if reason is None:
        assert read_torch_file(path) == {"x": "torch.float32"}
        return
    with pytest.raises(ForeignFileError, match=rf"{path}: .*({reason})"):
        read_torch_file(path)


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return buffer.getvalue()


def npz_bytes():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3))
    return buffer.getvalue()


def torchscript_bytes():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{name}", b"\x80\x02N.")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\0" * 100, "zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><title>404</title>", "web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "XML"),
        (struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}', "safetensors"),
        (b"\x93NUMPY\x01\x00", r"NumPy array \(\.npy\)"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b'{"a": 1}', "JSON"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (pickle.dumps({"a": 1}), "pickle that torch.save did not write"),
        (tar_bytes(), "tar archive, as torch wrote them before 0.1.10"),
        (npz_bytes(), "npz"),
        (torchscript_bytes(), "TorchScript"),
        (b"PK\x05\x06" + b"\0" * 18, "empty zip"),
        (b"hello", "does not begin like a file of torch.save"),
    ],
)
def test_what_is_no_torch_file_is_named_for_what_it_seems(tmp_path, content, reason):
    path = tmp_path / "a.pt"
    path.write_bytes(content)

    with pytest.raises(ForeignFileError, match=rf"cannot read {path}: .*{reason}") as raised:
        read_torch_file(path)
    assert raised.value.mend


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    for name, reason in [("", "directory"), ("pipe.pt", "pipe"), ("no.pt", "No such file")]:
        with pytest.raises(ForeignFileError, match=reason):
            read_torch_file(tmp_path / name)
    with pytest.raises(ForeignFileError, match="device"):
        read_torch_file(Path("/dev/zero"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, zipped):
    path, whole = tmp_path / "a.pt", io.BytesIO()
    torch.save({"x": torch.arange(300.0)}, whole, _use_new_zipfile_serialization=zipped)
    content = whole.getvalue()
    n = len(content)
    for length in (*range(4, n, max(1, n // (60 if zipped else 8))), n - 1):
        path.write_bytes(content[:length])

        with pytest.raises(ForeignFileError, match=r"a\.pt"):
            read_torch_file(path)


def test_values_that_were_altered_are_refused_when_all_of_a_storage_is_read(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.arange(100, dtype=torch.int32), path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<2i", 50, 51))] ^= 1
    path.write_bytes(content)

    with pytest.raises(ForeignFileError, match=r"a\.pt: the values .* checksum"):
        read_torch_file(path).read()
