"""
Samples made to do harm: nothing runs, nothing grows beyond its cap, each is refused by name.

The corpus is read in a process of its own, under a limit of memory, with an audit hook that writes
down what only a program would do.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tistore.datasets.foreign.npy_file import read_npy
from tistore.datasets.foreign.npz_file import read_npz
from tistore.datasets.foreign.safetensors_file import read_safetensors
from tistore.errors import ForeignFileError

IDS = {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}
STATES = {"dtype": "F16", "shape": [2, 1, 3], "data_offsets": [8, 20]}


class Bomb:
    """What a pickle would run."""

    def __reduce__(self):
        return os.system, ("touch canary",)


def packed(header, values=bytes(20)):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + values


def with_key_twice():
    """A file that is sound but for a tensor that is described twice."""
    ids, states = json.dumps(IDS), json.dumps(STATES)
    header = f'{{"token_ids": {ids}, "hidden_states": {states}, "hidden_states": {states}}}'
    return packed(header.encode())


def tensors(values=bytes(20), **changes):
    """A valid file but for what is changed; None takes a tensor out."""
    header = {"token_ids": IDS, "hidden_states": STATES} | changes
    return packed({name: fields for name, fields in header.items() if fields}, values)


SAFETENSORS = {
    "empty": b"",
    "header-of-2-63-bytes": struct.pack("<Q", 2**63) + b"{}" + bytes(99),
    "header-of-90-MB": struct.pack("<Q", 90 << 20) + b"{}",
    "header-longer-than-the-file": struct.pack("<Q", 5000) + b"{}" + bytes(99),
    "header-that-is-no-json": packed(b"{hidden_states}"),
    "header-that-is-a-list": packed(b"[1, 2]"),
    "header-that-is-not-utf-8": packed(b'{"\xff": 1}'),
    "header-nested-without-end": packed(b'{"a":' + b"[" * 200_000),
    "header-of-a-million-lists": packed(b'{"a":[' + b"[]," * 1_100_000 + b"[]]}"),
    "key-twice": with_key_twice(),
    "key-twice-within": packed(b'{"token_ids": {"dtype": "I32", "dtype": "F16"}}'),
    "unknown-dtype": tensors(hidden_states=STATES | {"dtype": "F4"}),
    "dtype-that-is-a-list": tensors(hidden_states=STATES | {"dtype": ["F16"]}),
    "negative-shape": tensors(hidden_states=STATES | {"shape": [-2, -1, 3]}),
    "shape-of-floats": tensors(hidden_states=STATES | {"shape": [2.0, 1, 3]}),
    "shape-of-true": tensors(hidden_states=STATES | {"shape": [True, 2, 3]}),
    "shape-beyond-any-machine": tensors(hidden_states=STATES | {"shape": [2**62, 2**62, 3]}),
    "shape-of-a-million-axes": tensors(hidden_states=STATES | {"shape": [2**60] * 300_000}),
    "shape-with-a-zero": tensors(bytes(8), hidden_states={**STATES, "shape": [0, 1, 3],
                                                          "data_offsets": [8, 8]}),
    "offsets-beyond-the-file": tensors(hidden_states=STATES | {"data_offsets": [8, 2**40]}),
    "offsets-backwards": tensors(hidden_states=STATES | {"data_offsets": [20, 8]}),
    "offsets-negative": tensors(hidden_states=STATES | {"data_offsets": [-12, 0]}),
    "tensors-over-one-another": tensors(bytes(16), hidden_states=STATES
                                        | {"data_offsets": [4, 16]}),
    "gap-between-tensors": tensors(bytes(24), hidden_states=STATES | {"data_offsets": [12, 24]}),
    "more-at-the-end": tensors(bytes(4096)),
    "cut-short": tensors()[:-1],
    "extra-fields": tensors(hidden_states=STATES | {"code": "import os"}),
    "metadata-of-numbers": tensors(__metadata__={"layers": [1]}),
    "metadata-that-is-a-list": tensors(__metadata__=["tistore"]),
    "identity-that-is-no-json": tensors(__metadata__={"tistore": "{"}),
    "identity-of-wrong-types": tensors(__metadata__={"tistore": '{"sample": "0"}'}),
    "identity-with-infinity": tensors(__metadata__={"tistore": '{"logprobs": [1e999]}'}),
    "no-token-ids": packed({"hidden_states": STATES | {"data_offsets": [0, 12]}}, bytes(12)),
    "token-ids-of-floats": tensors(token_ids=IDS | {"dtype": "F32"}),
    "activations-of-integers": tensors(hidden_states=STATES | {"dtype": "I16"}),
    "two-activations": tensors(bytes(32), activations=STATES | {"data_offsets": [20, 32]}),
}  # fmt: skip


def npy(header, values=b"", version=b"\x01\x00"):
    content = header if isinstance(header, bytes) else repr(header).encode()
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(content))
    return b"\x93NUMPY" + version + size + content + values


def described(shape=(2, 1, 3), descr="<f4", fortran_order=False):
    return {"descr": descr, "fortran_order": fortran_order, "shape": shape}


def saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


NPY = {
    "pickled-objects": saved(np.array([Bomb()], dtype=object), allow_pickle=True),
    "bare-pickle": pickle.dumps(Bomb()),
    "shape-larger-than-the-file": npy(described((2**40, 1, 3)), bytes(24)),
    "shape-smaller-than-the-file": npy(described((1, 1, 3)), bytes(24)),
    "negative-npy-shape": npy(described((-2, -1, 3)), bytes(24)),
    "shape-of-texts": npy(described(("2",)), bytes(24)),
    "shape-of-100-axes": npy(described((2**40,) * 100), bytes(24)),
    "header-of-4-GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
    "header-that-calls": npy(b"__import__('os').system('touch canary')", bytes(24)),
    "header-nested": npy(b"(" * 9000 + b")" * 900, bytes(24)),
    "header-of-other-keys": npy({"descr": "<f4"}, bytes(24)),
    "version-9": npy(described(), bytes(24), b"\x09\x00"),
    "records": npy(described(descr=[("a", "<f4")]), bytes(24)),
    "times": npy(described(descr="<M8[s]"), bytes(48)),
    "elements-of-99-bytes": npy(described(descr="<f99"), bytes(594)),
    "elements-without-type": npy(described(descr="<V2"), bytes(12)),
    "cut-within-its-header": saved(np.zeros((2, 1, 3)))[:40],
    "cut-within-its-values": saved(np.zeros((2, 1, 3)))[:-1],
}


def npz(entries, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, content in entries:
            made.writestr(name, content)
    return buffer.getvalue()


IDS_NPY = ("token_ids.npy", saved(np.arange(2)))
STATES_NPY = ("hidden_states.npy", saved(np.zeros((2, 1, 3), np.float32)))


def zip_bomb(claimed=1 << 30):
    """An array of a GB of zeros in a MB, written without holding it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        made.writestr(*IDS_NPY)
        with made.open("hidden_states.npy", "w", force_zip64=True) as entry:
            header = npy(described((claimed // 4, 1, 1)))
            entry.write(header)
            for _ in range(claimed >> 20):
                entry.write(bytes(1 << 20))
    return buffer.getvalue()


def lying_npz():
    """An archive whose table says that the array unpacks to a tenth of what it does."""
    content = npz([IDS_NPY, ("hidden_states.npy", saved(np.zeros((10, 1, 1000))))])
    at = content.rindex(b"PK\x01\x02")
    return content[: at + 24] + struct.pack("<I", 8128) + content[at + 28 :]


NPZ = {
    "npz-bomb": zip_bomb(96 << 20),
    "npz-of-objects": npz([IDS_NPY, ("hidden_states.npy", NPY["pickled-objects"])]),
    "npz-cut-short": npz([IDS_NPY, STATES_NPY])[:-30],
    "npz-with-altered-values": npz([IDS_NPY, STATES_NPY], zipfile.ZIP_STORED).replace(
        bytes(24), b"\x00\x3c" * 12
    ),
    "npz-whose-table-lies": lying_npz(),
    "npz-of-50000-entries": npz([(f"{n}.npy", b"") for n in range(50_000)], zipfile.ZIP_STORED),
    "npz-packed-by-lzma": npz([IDS_NPY, STATES_NPY], zipfile.ZIP_LZMA),
    "npz-whose-shape-lies": npz([IDS_NPY, ("hidden_states.npy", npy(described((9**9, 1, 1))))]),
    "npz-without-token-ids": npz([STATES_NPY]),
    "npz-whose-identity-is-a-pickle": npz(
        [IDS_NPY, STATES_NPY, ("tistore.npy", NPY["pickled-objects"])]
    ),
}


def stream(table, **options):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table)
    return sink.getvalue()


def table(states, ids=None, **columns):
    ids = [[1, 2]] * len(states) if ids is None else ids
    return pa.table({"token_ids": ids, "hidden_states": states, **columns})


GOOD_ROWS = [[[[0.5, 1.0]], [[2.0, 3.0]]]]


def zstd_claiming(n_bytes):
    """A stream whose packed values say that they unpack to `n_bytes`."""
    content = stream(table(GOOD_ROWS * 400), compression="zstd")
    at = content.rindex(b"\x28\xb5\x2f\xfd")
    return content[: at - 8] + struct.pack("<q", n_bytes) + content[at:]


def pickled_extension():
    """A column of a type that old versions of pyarrow would unpickle."""
    named = {"ARROW:extension:name": "arrow.py_extension_type",
             "ARROW:extension:metadata": pickle.dumps(Bomb())}  # fmt: skip
    made = table([[["a"]]])
    states = made.schema.field(1).with_metadata(named)
    return stream(made.cast(pa.schema([made.schema.field(0), states])))


def parquet(made, **options):
    sink = io.BytesIO()
    pq.write_table(made, sink, **options)
    return sink.getvalue()


def zeros(n):
    """One sample of n values, all the same: a few bytes of Parquet."""
    values = pa.array(np.zeros(n, np.float32))
    for length in (n, 1, 1):
        offsets = np.arange(0, len(values) + 1, length, dtype=np.int32)
        values = pa.ListArray.from_arrays(offsets, values)
    return pa.table({"token_ids": pa.array([[1]]), "hidden_states": values})


ARROW = {
    "arrow-of-nothing": b"",
    "arrow-of-zeros": bytes(4096),
    "arrow-cut-short": stream(table(GOOD_ROWS * 100))[:-2000],
    "arrow-cut-in-its-schema": stream(table(GOOD_ROWS))[:100],
    "arrow-of-a-huge-schema": b"\xff\xff\xff\xff" + struct.pack("<i", 2**31 - 1) + bytes(64),
    "arrow-unpacking-to-a-TB": zstd_claiming(1 << 40),
    "arrow-unpacking-to-less-than-nothing": zstd_claiming(-(1 << 40)),
    "arrow-with-a-pickled-type": pickled_extension(),
    "arrow-of-ragged-rows": stream(table([[[[1.0]], [[1.0, 2.0]]]])),
    "arrow-with-missing-values": stream(table([[[[1.0, None]], [[1.0, 2.0]]]])),
    "arrow-of-texts": stream(table([[[["a"]]]])),
    "arrow-without-token-ids": stream(pa.table({"hidden_states": GOOD_ROWS})),
    "arrow-with-two-columns-of-a-name": stream(
        pa.Table.from_arrays([pa.array([[1]])] * 2, names=["token_ids"] * 2)
    ),
    "arrow-with-wrong-fields": stream(table(GOOD_ROWS, sample=pa.array([-1]))),
    "parquet-cut-short": parquet(table(GOOD_ROWS))[:-20],
    "parquet-of-garbage": b"PAR1" + bytes(range(256)) * 8 + b"PAR1",
    "parquet-of-a-huge-footer": b"PAR1" + bytes(64) + struct.pack("<i", 2**31 - 1) + b"PAR1",
    "parquet-that-grows": parquet(zeros(16 << 20), compression="zstd"),
}

FORMATS = {"safetensors": SAFETENSORS, "npy": NPY, "npz": NPZ, "arrow": ARROW}

READ_CORPUS = """
import sys
from pathlib import Path
from tistore.datasets.foreign.arrow_dataset import read_arrow_dataset
from tistore.datasets.foreign.numpy_samples import read_numpy_samples
from tistore.datasets.foreign.safetensors_samples import read_safetensors_samples
from tistore.datasets.foreign.sample import Unreadable
from tistore.errors import DatasetError

MOST = 16 << 20
readers = {"safetensors": read_safetensors_samples, "npy": read_numpy_samples,
           "npz": read_numpy_samples}
done = []
programs = {"pickle.find_class", "os.system", "os.exec", "os.fork", "socket.connect"}
sys.addaudithook(lambda event, _: event in programs and done.append(event))
def peak():
    # Unlike ru_maxrss, not that of the process that started this one.
    (line,) = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    return int(line.split()[1])
before = peak()
said = {}
folder = Path(sys.argv[1])
sources = [path for path in sorted(folder.iterdir()) if not path.name.endswith(".token_ids.npy")]
for source in sources:
    # The Arrow files are one data set: a process each would take too long.
    read = read_arrow_dataset if source.is_dir() else readers[source.suffix[1:]]
    for found in read(source, limit_bytes=MOST):
        if not isinstance(found, Unreadable):
            try:
                for name in found.arrays:
                    found.read(name)
            except DatasetError as error:
                found = Unreadable(found.where, str(error))
        reason = found.reason if isinstance(found, Unreadable) else None
        said.setdefault(found.where.partition("#")[0], []).append(reason)
grown = peak() - before
print(repr((said, done, grown >> 10)))
"""


def places(folder):
    """Where each file lies, by its name."""
    return {
        f"{name}.{ending}": (folder / "arrow" if ending == "arrow" else folder) / f"{name}.{ending}"
        for ending, files in FORMATS.items()
        for name in files
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """What became of every file: the reasons, what ran, how many MB of memory it took."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "arrow").mkdir()
    for name, path in places(folder).items():
        path.write_bytes(FORMATS[path.suffix[1:]][path.stem])
        if name.endswith(".npy"):
            path.with_suffix(".token_ids.npy").write_bytes(saved(np.arange(2)))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
    done = subprocess.run(
        [sys.executable, "-c", limited + READ_CORPUS, folder],
        capture_output=True, text=True, timeout=120, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, *ast.literal_eval(done.stdout)


@pytest.mark.parametrize("name", places(Path()))
def test_a_hostile_sample_is_refused_by_name(corpus, name):
    folder, said, _, _ = corpus
    path = str(places(folder)[name])

    reason = said[path][-1]

    assert reason is not None and path in reason
    assert "Traceback" not in reason


REASONS = {
    "header-of-2-63-bytes.safetensors": "its header claims 9,223,372,036,854,775,808 bytes",
    "header-nested-without-end.safetensors": "its header is no JSON: ",
    "header-of-a-million-lists.safetensors": "more than 1,000,000 lists and objects",
    "key-twice.safetensors": "names the key 'hidden_states' twice",
    "unknown-dtype.safetensors": "its tensor 'hidden_states' is 'F4'",
    "negative-shape.safetensors": "not whole numbers from 0",
    "shape-of-a-million-axes.safetensors": "shape of 'hidden_states' is a list",
    "offsets-beyond-the-file.safetensors": "ends at byte 1,099,511,627,776 of 20",
    "tensors-over-one-another.safetensors": "its tensors overlap at byte 4",
    "gap-between-tensors.safetensors": "its tensors leave a gap at byte 8",
    "more-at-the-end.safetensors": "its tensors end at byte 20, but 4,096",
    "pickled-objects.npy": "it holds pickled Python objects",
    "shape-larger-than-the-file.npy": "it claims 13,194,139,533,312 bytes of values, but has 24",
    "header-of-4-GB.npy": "its header claims 4,294,967,295 bytes",
    "header-that-calls.npy": "its header is no Python literal",
    "elements-without-type.npy": "bfloat16, perhaps",
    "npz-bomb.npz": "no activations do",
    "npz-of-objects.npz": "pickled objects, perhaps",
    "npz-of-50000-entries.npz": "its table of contents claims",
    "npz-with-altered-values.npz": "Bad CRC-32",
    "arrow-unpacking-to-a-TB.arrow": "malloc of size 1099511627776 failed",
    "arrow-of-ragged-rows.arrow": "its column hidden_states is ragged",
    "arrow-with-missing-values.arrow": "holds missing values",
    "parquet-that-grows.arrow": "a row takes",
}
"""What some of them are refused for: the reason that was meant, not another."""


@pytest.mark.parametrize("name", REASONS)
def test_a_hostile_sample_is_refused_for_what_is_wrong_with_it(corpus, name):
    folder, said, _, _ = corpus

    assert REASONS[name] in said[str(places(folder)[name])][-1]


def test_nothing_in_the_corpus_ran_and_memory_stayed_small(corpus):
    folder, said, done, grown_mb = corpus

    assert len(said) >= 70
    assert done == []
    assert not (folder / "canary").exists()
    assert 0 < grown_mb < 300


def test_the_process_for_arrow_has_a_limit_of_its_own(tmp_path):
    from tistore.datasets.foreign.arrow_dataset import read_arrow_dataset

    (tmp_path / "x.arrow").write_bytes(zstd_claiming(3 << 30))

    (refused,) = read_arrow_dataset(tmp_path)

    assert "malloc of size 3221225472 failed" in refused.reason


@pytest.mark.parametrize("ending", [".safetensors", ".npy"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, ending):
    from tistore.datasets.foreign.numpy_samples import read_numpy_samples
    from tistore.datasets.foreign.safetensors_samples import read_safetensors_samples

    secret = tmp_path / f"secret{ending}"
    secret.write_bytes(tensors() if ending == ".safetensors" else saved(np.zeros((2, 1, 3))))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"1{ending}").symlink_to(secret)
    (folder / "1.token_ids.npy").write_bytes(saved(np.arange(2)))
    read = read_safetensors_samples if ending == ".safetensors" else read_numpy_samples

    (found,) = read(folder)

    assert "is a link out of" in found.reason


@pytest.mark.parametrize("beside", ["1.json", "1.token_ids.npy"])
def test_a_link_beside_a_sample_is_refused_too(tmp_path, beside):
    from tistore.datasets.foreign.numpy_samples import read_numpy_samples

    secret = tmp_path / "secret"
    secret.write_bytes(saved(np.arange(2)) if beside.endswith("npy") else b'{"token_ids": [1, 2]}')
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.npy").write_bytes(saved(np.zeros((2, 1, 3))))
    (folder / beside).symlink_to(secret)

    found = list(read_numpy_samples(folder))

    assert found and all("is a link out of" in refused.reason for refused in found)


# Fuzzing: a valid file with some bytes changed is refused, or read as other values; nothing else.

EDITS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from(["flip", "cut", "add"]), st.binary(min_size=1,
                                                                                     max_size=8)),
    min_size=1, max_size=3,
)  # fmt: skip
FUZZING = settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def edited(content, edits):
    raw = bytearray(content)
    for place, kind, piece in edits:
        at = place % len(raw)
        if kind == "flip":
            raw[at : at + len(piece)] = piece
        elif kind == "cut":
            del raw[at : at + len(piece)]
        else:
            raw[at:at] = piece
    return bytes(raw)


def read_tensors(path):
    return read_safetensors(path).tensors.values()


def read_archive(path):
    read = read_npz(path)
    return [read.array(name) for name in read.headers]


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (tensors(), read_tensors),
        (saved(np.zeros((2, 1, 3))), lambda path: [read_npy(path)]),
        (npz([IDS_NPY, STATES_NPY]), read_archive),
    ],
    ids=["safetensors", "npy", "npz"],
)
@FUZZING
@given(edits=EDITS)
def test_an_altered_file_is_refused_or_read(tmp_path, content, read, edits):
    path = tmp_path / "altered"
    path.write_bytes(edited(content, edits))

    try:
        for values in read(path):
            assert values.read().nbytes == values.nbytes
    except ForeignFileError as error:
        assert str(path) in str(error)
