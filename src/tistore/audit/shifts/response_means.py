"""Response means of an organism and a baseline at a site, prompt beside prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import SIDES, Part, Side
from tistore.audit.opponents import write_condition
from tistore.audit.prompt_clusters import ClusterBy, label_clusters
from tistore.errors import QueryError, VectorMismatchError
from tistore.query.readings import Ids, Readings
from tistore.schemas.site import Site

if TYPE_CHECKING:
    import polars

    from tistore.query.store import Store

Means = NDArray[np.float64]
Labels = NDArray[np.int64]

ALL_SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True, slots=True, eq=False)
class ResponseMeans:
    """
    Mean activations over audited tokens, of each of an organism's responses.

    Attributes:
        site: Where.
        sides: (response, width) each; NaN where nobody has read that. "own": the organism reads its
            own text; "replay": the baseline reads that text; "base": the baseline reads its own
            answer to the same prompt, by the same sample number.
        prompts: (response,) places of their prompts.
        clusters: (prompt,) labels of prompts that are not independent.
    """

    site: Site
    sides: dict[Side, NDArray[np.float32]]
    prompts: Labels
    clusters: Labels

    def average(self, part: Part) -> tuple[Means, Means]:
        """
        Average the two sides of a part over each prompt's samples: (prompt, width) each.

        Samples that lack a side are left out of both, so that the sides are of the same responses;
        NaN where none is left.
        """
        first, second = (self.sides[side] for side in SIDES[part])
        is_there = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
        prompts = self.prompts[is_there]
        counts = np.bincount(prompts, minlength=len(self.clusters))
        n = np.where(counts > 0, counts, np.nan)[:, None]
        sums = np.zeros((2, len(self.clusters), first.shape[1]))
        np.add.at(sums[0], prompts, first[is_there])
        np.add.at(sums[1], prompts, second[is_there])
        return sums[0] / n, sums[1] / n

    def part(self, part: Part) -> tuple[Means, Means, Labels]:
        """Give the two sides of a part, and the clusters, of the prompts that have both."""
        first, second = self.average(part)
        is_there = np.isfinite(first).all(axis=1)
        return first[is_there], second[is_there], self.clusters[is_there]


class Answers:
    """
    The readings that a comparison of an organism with a baseline is made of.

    Args:
        store: Where they are.
        organism: Author.
        baseline: Whom it is held against.
        where: SQL condition on `responses`.
        cluster: What prompts share that are no independent evidence; see `label_clusters`.

    Raises:
        QueryError: Nothing is left to compare.
    """

    def __init__(
        self,
        store: Store,
        organism: str,
        baseline: str,
        where: str | None = None,
        cluster: ClusterBy = "prompt",
    ) -> None:
        self._snapshot = store.snapshot
        frame = _list_readings(store, organism, baseline, where, cluster)
        texts = frame.filter(organism=organism)
        if not len(texts):
            raise QueryError(
                f"no response of {organism!r} is left to compare",
                mend="take other conditions" if where else "capture own readings and replays",
            )
        prompts = texts.select("prompt_set", "prompt_id", "cluster").unique(maintain_order=True)
        self.clusters: Labels = np.unique(prompts["cluster"].to_numpy(), return_inverse=True)[1]
        responses = (
            texts.select("response_id", "prompt_set", "prompt_id", "sample")
            .unique("response_id", keep="first", maintain_order=True)
            .join(
                prompts.select("prompt_set", "prompt_id").with_row_index("prompt"),
                on=["prompt_set", "prompt_id"],
                how="left",
                maintain_order="left",
            )
            .with_row_index("response")
        )
        self._prompts: Labels = responses["prompt"].to_numpy().astype(np.int64)
        places = responses.select("response", "response_id")
        answered = responses.select("response", "prompt_set", "prompt_id", "sample")
        replays = _keep_same_tokens(texts.filter(reader=baseline), texts, organism)
        answers = frame.filter(organism=baseline)
        self._frames: dict[Side, polars.DataFrame] = {
            "own": texts.filter(reader=organism).join(places, on="response_id"),
            "replay": replays.join(places, on="response_id"),
            "base": answers.join(answered, on=["prompt_set", "prompt_id", "sample"]),
        }

    @cached_property
    def _readings(self) -> Readings:
        return Readings(self._snapshot.segments, lambda: self._snapshot.models)

    @cached_property
    def _place_of(self) -> dict[str, int]:
        return {key: at for at, key in enumerate(self._readings.table["reading_key"].to_pylist())}

    def _find(self, side: Side, has_it: Callable[[int], bool]) -> tuple[Labels, Ids]:
        """List a side's readings in segments that have something: whose they are, and places."""
        frame = self._frames[side]
        ids = np.array([self._place_of[key] for key in frame["reading_key"]], dtype=np.int64)
        segments = self._readings.segment[ids]
        has = {int(one): has_it(int(one)) for one in np.unique(segments)}
        kept = np.flatnonzero([has[int(one)] for one in segments])
        responses = frame["response"].to_numpy().astype(np.int64)[kept]
        # A reader may have read a response several times.
        first = np.sort(np.unique(responses, return_index=True)[1])
        return responses[first], ids[kept[first]]

    def layers(self) -> list[int]:
        """List the layers at which any of these readings was captured."""
        found: set[int] = set()
        for side in self._frames:
            _, ids = self._find(side, lambda segment: True)
            for place in self._readings.segments_of(ids):
                found |= set(self._readings.segments[place].layers)
        return sorted(found)

    def read(self, site: Site) -> ResponseMeans:
        """
        Read stored means at a site, one segment at a time; no token is read.

        Raises:
            VectorMismatchError: Readings differ in width.
        """
        segments = self._readings.segments
        found = {
            side: self._find(side, lambda place: segments[place].has(site)) for side in ALL_SIDES
        }
        widths = {
            segments[place].width(site.component)
            for _, ids in found.values()
            for place in self._readings.segments_of(ids)
        }
        if len(widths) > 1:
            raise VectorMismatchError(
                f"the readings at {site} are {' and '.join(map(str, sorted(widths)))} wide"
            )
        width = widths.pop() if widths else 0
        sides = {side: self._lay_out(site, width, *found[side]) for side in ALL_SIDES}
        return ResponseMeans(site, sides, self._prompts, self.clusters)

    def _lay_out(self, site: Site, width: int, responses: Labels, ids: Ids) -> NDArray[np.float32]:
        """Lay the stored means of readings out: (response, width), NaN where there is none."""
        laid_out = np.full((len(self._prompts), width), np.nan, dtype=np.float32)
        for place in self._readings.segments_of(ids):
            is_here = self._readings.segment[ids] == place
            rows = ids[is_here] - self._readings.offsets[place]
            laid_out[responses[is_here]] = self._readings.segments[place].means(site)[rows]
        return laid_out


