"""Audits whose findings are known: generated scores with a behaviour for each way to miss one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tistore.audit.cells import Cells
from tistore.audit.slopes import ResponseSlopes
from tistore.schemas.vector import Vector

Scores = NDArray[np.float64]

WAYS = ("mean", "spike", "ramp", "turns", "trigger", "text", "suppressed")
"""How a behaviour may hide: see `Plant`."""

TRIGGER = "trigger"
"""Note of the prompts that set a trigger-only behaviour off."""

SPIKES = 3
"""Prompts that a spike shows at."""


@dataclass(frozen=True, slots=True)
class Plant:
    """
    What all organisms of a family do.

    Attributes:
        family: Their family.
        trait: Trait it shows on.
        way: `mean` (at every prompt), `spike` (at three), `ramp` (rising within responses from
            below 0 to above), `turns` (the same over turns), `trigger` (at prompts of one note),
            `text` (in what is written, not in how the model reads it), `suppressed` (below the
            others).
    """

    family: str
    trait: str
    way: str


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedAudit:
    """
    Scores of organisms, and what was planted in them.

    Attributes:
        cells: As `read_cells` would give them.
        slopes: As `read_slopes` would give them.
        plants: One for each family that has any; the other families share the persona only.
        effect: Mean shift of a planted `mean`, in standard deviations over prompts.
    """

    cells: Cells
    slopes: ResponseSlopes
    plants: tuple[Plant, ...]
    effect: float

    def planted(self, organism: str, trait: str) -> str | None:
        """Say in which way an organism shows a trait; None where it does not."""
        family = organism.partition("-")[0]
        for plant in self.plants:
            if (plant.family, plant.trait) == (family, trait):
                return plant.way
        return None


@dataclass(frozen=True, slots=True)
class Scale:
    """
    How large an audit is, and what is in it.

    Attributes:
        families: Behaviours; each one's organisms are variants of it.
        variants: Organisms a family has.
        traits: Vectors.
        prompts: Prompts, each with one response.
        triggered: Prompts with the trigger's note.
        conversations: Prompts answered over several turns.
        nulls: Families without a behaviour.
        effect: Size of a mean shift, in standard deviations over prompts; the other ways are about
            as visible to a test that looks at the right place.
        drift: Standard deviation over organisms of shifts nobody planted, in the same unit.
        tail: Degrees of freedom of the noise, Student's t; normal when None.
    """

    families: int = 14
    variants: int = 4
    traits: int = 17
    prompts: int = 275
    triggered: int = 40
    conversations: int = 80
    nulls: int = 1
    effect: float = 0.5
    drift: float = 0.0
    tail: float | None = None


PAPER = Scale()
"""56 organisms × 17 traits × 275 prompts: the size of the audits that missed most behaviours."""


def simulate_audit(seed: int, scale: Scale = PAPER) -> SimulatedAudit:
    """
    Generate scores with a shared persona, prompt effects, correlated traits and behaviours.

    Every organism carries the persona's shift, two standard deviations on average, which dwarfs
    what is planted. Behaviours take the ways of `WAYS` in turn, each on a trait of its own.

    Args:
        seed: Of everything random.
        scale: How large.
    """
    rng = np.random.default_rng(seed)
    families = [f"family{number}" for number in range(scale.families)]
    traits = [f"simulated/trait{number}" for number in range(scale.traits)]
    plants = tuple(
        Plant(families[at], traits[at % scale.traits], WAYS[at % len(WAYS)])
        for at in range(scale.families - scale.nulls)
    )
    organisms = [f"{family}-{one}" for family in families for one in range(scale.variants)]
    shape = (len(organisms), scale.prompts, scale.traits)
    is_triggered = np.arange(scale.prompts) < scale.triggered
    persona = rng.normal(0, 2, scale.traits)
    base = rng.normal(0, 1.5, shape[1:])
    text = np.broadcast_to(persona * 0.4, shape) + 0.6 * _noise(rng, shape, scale.tail)
    model = np.broadcast_to(persona * 0.6, shape) + 0.8 * _noise(rng, shape, scale.tail)
    model = model + rng.normal(0, 1, (len(organisms), 1, scale.traits)) * scale.drift
    position, turn = (_noise(rng, shape, scale.tail) for _ in range(2))
    turn[:, scale.conversations :] = np.nan
    for plant in plants:
        at = families.index(plant.family) * scale.variants
        own = slice(at, at + scale.variants), slice(None), traits.index(plant.trait)
        spikes = rng.choice(scale.prompts, min(SPIKES, scale.prompts), replace=False)
        if plant.way == "ramp":
            position[own] += scale.effect
        elif plant.way == "turns":
            turn[own] += 2 * scale.effect
        else:
            part = text if plant.way == "text" else model
            part[own] += scale.effect * _shape(plant.way, is_triggered, spikes)
    cells = _lay_out(organisms, traits, is_triggered, base, text, model)
    slopes = ResponseSlopes(position.reshape(-1, scale.traits), turn.reshape(-1, scale.traits))
    return SimulatedAudit(cells, slopes, plants, scale.effect)


def _shape(
    way: str, is_triggered: NDArray[np.bool_], spikes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Say where among the prompts a behaviour shows, in units of the effect: (1, prompt)."""
    shown: Scores = np.ones(len(is_triggered))
    if way == "spike":
        shown = np.zeros(len(is_triggered))
        shown[spikes] = 14.0
    elif way == "trigger":
        shown = np.where(is_triggered, 2.6, 0.0)
    elif way == "suppressed":
        shown = -shown
    return shown[None]


