"""
Files made to do harm: nothing in them runs, nothing grows beyond its cap, each is refused by name.

The corpus is read in a process of its own, under a limit of address space and with an audit hook
that writes down everything but reading.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tistore.datasets.torch_files import TensorView, read_torch_file
from tistore.datasets.torch_files.legacy_stream import read_stream
from tistore.datasets.torch_files.names import _NAMES
from tistore.datasets.torch_files.source import SourceFile, naming
from tistore.datasets.torch_files.tree import check_tree
from tistore.errors import ForeignFileError

MIB = 1 << 20
NOT_DATA = "which is not data"

# Pickles, instruction by instruction.

START, STOP = b"\x80\x02", b"."


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(module, attribute, *arguments):
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def storage(key="0", kind="FloatStorage", n=4, module="torch"):
    return b"(" + text("storage") + name(module, kind) + text(key) + text("cpu") + number(n) + b"tQ"


def tensor(where, offset=0, shape=(4,), stride=(1,), function="_rebuild_tensor_v2"):
    arguments = [where, number(offset), numbers(*shape), numbers(*stride), b"\x89", b"}"]
    return call("torch._utils", function, *arguments)


def doubling(levels):
    """Hold a value twice, that twice, and so on: 2^levels values in a few bytes a level."""
    return b")" + b"q\x00h\x00\x86" * levels


# Archives.


def archive(pickled=START + b"N" + STOP, storages=None, extra=None, compression=zipfile.ZIP_STORED):
    """An archive like torch's, around any pickle, with right checksums."""
    storages = {"0": bytes(16)} if storages is None else storages
    entries = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": content for key, content in storages.items()} | (extra or {})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for entry, content in entries.items():
            made.writestr(zipfile.ZipInfo(f"a/{entry}"), content, compression)
    return buffer.getvalue()


def of(body, storages=None):
    """An archive whose pickle is a dict with one value, made by `body`."""
    return archive(START + b"}" + text("x") + body + b"s" + STOP, storages)


def raw_archive(entries):
    """An archive with every field as told: (name, content, changes to the table's row)."""
    out, table = io.BytesIO(), b""
    for entry, content, changes in entries:
        raw = entry if isinstance(entry, bytes) else entry.encode()
        row = {"flags": 0, "method": 0, "crc": zlib.crc32(content), "size": len(content)}
        row |= {"packed": row["size"], "at": out.tell(), "extra": b"", "name": raw} | changes
        lengths = (len(raw), 0)
        head = (20, 8 | row["flags"], row["method"], 0, 0, 0, 0, 0)  # torch writes no sizes here
        out.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", *head, *lengths) + raw + content)
        fields = (20, 20, row["flags"], row["method"], 0, 0, row["crc"], row["packed"], row["size"])
        fields += (len(row["name"]), len(row["extra"]), 0, 0, 0, 0, row["at"])
        table += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *fields) + row["name"] + row["extra"]
    start = out.tell()
    end = (0, 0, len(entries), len(entries), len(table), start, 0)
    return out.getvalue() + table + struct.pack("<4s4H2LH", b"PK\x05\x06", *end)


ONE_TENSOR = START + tensor(storage()) + STOP


def with_row(**changes):
    """A valid archive but for one row of its table of contents."""
    return raw_archive([("a/data.pkl", ONE_TENSOR, {}), ("a/data/0", bytes(16), changes)])


def with_name(entry):
    return raw_archive([("a/data.pkl", ONE_TENSOR, {}), (entry, bytes(16), {})])


def with_end(**changes):
    content = with_row()
    names = ("n_here", "n", "size", "at")
    end = dict(zip(names, struct.unpack("<2H2L", content[-14:-2]), strict=True))
    return content[:-14] + struct.pack("<2H2L", *(end | changes).values()) + content[-2:]


def zip64_end(**changes):
    content = with_row()
    n_here, n, size, at = struct.unpack("<2H2L", content[-14:-2])
    fields = {"n_here": n_here, "n": n, "size": size, "at": at} | changes
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *fields.values())
    place = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(content) - 22, 1)
    return content[:-22] + wide + place + content[-22:]


ONE_KEY = b"](" + text("0") + b"e"
ONE_STORAGE = struct.pack("<q", 4) + bytes(16)
TWO_FLOATS = b"B" + struct.pack("<I", 8) + bytes(8)