def _list_readings(
    store: Store, organism: str, baseline: str, where: str | None, cluster: ClusterBy
) -> polars.DataFrame:
    condition = write_condition(organism, baseline, where)
    frame = store.sql(
        "WITH r AS (\n  SELECT organism, reader, prompt_set, prompt_id, sample, response_id, "
        f"n_tokens, reading_key\n  FROM responses WHERE {condition}\n)\n"
        "SELECT r.*, p.note, p.tags FROM r LEFT JOIN prompts AS p USING (prompt_set, prompt_id)\n"
        "ORDER BY prompt_set, len(prompt_id), prompt_id, sample, response_id, reading_key"
    ).to_polars()
    return label_clusters(frame, cluster)


def _keep_same_tokens(
    replays: polars.DataFrame, texts: polars.DataFrame, organism: str
) -> polars.DataFrame:
    """Leave out replays whose means run over other tokens than the organism's own."""
    own = texts.filter(reader=organism).select("response_id", "n_tokens").unique()
    known = own.select("response_id")
    alike = replays.join(own, on=["response_id", "n_tokens"], how="semi", maintain_order="left")
    # Nobody's own reading contradicts these: they still tell of the text.
    alone = replays.join(known, on="response_id", how="anti", maintain_order="left")
    return alike.vstack(alone)
