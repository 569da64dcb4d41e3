"""
Files made by `torch.save`, read without torch and without running anything in them.

A `.pt` is a zip archive (or, before torch 1.6, a stream) of one pickle and raw storages. The pickle
is a program. Here it is read by an interpreter that knows only what data needs: no name in a file
is ever imported, and a call means one of a few constructions of our own (`names`). Tensors come
back as `TensorView`: where the values lie, not yet read.
"""

from __future__ import annotations

from tistore.datasets.torch_files.reader import LIMIT_BYTES, read_torch_file
from tistore.datasets.torch_files.tensor import TensorView

__all__ = ["LIMIT_BYTES", "TensorView", "read_torch_file"]
