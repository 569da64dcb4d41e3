"""What a file that is no `.pt` seems to be."""

from __future__ import annotations

from tistore.datasets.torch_files.source import Refused

_READ_BY_OTHERS = "it is not a .pt file: give it its own ending"

_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run: git lfs pull"),
    (b"<!doctype html", "a web page: an error or a login, saved by a download", "download again"),
    (b"<html", "a web page: an error or a login, saved by a download", "download it again"),
    (b"<?xml", "an XML text: an error of a storage service, saved by a download", "download again"),
    (b"\x93numpy", "a NumPy array (.npy)", _READ_BY_OTHERS),
    (b"gguf", "a GGUF model", _READ_BY_OTHERS),
    (b"\x89hdf", "an HDF5 file", _READ_BY_OTHERS),
    (b"par1", "a Parquet file", _READ_BY_OTHERS),
    (b"arrow1", "an Arrow file", _READ_BY_OTHERS),
    (b"\x1f\x8b", "compressed by gzip", "unpack it first: gunzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it first: unzstd"),
    (b"\xfd7zxz", "compressed by xz", "unpack it first: unxz"),
    (b"bzh", "compressed by bzip2", "unpack it first: bunzip2"),
    (b"pk\x05\x06", "an empty zip archive", "write it anew with torch.save"),
    (b"\x7felf", "a program", "leave it out"),
    (b"mz", "a program", "leave it out"),
    (b"#!", "a script", "leave it out"),
    (b"{", "JSON", _READ_BY_OTHERS),
    (b"[", "JSON", _READ_BY_OTHERS),
)

_TAR_SIGNATURE = slice(257, 262)


def describe_appearance(head: bytes) -> Refused:
    """Make the refusal of a file that does not begin as `torch.save` begins one."""
    if not head:
        return Refused("it is empty", "copy or download it again")
    if not head.strip(b"\0"):
        return Refused("it begins with zeros only: a download or a disk that failed", "copy again")
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 30:
        return Refused("it seems to be a safetensors file", "give it the ending .safetensors")
    if head[_TAR_SIGNATURE] == b"ustar":
        return Refused(
            "it is a tar archive, as torch wrote them before 0.1.10",
            "open it with torch.load and write it anew with torch.save, where nothing can be lost",
        )
    for beginning, what, mend in _BEGINNINGS:
        if head.lower().startswith(beginning):
            return Refused(f"it seems to be {what}", mend)
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return Refused(
            "it is a pickle that torch.save did not write",
            "if you trust its source, open it yourself and save its tensors with torch.save",
        )
    return Refused("it does not begin like a file of torch.save", "check where it came from")