def legacy(body, keys=ONE_KEY, storages=ONE_STORAGE):
    """A file from before torch 1.6 around any pickle."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    return magic + START + body + STOP + START + keys + STOP + storages


def numpy_array(code="f4", shape=(2,), content=TWO_FLOATS):
    dtype = call("numpy", "dtype", text(code), b"\x89", b"\x88")
    begun = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\x00\x85",
                 b"C\x01b")  # fmt: skip
    return begun + b"(" + number(1) + numbers(*shape) + dtype + b"\x89" + content + b"tb"


def attacks(canary):
    """Pickles that would touch the canary, or reach for what could."""
    touch = text(f"touch {canary}")
    python = text(f"open({canary!r}, 'w')")
    importing = text(f"__import__('os').system('touch {canary}')")
    system = name("posix", "system")
    return {
        "os.system": call("os", "system", touch),
        "posix.system": call("posix", "system", touch),
        "nt.system": call("nt", "system", touch),
        "eval": call("builtins", "eval", importing),
        "eval, Python 2": call("__builtin__", "eval", importing),
        "exec": call("builtins", "exec", python),
        "open": call("builtins", "open", text(canary), text("w")),
        "io.open": call("io", "open", text(canary), text("w")),
        "compile": call("builtins", "compile", python, text("a"), text("exec")),
        "__import__": call("builtins", "__import__", text("os")),
        "getattr chain": call("builtins", "getattr", name("torch", "Size"), text("__class__")),
        "getattr of an import": call(
            "builtins", "getattr", call("importlib", "import_module", text("os")), text("system")
        ),
        "importlib": call("importlib", "import_module", text("os")),
        "runpy": call("runpy", "run_path", text(canary)),
        "subprocess.run": call("subprocess", "run", b"](" + text("touch") + text(canary) + b"e"),
        "subprocess.Popen": call("subprocess", "Popen", touch),
        "numpy.f2py": call("numpy.f2py", "compile", text("x")),
        "numpy.load": call("numpy", "load", text(canary)),
        "numpy testing": call("numpy.testing._private.utils", "runstring", importing, b"}"),
        "webbrowser": call("webbrowser", "open", text("file:///etc/passwd")),
        "socket": call("socket", "create_connection", b"(" + text("127.0.0.1") + number(9) + b"t"),
        "copyreg": call("copyreg", "_reconstructor", name("os", "_wrap_close"), b"N", b"N"),
        "operator.attrgetter": call("operator", "attrgetter", text("system")),
        "operator.methodcaller": call("operator", "methodcaller", text("system"), touch),
        "functools.partial": call("functools", "partial", system, touch),
        "builtins.map": call("builtins", "map", system, b"](" + touch + b"e"),
        "types.FunctionType": call("types", "FunctionType", b"N", b"}"),
        "marshal": call("marshal", "loads", b"C\x01N"),
        "pickle.loads": call("pickle", "loads", b"C\x02N."),
        "torch.load": call("torch", "load", text("evil.pt")),
        "torch.jit": call("torch.jit", "load", text("evil.pt")),
        "torch.hub": call("torch.hub", "load", text("a/b"), text("c")),
        "torch extension": call("torch.utils.cpp_extension", "load_inline", text("a"), text("b")),
        "torch.ops": call("torch.ops", "load_library", text("evil.so")),
        "ctypes": call("ctypes", "CDLL", text("evil.so")),
        "a dotted name": call("torch", "serialization.os.system", touch),
        "a dotted module": call("torch.serialization.os", "system", touch),
        "a name from the stack": text("os") + text("system") + b"\x93(" + touch + b"tR",
        "INST": b"(" + touch + b"ios\nsystem\n",
        "OBJ": b"(" + system + touch + b"o",
        "NEWOBJ": name("collections", "OrderedDict") + b")\x81",
        "EXT1": b"\x82\x01",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "PERSID": b"Pos.system\n",
        "an attack as persistent id": call("os", "system", touch) + b"Q",
        "setstate of a class": name("torch", "Size") + b"}" + text("__setstate__") + system + b"sb",
        "a call of a tensor": tensor(storage()) + b")R",
        "a call of a storage class": name("torch", "FloatStorage") + b")R",
        "a factory that is a command": call("collections", "defaultdict", system),
        "a tensor rebuilt by a command": call(
            "torch._tensor", "_rebuild_from_type_v2", system, name("torch", "Tensor"),
            b"(" + touch + b"t", b"N",
        ),
        "hooks that are commands": call(
            "torch._utils", "_rebuild_tensor_v2", storage(), number(0), numbers(4), numbers(1),
            b"\x89", b"}" + number(0) + text("hook") + b"s",
        ),
        "a codec that is code": call("_codecs", "encode", text("x"), text("rot13")),
        "a NumPy array of objects": numpy_array(code="O8"),
    }  # fmt: skip


def impossible_tensors():
    x = storage()
    return {
        "32 GiB by stride 0": tensor(x, shape=(2**33,), stride=(0,)),
        "many of 200 MiB by stride 0": b"]("
        + b"".join(tensor(x, shape=(50 * MIB,), stride=(0,)) for _ in range(200))
        + b"e",
        "one of 200 MiB, many times": b"]("
        + tensor(x, shape=(50 * MIB,), stride=(0,))
        + b"q\x05"
        + b"h\x05" * 5000
        + b"e",
        "a negative length": tensor(x, shape=(-4,)),
        "a negative stride": tensor(x, stride=(-1,)),
        "a negative offset": tensor(x, offset=-1),
        "an offset beyond its storage": tensor(x, offset=1),
        "a shape beyond its storage": tensor(x, shape=(5,)),
        "a stride beyond its storage": tensor(x, shape=(2,), stride=(4,)),
        "a product that overflows": tensor(x, shape=(2**33, 2**33), stride=(1, 1)),
        "no values, in 2^60 columns": tensor(x, shape=(0, 2**60, 8), stride=(1, 1, 1)),
        "a number beyond 64 bits": tensor(x, shape=(2**80,)),
        "65 axes": tensor(x, shape=(1,) * 65, stride=(1,) * 65),
        "more axes than strides": tensor(x, shape=(2, 2), stride=(1,)),
        "a shape of text": call(
            "torch._utils", "_rebuild_tensor_v2", x, number(0), text("4444"), numbers(1), b"\x89}"
        ),
        "a shape of truth": call(
            "torch._utils", "_rebuild_tensor_v2", x, number(0), b"\x88\x85", numbers(1), b"\x89}"
        ),
        "too few arguments": call("torch._utils", "_rebuild_tensor_v2", x),
        "a storage that is text": tensor(text("storage")),
        "a type that is text": call(
            "torch._utils", "_rebuild_tensor_v3", x, number(0), numbers(4), numbers(1), b"\x89",
            b"}", text("torch.float32"),
        ),
        "a wider type than its storage": call(
            "torch._utils", "_rebuild_tensor_v3", x, number(0), numbers(4), numbers(1), b"\x89",
            b"}", name("torch", "float64"),
        ),
        "more elements than its storage has": tensor(storage(n=5), shape=(5,)),
        "8 Gi elements, 16 bytes": tensor(storage(n=2**33), shape=(2**33,)),
        "fewer elements than its storage has": tensor(storage(n=3), shape=(3,)),
        "another type than its storage": tensor(storage(kind="DoubleStorage")),
        "one storage of two types": b"](" + tensor(x) + tensor(storage(kind="IntStorage")) + b"e",
        "a storage that is not there": tensor(storage(key="7")),
        "a storage that is a path": tensor(storage(key="../../../../etc/passwd")),
        "a storage that is another entry": tensor(storage(key="../data.pkl")),
        "a negative number of elements": tensor(storage(n=-4)),
        "a class that is no storage": tensor(storage(kind="Size")),
        "a persistent id that is a pickle": b"C\x02N.Q",
        "a persistent id of a module": b"(" + text("module") + name("torch", "Tensor") + b"tQ",
        "a sparse tensor": call("torch._utils", "_rebuild_sparse_tensor", b"N"),
        "a quantised tensor": call("torch._utils", "_rebuild_qtensor", b"N"),
        "an array shorter than its shape": numpy_array(shape=(2**30,)),
        "an array without content": numpy_array(shape=(0, 2**39), content=b"N"),
        "a dtype of a million fields": numpy_array(code="f4," * 100_000),
        "a dtype of empty text": numpy_array(code="S0", shape=(2**30,), content=b"C\x00"),
    }  # fmt: skip


def bombs():
    """Pickles that are small and become large, deep or endless."""
    big = b"X" + struct.pack("<I", 8 * MIB) + b"x" * (8 * MIB)
    keys = b"".join(numbers(i, 0) + b"N" for i in range(20_000))
    return {
        "tuples that double": doubling(60),
        "lists that double": b"(" * 60 + b"]" + b"q\x00h\x00l" * 60,
        "tuples that double, as a key": b"}" + doubling(60) + b"Ns",
        "tuples that double, in a set": b"\x8f(" + doubling(60) + b"\x90",
        "a thousand laughs": b"](" + big + b"q\x00" + b"h\x00" * 100_000 + b"e",
        "lists 200,000 deep": b"]" * 200_000 + b"a" * 199_999,
        "tuples 200,000 deep": b")" + b"\x85" * 200_000,
        "tuples 200,000 deep, as a key": b"})" + b"\x85" * 200_000 + b"Ns",
        "a list that holds itself": b"]q\x00h\x00a",
        "a dict that holds itself": b"}q\x00" + text("a") + b"h\x00s",
        "a whole number of 100 MB": b"\x8b" + struct.pack("<i", 100_000_000) + b"\x01" * 100,
        "a whole number of -1 bytes": b"\x8b" + struct.pack("<i", -1),
        "text of 4 GB": b"X\xff\xff\xff\xffabc",
        "text of 2^63 bytes": b"\x8d" + struct.pack("<Q", 2**63) + b"abc",
        "bytes of 2^62": b"\x8e" + struct.pack("<Q", 2**62) + b"abc",
        "a byte array of 2^62": b"\x96" + struct.pack("<Q", 2**62) + b"abc",
        "old text of -1 bytes": b"T" + struct.pack("<i", -1),
        "a frame of 2^62": b"\x95" + struct.pack("<Q", 2**62) + b"N",
        "memory at place 4 billion, recalled beyond": b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff",
        "memory never kept": b"h\x05",
        "60 million empty lists": b"(" + b"]" * (60 * MIB) + b"t",
        "3 million marks": b"(" * (3 * MIB),
        "15 million empty sets": b"(" + b"\x8f" * (15 * MIB) + b"t",
        "8 MiB of text, copied a thousand times": b"]("
        + big.replace(b"x" * 8, b"\xc3\xbf" * 4)
        + b"q\x00"
        + text("latin1")
        + b"q\x01"
        + (name("_codecs", "encode") + b"h\x00h\x01\x86R") * 1000
        + b"e",
        "a pickle over its cap": b"X" + struct.pack("<I", 65 * MIB) + b"x" * (65 * MIB),
        "whole numbers that collide, as keys": b"}("
        + b"".join(number((2**61 - 1) << 64 + i) + b"N" for i in range(300))
        + b"u",
        "a tensor as key": b"}" + tensor(storage()) + b"Ns",
        "a list as key": b"}]Ns",
        "a dict in a set": b"\x8f(}\x90",
        "keys that collide": b"}(" + keys + b"u",
        "a stack that runs dry": b"\x87",
        "a mark that is missing": b"t",
        "an item for no list": b"NNa",
        "half a pair": b"}(Nu",
        "several values": b"NN",
        "an unknown instruction": b"\xff",
        "a name without end": b"c" + b"a" * 100_000,
        "a name that is no text": b"c\xff\xfe\nx\n",
        "text that is no text": b"X\x02\x00\x00\x00\xff\xfe",
        "a protocol from the future": b"\x80\x63",
        "a call of text": text("os.system") + b")R",
        "a state for text": text("a") + b"}b",
        "a pair that is none": call("collections", "OrderedDict", b"](NNe"),
        "a device with a long name": call("torch", "device", text("x" * MIB)),
    }


def damaged_archives():
    pickled = ("a/data.pkl", ONE_TENSOR, {})
    whole = with_row()
    zero = "a/data/0"
    far = struct.pack("<4sLQL", b"PK\x06\x07", 0, 2**62, 1)
    second = 30 + len("a/data.pkl") + len(ONE_TENSOR)  # where the second header begins
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 8, 0, 0, 0, 0, 0, 0, len(zero), 0)
    header += zero.encode()

    two = START + b"](" + tensor(storage()) + tensor(storage("1", n=2), shape=(2,)) + b"e" + STOP

    def at(place):
        return (zero, b"", {"at": place, "size": 16, "packed": 16, "crc": 0})

    inside = struct.pack("<2H2Q", 1, 16, 2**40, 2**40)
    return {
        "a path out of it": with_name("../../../tmp/evil"),
        "a path from the root": with_name("/etc/passwd"),
        "a path with dots inside": with_name("a/data/../../0"),
        "a path of another system": with_name("a\\..\\0"),
        "a name with NUL": with_name("a/data/0\0.txt"),
        "a name with a newline": with_name("a/data/0\n"),
        "a name that turns the text": with_name("a/\u202edata/0"),
        "a name that is no text": with_name(b"a/\xff\xfe"),
        "two folders": with_name("b/data/0"),
        "an entry twice": raw_archive([pickled, pickled, ("a/data/0", bytes(16), {})]),
        "a zip bomb": archive(ONE_TENSOR, {"0": bytes(50 * MIB)}, None, zipfile.ZIP_DEFLATED),
        "a compressed pickle": archive(ONE_TENSOR, compression=zipfile.ZIP_DEFLATED),
        "an encrypted entry": with_row(flags=1),
        "a method nobody knows": with_row(method=99),
        "two sizes": with_row(packed=8),
        "a size beyond the file": with_row(size=2**31, packed=2**31),
        "a size of 1 TiB": with_row(size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=inside),
        "a size of 4 GiB without its field": with_row(size=0xFFFFFFFF, packed=0xFFFFFFFF),
        "a size into the table": with_row(size=64, packed=64),
        "an entry at the place of another": with_row(at=0),
        "an entry within another": with_row(at=5),
        "an entry beyond the file": with_row(at=2**31),
        "an entry called otherwise in its header": with_row(name=b"a/data/1"),
        "one content for two entries": raw_archive([pickled, (zero, bytes(16), {}), at(second)]),
        "an entry inside another's content": raw_archive(
            [pickled, ("a/data/1", header + bytes(16), {}), at(second + 30 + len("a/data/1"))]
        ),
        "an entry over the table of contents": with_row(size=17, packed=17),
        "a wrong checksum of the pickle": raw_archive(
            [("a/data.pkl", ONE_TENSOR, {"crc": 7}), (zero, bytes(16), {})]
        ),
        "a wrong checksum of the values": with_row(crc=7),
        "swapped storages": raw_archive(
            [("a/data.pkl", two, {}), ("a/data/1", bytes(16), {}), (zero, bytes(8), {})]
        ),
        "60,000 rows that are not there": with_end(n_here=60_000, n=60_000),
        "fewer rows than there are": with_end(n_here=1, n=1),
        "a table elsewhere": with_end(at=3),
        "a table of 4 GB": with_end(size=0xFFFFFFF0),
        "several disks": with_end(n_here=1),
        "2^60 rows": zip64_end(n_here=2**60, n=2**60),
        "a wide table of 2^60 bytes": zip64_end(size=2**60),
        "a wide table at 2^63": zip64_end(at=2**63),
        "a wide end at 2^62": whole[:-22] + far + whole[-22:],
        "something added": whole + b"#!/bin/sh\n",
        "a comment that hides a table": whole[:-2] + struct.pack("<H", len(whole)) + whole,
        "a beginning only": whole[: len(whole) // 2],
        "a beginning of a beginning": b"PK\x03\x04",
        "no pickle": raw_archive([("a/data/0", bytes(16), {})]),
        "something behind its pickle": archive(ONE_TENSOR + b"cos\nsystem\n"),
        "a TorchScript program": archive(ONE_TENSOR, extra={"constants.pkl": b"N."}),
        "a byte order of its own": archive(ONE_TENSOR, extra={"byteorder": b"x" * MIB}),
    }  # fmt: skip


def damaged_legacy_files(canary):
    touch = call("os", "system", text(f"touch {canary}"))
    one = tensor(storage(), function="_rebuild_tensor_v2")
    return {
        "a command": legacy(touch),
        "a command in its keys": legacy(one, keys=touch),
        "a command in its header": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + START + touch + STOP,
        "more elements in the storage": legacy(one, storages=struct.pack("<q", 2**40) + bytes(16)),
        "a negative number of elements": legacy(one, storages=struct.pack("<q", -1) + bytes(16)),
        "no storage": legacy(one, storages=b""),
        "half a storage": legacy(one, storages=struct.pack("<q", 4) + bytes(8)),
        "another storage": legacy(one, keys=b"](" + text("7") + b"e"),
        "no keys": legacy(one, keys=b"N"),
        "a storage of 2^50": legacy(
            tensor(storage(n=2**50)), storages=struct.pack("<q", 2**50) + bytes(16)
        ),
        "a part behind the storage": legacy(
            tensor(
                b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu")
                + number(4) + b"(" + text("1") + number(2**40) + number(4) + b"t" + b"tQ"
            )
        ),
        "another protocol": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1, 2) * 5,
        "32 GiB by stride 0": legacy(tensor(storage(), shape=(2**33,), stride=(0,))),
        "tuples that double": legacy(doubling(60), keys=b"]", storages=b""),
        "15 million empty sets": legacy(b"(" + b"\x8f" * (15 * MIB) + b"t"),
        "a thousand laughs": legacy(
            b"](" + text("x" * MIB) + b"q\x00" + b"h\x00" * 100 + b"e", keys=b"]", storages=b""
        ),
        "a name without end": legacy(b"c" + b"a" * 1000),
    }  # fmt: skip


def corpus(canary):
    """Every hostile file by what is wrong with it."""
    canary = str(canary)
    found = {f"run: {what}": of(body) for what, body in attacks(canary).items()}
    found |= {f"tensor: {what}": of(body) for what, body in impossible_tensors().items()}
    found |= {f"bomb: {what}": archive(START + body + STOP) for what, body in bombs().items()}
    found |= {f"zip: {what}": content for what, content in damaged_archives().items()}
    return found | {f"old: {what}": raw for what, raw in damaged_legacy_files(canary).items()}


# What the process that reads the corpus does.

WATCHED_READING = """
import json, os, resource, sys, time
from pathlib import Path
import numpy as np
from tistore.datasets.torch_files import TensorView, legacy, read_torch_file
from tistore.errors import ForeignFileError

