"""A raw file on its way into the store: what it will be there, before a value is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tistore.datasets.trait_interp.files import ResidualFile, ResponseFile
from tistore.exchange.trait_interp.row_placing import Placement
from tistore.schemas.response import CaptureSettings, ResponseSlot, Rows, identify_reading
from tistore.schemas.site import Component


@dataclass(frozen=True, slots=True)
class PlannedReading:
    """
    A reading to be.

    Attributes:
        file: The raw file.
        slot: The response it is of.
        reader: Variant whose states it holds; None for the application model.
        reader_name: The same by name.
        placement: Where its rows belong.
        layers: Ascending block numbers.
        components: For each component the store has, what the file calls it.
        widths: Of each of these.
        source_dtype: Of the file's values.
        audited_stop: One past the last token that every reading of the response has a row for;
            means run over the same tokens in all of them.
        is_paired: Whether its tokens were found to be those of the author's response; None for
            the author's own reading, and where there was nothing to compare with.
        document: JSON of the response, where there is one.
        notes: What people should know.
    """

    file: ResidualFile
    slot: ResponseSlot
    reader: str | None
    reader_name: str
    placement: Placement
    layers: tuple[int, ...]
    components: Mapping[Component, str]
    widths: Mapping[Component, int]
    source_dtype: str
    audited_stop: int
    is_paired: bool | None
    document: ResponseFile | None
    notes: tuple[str, ...] = ()

    @property
    def value_bytes(self) -> int:
        """Bytes of float16 it will be."""
        row_bytes = 2 * len(self.layers) * sum(map(self.widths.__getitem__, self.components))
        return self.placement.n_rows * row_bytes

    @property
    def shape(self) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...]]:
        """What readings of one segment share."""
        return self.layers, tuple((name, self.widths[name]) for name in sorted(self.components))

    @property
    def key(self) -> str:
        """Key under which it will be committed."""
        rows: Rows = "all" if self.placement.first_position == 0 else "response"
        components = tuple(sorted(self.components))
        settings = CaptureSettings(self.layers, components, rows)
        return identify_reading(self.slot, self.reader_name, settings)
