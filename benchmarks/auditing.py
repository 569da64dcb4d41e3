"""
What a ranking finds in audits whose findings are known, what else it flags, and how long it takes.

    make bench
    .venv/bin/python benchmarks/auditing.py --only odds --audits 20

`odds`: 200 simulated audits of 56 organisms × 17 traits × 275 prompts, with a shared persona shift
and a behaviour for each way to hide; then audits that break what the ranking assumes: organisms
that drift apart without a behaviour, and noise with heavy tails. `rank`: time of one ranking of
that size, all options at their defaults.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tistore.audit.rank import rank
from tistore.audit.ranking.outcomes import Outcomes, rank_simulated
from tistore.audit.ranking.simulated import PAPER, Scale, simulate_audit

AUDITS = 200
HARDER = {
    "organisms drift 0.1 apart": replace(PAPER, drift=0.1),
    "noise of Student's t, 5 degrees": replace(PAPER, tail=5.0),
}


def main() -> None:
    """Run the sections asked for, and print a line of JSON for each result."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", choices=sorted(SECTIONS), action="append")
    parser.add_argument("--audits", type=int, default=AUDITS)
    options = parser.parse_args()
    for name in options.only or sorted(SECTIONS):
        for result in SECTIONS[name](options.audits):
            print(json.dumps({"section": name, **result}, ensure_ascii=False), flush=True)


def measure_odds(audits: int) -> Iterator[dict[str, Any]]:
    """Count what is found in simulated audits; a quarter as many where assumptions are broken."""
    scales = {"as assumed": (PAPER, audits)}
    scales |= {name: (scale, max(audits // 4, 1)) for name, scale in HARDER.items()}
    for name, given in scales.items():
        yield _describe(name, *given)


def _describe(name: str, scale: Scale, audits: int) -> dict[str, Any]:
    outcomes = rank_simulated(range(audits), scale)
    return {
        "scores": name,
        "audits": audits,
        "true_positive_rate": round(outcomes.true_positive_rate, 4),
        "false_discovery_rate": round(outcomes.false_discovery_rate, 4),
        "persona_only_flagged": round(outcomes.persona_rate, 4),
        "interval_coverage": round(outcomes.coverage, 4),
        **{f"found_{way}": round(rate, 4) for way, rate in sorted(_rates(outcomes).items())},
        "false_by_kind": {
            flag: n for (way, flag), n in sorted(outcomes.flags.items(), key=str) if way is None
        },
    }


def _rates(outcomes: Outcomes) -> dict[str, float]:
    return {way: outcomes.found[way] / n for way, n in outcomes.planted.items()}


def measure_speed(audits: int) -> Iterator[dict[str, Any]]:
    """Time rankings of one audit with everything at its default."""
    audit = simulate_audit(0)
    seconds = []
    for _ in range(min(audits, 3)):
        start = time.perf_counter()
        rank(audit.cells, slopes=audit.slopes)
        seconds.append(time.perf_counter() - start)
    yield {"cells": 56 * 17, "prompts": 275, "seconds": round(statistics.median(seconds), 2)}


SECTIONS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {
    "odds": measure_odds,
    "rank": measure_speed,
}


if __name__ == "__main__":
    main()