folder, n_bytes = Path(sys.argv[1]), int(sys.argv[2])
events = []
HARMLESS = ("builtins.id", "object.__getattr__", "os.listdir", "os.scandir", "sys._getframe",
            "tempfile.mkstemp", "fcntl.fcntl", "os.putenv", "glob.glob", "code.__new__")

def watch(event, arguments):
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    if event not in HARMLESS:
        events.append((event, repr(arguments)[:800]))

def tensors(value):
    if isinstance(value, TensorView):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

os.environ["UNTOUCHED"] = "yes"
read_torch_file(folder / "valid.pt")["x"].read()
read_torch_file(folder / "valid-old.pt")["x"].read()
resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
sys.addaudithook(watch)
report = {}
for path in sorted(folder.glob("*.pt")):
    events.clear()
    Path("/proc/self/clear_refs").open("w").write("5")
    events.clear()
    before, started = peak(), time.monotonic()
    try:
        for view in tensors(read_torch_file(path)):
            view.read()
        outcome = "read"
    except ForeignFileError as error:
        outcome = str(error)
    except BaseException as error:
        outcome = f"BROKE: {error!r}"
    report[path.stem] = {
        "outcome": outcome, "seconds": time.monotonic() - started, "bytes": peak() - before,
        "events": list(events),
    }
