"""States on their way from the blocks that put them out to the processor's memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tistore.schemas.response import CaptureSettings
from tistore.schemas.site import Site


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """
    The wanted rows of one batch, at every site.

    From a GPU they come on a stream of their own into pinned memory, while the next blocks run;
    nothing may be read before `wait` has returned.

    Attributes:
        settings: Layers and components.
        rows: Which rows of the batch, counted through its sequences, padding included: int64 on
            the CPU.
        values: For each component, [layer, row, width] in the model's dtype, on the CPU.
    """

    settings: CaptureSettings
    rows: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)
    _rows_on: dict[torch.device, Tensor] = field(default_factory=dict)
    _streams: dict[torch.device, torch.cuda.Stream] = field(default_factory=dict)

    def take(self, site: Site, state: Tensor) -> None:
        """
        Take over what a site put out: (batch, position, width).

        A later module may edit it in place, so the rows are copied before this returns, or before
        anything that runs later on the same GPU.
        """
        flat = state.detach().flatten(0, 1)
        place = self._place(site, flat)
        rows = self._rows_at(flat.device)
        if flat.device.type != "cuda":
            torch.index_select(flat, 0, rows, out=place)
            return
        picked = flat.index_select(0, rows)
        stream = self._stream_of(flat.device)
        stream.wait_stream(torch.cuda.current_stream(flat.device))
        with torch.cuda.stream(stream):
            place.copy_(picked, non_blocking=True)
        # The memory is not to be handed out again before the copy has read it.
        picked.record_stream(stream)

    def bring(self, values: Tensor) -> Tensor:
        """Copy a tensor to the CPU the same way; it is there once `wait` has returned."""
        if values.device.type != "cuda":
            return values.cpu()
        place = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        stream = self._stream_of(values.device)
        stream.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(stream):
            place.copy_(values, non_blocking=True)
        values.record_stream(stream)
        return place

    def wait(self) -> None:
        """Wait until every value has arrived."""
        for stream in self._streams.values():
            stream.synchronize()

    @property
    def size_bytes(self) -> int:
        """What the values take, in the processor's memory."""
        return sum(map(_measure, self.values.values()))

    def _place(self, site: Site, flat: Tensor) -> Tensor:
        if site.component not in self.values:
            shape = (len(self.settings.layers), len(self.rows), flat.shape[1])
            is_pinned = flat.device.type == "cuda"
            self.values[site.component] = torch.empty(shape, dtype=flat.dtype, pin_memory=is_pinned)
        return self.values[site.component][self.settings.layers.index(site.layer)]

    def _rows_at(self, device: torch.device) -> Tensor:
        if device not in self._rows_on:
            self._rows_on[device] = self.rows.to(device)
        return self._rows_on[device]

    def _stream_of(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._streams[device]


def _measure(values: Tensor) -> int:
    size_bytes = values.numel() * values.element_size()
    # Torch hands pinned memory out in powers of two, up to twice of what was asked for.
    return 1 << max(size_bytes - 1, 0).bit_length() if values.is_pinned() else size_bytes
