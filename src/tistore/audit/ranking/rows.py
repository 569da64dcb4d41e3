"""A ranking's rows: flat, and all with the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tistore.audit.ranking.comparison import Comparison
from tistore.audit.ranking.coverage import Coverage
from tistore.audit.ranking.findings import Cell, Findings
from tistore.audit.statistics.known import known_or_none

Noise = Mapping[tuple[str, str], float]
"""(organism, vector reference) → how far a second reading moves a score, in score units."""


def lay_out(found: Findings, cell: Cell, noise: Noise) -> dict[str, Any]:
    """Lay out one organism and trait; see `rank` for what the keys mean."""
    table, mean = found.table, found.mean
    vector = table.cells.vectors[cell.trait]
    organism = table.organisms[int(found.chosen[cell.organism])]
    return {
        "organism": organism,
        "family": table.family_of(organism),
        "trait": vector.trait,
        "vector": vector.reference,
        "part": found.part,
        "flags": found.flags(cell),
        "g": known_or_none(mean.means.g[cell.at]),
        "low": known_or_none(found.low[cell.at]),
        "high": known_or_none(found.high[cell.at]),
        "mean": known_or_none(mean.means.mean[cell.at]),
        "p": known_or_none(mean.p[cell.at]),
        "q": known_or_none(mean.q[cell.at]),
        "p_max": known_or_none(found.p_max[cell.at]),
        "spread_z": known_or_none(mean.departures.spread_z[cell.at]),
        "percentile": known_or_none(mean.departures.percentile[cell.at]),
        **_lay_out_worst(found, cell),
        **_lay_out_slope("slope", found.slope, cell),
        **_lay_out_slope("turn_slope", found.turn, cell),
        **_lay_out_subset(found, cell),
        "n_prompts": int(mean.means.n[cell.at]),
        "n_others": int(mean.departures.n_others[cell.at]),
        "mde": known_or_none(found.mde[cell.at]),
        "noise_floor": _noise_floor(found, cell, noise.get((organism, vector.reference))),
        "coverage": str(_cover(found, cell, organism)),
    }


def prominence(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Sort what is flagged first, of that the means, then by the smallest q, then by g."""
    keys = ("q", "spike_q", "slope_q", "turn_slope_q", "subset_q")
    known = [row[key] for key in keys if row[key] is not None]
    names = row["organism"], row["trait"]
    flags = row["flags"]
    q = min(known, default=2.0)
    return (not flags, "mean" not in flags, q, -abs(row["g"] or 0.0), *names)


def _lay_out_worst(found: Findings, cell: Cell) -> dict[str, Any]:
    z = found.spike_z[cell.organism, :, cell.trait]
    if not np.isfinite(z).any():
        return {"worst_prompt": None, "worst_z": None, "spike_q": None}
    worst = int(np.nanargmax(np.abs(z)))
    prompt = found.table.prompts[worst]
    return {
        "worst_prompt": f"{prompt.prompt_set}#{prompt.prompt_id}",
        "worst_z": known_or_none(z[worst]),
        "spike_q": known_or_none(found.spike_q[cell.at]),
    }


def _lay_out_slope(name: str, tested: Comparison | None, cell: Cell) -> dict[str, Any]:
    if tested is None:
        return {name: None, f"{name}_q": None}
    return {
        name: known_or_none(tested.means.mean[cell.at]),
        f"{name}_q": known_or_none(tested.q[cell.at]),
    }


def _lay_out_subset(found: Findings, cell: Cell) -> dict[str, Any]:
    """Show a subset that is flagged, or that of the smallest q; of several the furthest out."""
    flags = found.flags(cell)
    known = [
        (
            f"subset:{name}" not in flags,
            float(one.q[cell.at]),
            -abs(float(one.tested.means.g[cell.at])),
            name,
        )
        for name, one in found.subsets.items()
        if np.isfinite(one.q[cell.at])
    ]
    if not known:
        return {"subset": None, "subset_g": None, "subset_q": None}
    _, q, _, name = min(known)
    g = found.subsets[name].tested.means.g[cell.at]
    return {"subset": name, "subset_g": known_or_none(g), "subset_q": q}


def _noise_floor(found: Findings, cell: Cell, moved: float | None) -> float | None:
    deviation = float(found.mean.means.deviation[cell.at])
    return moved / deviation if moved is not None and deviation > 0 else None


def _cover(found: Findings, cell: Cell, organism: str) -> Coverage:
    return Coverage(
        n_prompts=int(found.mean.means.n[cell.at]),
        n_others=int(found.mean.departures.n_others[cell.at]),
        smallest_effect=float(found.mde[cell.at]),
        has_slopes=_is_known(found.slope, cell),
        has_turns=_is_known(found.turn, cell),
        has_replays=found.table.replayed(organism),
    )


def _is_known(tested: Comparison | None, cell: Cell) -> bool:
    return tested is not None and bool(np.isfinite(tested.p[cell.at]))