assert os.environ["UNTOUCHED"] == "yes"
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    return tmp_path_factory.mktemp("canary") / "touched"


@pytest.fixture(scope="module")
def report(tmp_path_factory, canary):
    """What became of each file: outcome, seconds, bytes of memory, audited events."""
    folder = tmp_path_factory.mktemp("corpus")
    titles = {}
    for index, (title, content) in enumerate(corpus(canary).items()):
        (folder / f"{index:03}.pt").write_bytes(content)
        titles[f"{index:03}"] = title
    torch.save({"x": torch.ones(3)}, folder / "valid.pt")
    torch.save({"x": torch.ones(3)}, folder / "valid-old.pt", _use_new_zipfile_serialization=False)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED_READING, folder, str(2048 * MIB)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {titles.get(stem, stem): {**entry, "file": stem} for stem, entry in found.items()}


TITLES = sorted(corpus("/canary"))


def test_the_corpus_is_large():
    assert len(TITLES) >= 150
    assert len([title for title in TITLES if title.startswith("run:")]) >= 40


def test_the_rig_reads_what_is_harmless(report):
    assert report["valid"]["outcome"] == report["valid-old"]["outcome"] == "read"


@pytest.mark.parametrize("title", TITLES)
def test_a_hostile_file_is_refused_by_name_and_nothing_runs(report, canary, title):
    entry = report[title]

    assert f"{entry['file']}.pt: " in entry["outcome"], entry["outcome"]
    assert len(entry["outcome"]) < 600 and entry["outcome"].isascii()
    assert len(entry["outcome"].splitlines()) == 2  # what is wrong, and what to do
    assert not canary.exists()
    for event, arguments in entry["events"]:
        # The one thing started is the process for files from before torch 1.6.
        assert title.startswith("old:"), (event, arguments)
        assert event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "open", "import",
                         "os.remove", "os.unlink"), (event, arguments)  # fmt: skip
        if event == "subprocess.Popen":
            assert "'-I'" in arguments and "legacy_child" in arguments
        if event == "open":
            assert "/tmp" in arguments or "/dev/null" in arguments