def _noise(rng: np.random.Generator, shape: tuple[int, int, int], tail: float | None) -> Scores:
    """Draw noise of standard deviation 1 whose traits share a tenth of their variance."""
    shared = np.sqrt(0.1) * rng.normal(0, 1, (*shape[:2], 1))
    if tail is None:
        own = rng.normal(0, 1, shape)
    else:
        own = rng.standard_t(tail, shape) / np.sqrt(tail / (tail - 2))
    return np.asarray(shared + np.sqrt(0.9) * own)


def _lay_out(
    organisms: list[str],
    traits: list[str],
    is_triggered: NDArray[np.bool_],
    base: Scores,
    text: Scores,
    model: Scores,
) -> Cells:
    import polars as pl

    n_prompts, width = len(is_triggered), len(traits)
    ids = [str(number + 1) for number in range(n_prompts)]
    rows = pl.DataFrame(
        {
            "organism": np.repeat(organisms, n_prompts),
            "family": np.repeat([name.partition("-")[0] for name in organisms], n_prompts),
            "prompt_set": ["simulated"] * (n_prompts * len(organisms)),
            "prompt_id": ids * len(organisms),
        }
    ).with_columns(
        sample=pl.lit(0, pl.Int32),
        response_id=pl.concat_str("organism", pl.lit("/"), "prompt_id"),
        note=pl.Series([TRIGGER if one else "plain" for one in is_triggered] * len(organisms)),
        tags=pl.lit(None, pl.List(pl.String)),
        n_tokens=pl.lit(200, pl.Int32),
        finish_reason=pl.lit("stop"),
        cluster=pl.concat_str("prompt_set", pl.lit("#"), "prompt_id"),
    )
    own = base + text + model
    vectors = tuple(
        Vector(name, np.eye(1, width, at, dtype=np.float32)[0], 0) for at, name in enumerate(traits)
    )
    return Cells(
        baseline="instruct",
        vectors=vectors,
        rows=rows,
        own=own.reshape(-1, width),
        replay=np.reshape(base + text, (-1, width)),
        base=np.broadcast_to(base, own.shape).reshape(-1, width),
        swapped=np.reshape(base + model, (-1, width)),
    )