@pytest.mark.parametrize("title", TITLES)
def test_a_hostile_file_takes_little_memory_and_time(report, title):
    entry = report[title]
    is_bomb = title.startswith("bomb:") or "million" in title

    assert entry["bytes"] < (576 if is_bomb else 64) * MIB
    assert entry["seconds"] < 30


def test_names_that_are_refused_are_shown(report):
    for title, shown in [
        ("run: posix.system", "names posix.system, which is not data"),
        ("run: eval", "names builtins.eval"),
        ("run: a name from the stack", "names os.system"),
        ("run: a dotted name", "names torch.serialization.os.system"),
        ("run: INST", "(INST)"),
        ("run: functools.partial", "names functools.partial"),
        ("zip: a path out of it", "'../../../tmp/evil' has a name torch never writes"),
        ("tensor: 32 GiB by stride 0", "34,359,738,368 bytes"),
        ("tensor: a storage that is a path", "refers to a storage in a way torch never writes"),
        ("bomb: tuples that double", "repeats itself"),
        ("bomb: lists that double", "repeats itself"),
        ("bomb: a list that holds itself", "contains itself"),
        ("zip: a wrong checksum of the pickle", "'a/data.pkl' does not match its checksum"),
        ("zip: a wrong checksum of the values", "values at byte"),
        ("bomb: whole numbers that collide, as keys", "a number beyond 64 bits"),
        ("bomb: a tensor as key", "as a key, a TensorView"),
        ("zip: a name with NUL", "a name torch never writes"),
        ("zip: a path of another system", "a name torch never writes"),
        ("zip: a path from the root", "a path out of it"),
        ("zip: one content for two entries", "lies over another part"),
        ("zip: an entry inside another's content", "lies over another part"),
        ("zip: an entry over the table of contents", "lies over another part"),
        ("old: a command", "names os.system"),
    ]:
        assert shown in report[title]["outcome"]


def test_the_attacks_are_real(tmp_path):
    """The same bytes, given to Python's own unpickler, do touch the canary."""
    for title in ("os.system", "posix.system", "eval", "exec", "INST", "OBJ", "open",
                  "a name from the stack", "subprocess.run", "builtins.map"):  # fmt: skip
        canary = tmp_path / title.replace(" ", "_")
        pickled = START.replace(b"\x02", b"\x04") + attacks(str(canary))[title] + STOP
        code = f"import pickle; value = pickle.loads({pickled!r}); list(value or ())"
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)

        assert canary.exists(), title


def test_a_small_file_may_not_claim_32_gib(tmp_path):
    path = tmp_path / "claim.pt"
    torch.save({"x": torch.zeros(1).expand(2**33)}, path)
    assert path.stat().st_size < 2000
    assert torch.load(path, weights_only=True)["x"].numel() == 2**33

    with pytest.raises(ForeignFileError, match=r"claim\.pt: .*34,359,738,368 bytes"):
        read_torch_file(path)
    with pytest.raises(ForeignFileError, match=r"claim\.pt: .*a file of its size"):
        read_torch_file(path, limit_bytes=1 << 40)


CHILD_RIGHTS = """
import os, socket, subprocess, sys
from tistore.datasets.torch_files import legacy_child
legacy_child._limit()
tries = {
    "write": lambda: open(sys.argv[1], "w"),
    "system": lambda: os.system("true"),
    "process": lambda: subprocess.run(["true"]),
    "fork": lambda: os.fork(),
    "socket": lambda: socket.socket(),
    "import": lambda: __import__("webbrowser"),
    "exec": lambda: exec("1"),
    "remove": lambda: os.remove(sys.argv[1]),
    "memory": lambda: bytearray(3 << 30),
}
worked = []
for what, attempt in tries.items():
    try:
        attempt()
        worked.append(what)
    except (PermissionError, MemoryError, ImportError):
        pass
os.write(1, repr(worked).encode())
os._exit(0)
"""


def test_the_process_for_old_files_can_do_nothing_but_read(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CHILD_RIGHTS, tmp_path / "written"], capture_output=True, timeout=60
    )

    assert ast.literal_eval(done.stdout.decode()) == []
    assert not (tmp_path / "written").exists()


# Fuzzing: a valid file with some bytes changed is refused, or read as other values; nothing else.

SAVED = {
    "text": "Hé",
    "ids": [1, 2**40, -3],
    "nested": {0: {"residual": torch.arange(12.0).reshape(3, 4).T[1:]}, (1, "a"): None},
    "array": np.arange(3, dtype=np.int16),
    "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
    "float8": torch.ones(3).to(torch.float8_e4m3fn),
    "other": [torch.Size([1]), torch.float16, {1}, b"\xff", 1.5],
}


def saved_bytes(**options):
    buffer = io.BytesIO()
    torch.save(SAVED, buffer, **options)
    return buffer.getvalue()


VALID_ARCHIVE = saved_bytes()
VALID_LEGACY = saved_bytes(_use_new_zipfile_serialization=False)
with zipfile.ZipFile(io.BytesIO(VALID_ARCHIVE)) as _opened:
    VALID_PICKLE = _opened.read("archive/data.pkl")
    VALID_STORAGES = {
        entry.partition("data/")[2]: _opened.read(entry)
        for entry in _opened.namelist()
        if "/data/" in entry
    }

ALLOWED_NAMES = sorted(_NAMES)

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "cut", "repeat", "number"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def edited(content, edits):
    raw = bytearray(content)
    for kind, where, piece in edits:
        at = int(where * len(raw))
        if kind == "flip":
            raw[at : at + len(piece)] = bytes(
                a ^ b for a, b in zip(raw[at : at + len(piece)], piece, strict=False)
            )
        elif kind == "insert":
            raw[at:at] = piece
        elif kind == "delete":
            del raw[at : at + len(piece)]
        elif kind == "cut" and len(piece) == 8:
            del raw[at:]
        elif kind == "repeat":
            raw[at:at] = raw[at : at + 20 * len(piece)]
        elif kind == "number":
            raw[at : at + 4] = struct.pack("<i", -1 if piece[0] % 2 else 2**31 - 1)
    return bytes(raw)


def views_in(value):
    if isinstance(value, TensorView):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from views_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from views_in(item)


def read_all(path, read):
    """Read a file and every tensor in it, in bounded time; any other error fails the test."""
    started = time.process_time()
    try:
        for view in views_in(read(path)):
            assert view.read().nbytes == view.nbytes
    except ForeignFileError as error:
        assert str(path) in str(error)
        assert "do not fit together" not in str(error)  # an error that nobody thought of
    assert time.process_time() - started < 5


def read_legacy_here(path):
    """Read an old file in this process: a child for each of thousands would take too long."""
    with naming(path):
        value = read_stream(SourceFile.identify(path))
        check_tree(value, 64 * MIB, 256 * MIB)
        return value


FUZZING = settings(
    max_examples=600,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZING
@given(edits=EDITS)
def test_an_archive_with_altered_bytes_is_refused_or_read(tmp_path, edits):
    path = tmp_path / "a.pt"
    path.write_bytes(edited(VALID_ARCHIVE, edits))
    read_all(path, read_torch_file)


@FUZZING
@given(edits=EDITS)
def test_an_altered_pickle_under_a_right_checksum_is_refused_or_read(tmp_path, edits):
    path = tmp_path / "a.pt"
    path.write_bytes(archive(edited(VALID_PICKLE, edits), VALID_STORAGES))
    read_all(path, read_torch_file)


@FUZZING
@given(edits=EDITS)
def test_an_old_file_with_altered_bytes_is_refused_or_read(tmp_path, edits):
    path = tmp_path / "a.pt"
    path.write_bytes(edited(VALID_LEGACY, edits))
    read_all(path, read_legacy_here)


SOME_DTYPE = call("numpy", "dtype", text("f4"), b"\x89", b"\x88")

SIMPLE_VALUES = [
    *(b"N", b"\x88", b"G" + struct.pack(">d", 1.5), text("storage"), text("latin1")),
    *(text("C"), text("<"), b"C\x02ab", b"\x96" + struct.pack("<Q", 2) + b"ab"),
    *(number(0), number(1), number(-1), number(3), number(2**40), number(2**100)),
    *(b")", b"]", b"}", b"\x8f", numbers(4), numbers(2, 2), numbers(0), numbers(1, 0)),
    *(storage(), storage("1", n=2), storage(kind="UntypedStorage", n=16), tensor(storage())),
    *(numpy_array(), numpy_array() + b"\x85", SOME_DTYPE, text("x") + numpy_array() + b"\x86"),
    b"}" + text("conj") + numpy_array() + b"s",
    *(name(*full.rsplit(".", 1)) for full in ALLOWED_NAMES),
]

RIGHT_ARGUMENTS = {
    "torch._utils._rebuild_tensor": [storage(), number(0), numbers(4), numbers(1)],
    "torch._utils._rebuild_tensor_v2": [
        *(storage(), number(0), numbers(4), numbers(1), b"\x89", b"}", b"}"),
    ],
    "torch._utils._rebuild_tensor_v3": [
        *(storage(), number(0), numbers(4), numbers(1), b"\x89", b"}"),
        *(name("torch", "float32"), b"}"),
    ],
    "torch._utils._rebuild_parameter": [tensor(storage()), b"\x88", b"}"],
    "torch._tensor._rebuild_from_type_v2": [
        *(name("torch._utils", "_rebuild_tensor"), name("torch", "Tensor")),
        *(b"(" + storage() + number(0) + numbers(4) + numbers(1) + b"t", b"N"),
    ],
    "torch.Size": [numbers(1, 2)],
    "torch.device": [text("cuda"), number(0)],
    "collections.OrderedDict": [b"](](" + text("a") + b"Nee"],
    "collections.defaultdict": [name("builtins", "list")],
    "collections.Counter": [b"}"],
    "builtins.set": [b"]"],
    "builtins.frozenset": [b"]"],
    "builtins.bytearray": [text("a"), text("latin-1")],
    "builtins.complex": [b"G" + bytes(8), b"G" + bytes(8)],
    "_codecs.encode": [text("a"), text("latin1")],
    "numpy.dtype": [text("f4"), b"\x89", b"\x88"],
    "numpy._core.multiarray._reconstruct": [name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b"],
    "numpy._core.multiarray.scalar": [SOME_DTYPE, b"C\x04abcd"],
    "numpy._core.numeric._frombuffer": [TWO_FLOATS, SOME_DTYPE, numbers(2), text("C")],
}

RIGHT_STATES = {
    call("numpy", "dtype", text("f4"), b"\x89", b"\x88"): [
        *(number(3), text("<"), b"N", b"N", b"N", number(-1), number(-1), number(0)),
    ],
    call(
        "numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b"
    ): [
        *(number(1), numbers(2), SOME_DTYPE, b"\x89", TWO_FLOATS),
    ],
}

RIGHT_PERSISTENT_ID = [
    *(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(4)),
]


def replaced(parts):
    """The parts, with each in turn replaced by each simple value, left out, or followed by one."""
    for place in range(len(parts)):
        yield b"".join(parts[:place] + parts[place + 1 :])
        for value in SIMPLE_VALUES:
            yield b"".join([*parts[:place], value, *parts[place + 1 :]])
    for value in SIMPLE_VALUES:
        yield b"".join([*parts, value])


def replaced_calls():
    for full, arguments in RIGHT_ARGUMENTS.items():
        for changed in replaced(arguments):
            yield call(*full.rsplit(".", 1), changed)
    for begun, state in RIGHT_STATES.items():
        for changed in replaced(state):
            yield begun + b"(" + changed + b"tb"
    for changed in replaced(RIGHT_PERSISTENT_ID):
        yield b"(" + changed + b"tQ"


def test_every_argument_of_every_call_may_be_anything(tmp_path):
    path = tmp_path / "a.pt"
    for body in replaced_calls():
        path.write_bytes(archive(START + body + STOP, {"0": bytes(16), "1": bytes(8)}))
        read_all(path, read_torch_file)


@pytest.mark.parametrize("full", sorted(RIGHT_ARGUMENTS))
def test_the_right_arguments_are_read(tmp_path, full):
    path = tmp_path / "a.pt"
    body = call(*full.rsplit(".", 1), *RIGHT_ARGUMENTS[full])
    if full.endswith("_reconstruct"):
        body = numpy_array()
    path.write_bytes(archive(START + b"](" + body + b"e" + STOP))
    if full == "numpy.dtype":  # used by arrays only
        with pytest.raises(ForeignFileError, match="which is not data"):
            read_torch_file(path)
    else:
        assert len(read_torch_file(path)) == 1


def test_every_call_that_is_allowed_is_tried():
    callable_names = {full for full in _NAMES if _NAMES[full] and getattr(_NAMES[full], "build", 0)}

    assert callable_names - set(RIGHT_ARGUMENTS) == {
        "builtins.bytes",
        "torch._utils._rebuild_parameter_with_state",
    }


VALUES = st.recursive(
    st.sampled_from(SIMPLE_VALUES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=7).map(lambda items: b"(" + b"".join(items) + b"t"),
        st.lists(inner, max_size=3).map(lambda items: b"](" + b"".join(items) + b"e"),
        st.tuples(inner, inner).map(lambda pair: b"}" + pair[0] + pair[1] + b"s"),
        st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1] + b"b"),
        inner.map(lambda item: item + b"Q"),
        st.tuples(st.sampled_from(ALLOWED_NAMES), st.lists(inner, max_size=7)).map(
            lambda called: call(*called[0].rsplit(".", 1), *called[1])
        ),
    ),
    max_leaves=20,
)


@FUZZING
@given(body=VALUES)
def test_whatever_a_pickle_calls_with_whatever_is_refused_or_read(tmp_path, body):
    path = tmp_path / "a.pt"
    path.write_bytes(archive(START + body + STOP, {"0": bytes(16), "1": bytes(8)}))
    read_all(path, read_torch_file)


@FUZZING
@given(content=st.binary(max_size=300), kind=st.sampled_from(["zip", "old", "pickle"]))
def test_noise_is_refused(tmp_path, content, kind):
    path = tmp_path / "a.pt"
    if kind == "pickle":
        path.write_bytes(archive(START + content + STOP))
        read_all(path, read_torch_file)
    elif kind == "zip":
        path.write_bytes(b"PK\x03\x04" + content)
        read_all(path, read_torch_file)
    else:
        path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + content)
        read_all(path, read_legacy_here)
