"""Steering results: `results.jsonl`, one line a run, and `results.json` before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tistore.datasets.trait_interp.documents import Node, read_document, read_lines
from tistore.errors import DatasetError

Direction = Literal["positive", "negative"]


@dataclass(frozen=True, slots=True)
class SteeredVector:
    """
    A vector as a run added it.

    Attributes:
        layer: Block whose output it was added to.
        component: As trait-interp names it.
        method: How it was fitted.
        weight: Coefficient; negative against the trait.
        position: Tokens it was fitted on; None where only the path says.
    """

    layer: int
    component: str
    method: str
    weight: float
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """
    What a judge made of the answers.

    Attributes:
        trait_mean: Mean score of the trait, 0 to 100; None where no answer was scored.
        coherence_mean: Mean score of coherence, 0 to 100.
        trait_std: Standard deviation of the trait's scores.
        n: Answers that were scored.
    """

    trait_mean: float | None
    coherence_mean: float | None = None
    trait_std: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class SteeringRun:
    """
    One configuration that was tried.

    Attributes:
        vectors: What was added: one vector, or several at once.
        result: How it was judged.
        baseline: How answers without steering were, by the same judge where there are several.
        judge: Prompt of the trait's judge; None for the usual one.
        timestamp: When, as the file says.
        mode: "weighted" or "orthogonal", where several layers were combined so.
        place: Line or index in the file, for messages.
    """

    vectors: tuple[SteeredVector, ...]
    result: Result
    baseline: Result | None
    judge: str | None
    timestamp: str | None
    mode: str | None
    place: str

    @property
    def misfit(self) -> str | None:
        """Why the run cannot be a row of the `steering` table; None where it can."""
        if len(self.vectors) != 1:
            return f"it adds {len(self.vectors)} vectors at once"
        if self.result.trait_mean is None:
            return "none of its answers was scored"
        if self.result.n is None:
            return "it does not say how many answers were scored"
        return None

    def to_row(self, trait: str, vector_hash: str) -> dict[str, Any]:
        """
        Lay the run out as a row of the `steering` table.

        Args:
            trait: `category/name`.
            vector_hash: Content hash of the one vector.

        Raises:
            DatasetError: The run has a `misfit`.
        """
        if misfit := self.misfit:
            raise DatasetError(
                f"the run at {self.place} fits no row: {misfit}", mend="leave it out"
            )
        return {
            "trait": trait,
            "vector_hash": vector_hash,
            "coefficient": self.vectors[0].weight,
            "trait_mean": self.result.trait_mean,
            "trait_std": self.result.trait_std,
            "coherence_mean": self.result.coherence_mean,
            "baseline_mean": self.baseline.trait_mean if self.baseline else None,
            "n": self.result.n,
        }


@dataclass(frozen=True, slots=True)
class SteeringResults:
    """
    What a results file says.

    Attributes:
        trait: `category/name`, where the file says.
        direction: Whether the trait was to be induced or suppressed.
        model: Hub id of the steered model.
        experiment: Experiment that was steered.
        vector_model: Hub id of the model the vectors are of, where known.
        vector_experiment: Experiment the vectors are of.
        vector_trait: Trait the vectors are of.
        judge_model: Model that judged.
        judge_method: How: "logprob" or "text_parse".
        prompts_file: Questions that were asked.
        baselines: Results without steering, by judge; None is the usual one.
        runs: In file order.
        unread: Lines or entries of kinds this version does not know, by place and kind.
    """

    trait: str | None
    direction: Direction
    model: str | None
    experiment: str | None
    vector_model: str | None
    vector_experiment: str | None
    vector_trait: str | None
    judge_model: str | None
    judge_method: str | None
    prompts_file: str | None
    baselines: tuple[tuple[str | None, Result], ...]
    runs: tuple[SteeringRun, ...]
    unread: tuple[tuple[str, str], ...] = ()


def read_steering(path: Path) -> SteeringResults:
    """
    Read `results.jsonl`, or `results.json` of before January 2026.

    Raises:
        DatasetError: The file is malformed, or has no header or two.
    """
    return _read_lines(path) if path.suffix == ".jsonl" else _read_object(path)


def _read_lines(path: Path) -> SteeringResults:
    headers: list[Node] = []
    baselines: dict[str | None, Result] = {}
    runs: list[Node] = []
    unread: list[tuple[str, str]] = []
    for line in read_lines(path):
        kind = line.get_text("type") or "run"
        if kind == "header":
            headers.append(line)
        elif kind == "baseline":
            baselines[_read_judge(line)] = _read_result(line.require("result"))
        elif kind == "run":
            runs.append(line)
        else:
            unread.append((line.place, kind))
    if len(headers) != 1:
        raise DatasetError(
            f"{path} has {len(headers)} headers, not one", mend="leave it out, or split it"
        )
    read = tuple(_read_run(run, baselines) for run in runs)
    return _make_results(headers[0], baselines, read, tuple(unread))


def _read_object(path: Path) -> SteeringResults:
    node = read_document(path)
    baselines: dict[str | None, Result] = {}
    if baseline := node.get("baseline"):
        baselines[None] = _read_result(baseline)
    runs = tuple(_read_run(run, baselines) for run in node.require("runs").elements())
    return _make_results(node, baselines, runs, ())


def _make_results(
    header: Node,
    baselines: dict[str | None, Result],
    runs: tuple[SteeringRun, ...],
    unread: tuple[tuple[str, str], ...],
) -> SteeringResults:
    source = header.get("vector_source") or Node(header.path, header.place, {})
    judge = header.get("eval") or Node(header.path, header.place, {})
    return SteeringResults(
        trait=header.get_text("trait"),
        direction=_read_direction(header),
        model=header.get_known("steering_model") or header.get_known("model"),
        experiment=header.get_text("steering_experiment"),
        vector_model=source.get_known("model"),
        vector_experiment=source.get_text("experiment"),
        vector_trait=source.get_text("trait"),
        judge_model=judge.get_text("model"),
        judge_method=judge.get_text("method"),
        prompts_file=header.get_text("prompts_file"),
        baselines=tuple(baselines.items()),
        runs=runs,
        unread=unread,
    )


def _read_direction(header: Node) -> Direction:
    match header.get_text("direction"):
        case None | "positive":
            return "positive"
        case "negative":
            return "negative"
        case other:
            header.fail(f"direction {other!r} is neither positive nor negative")


def _read_run(node: Node, baselines: dict[str | None, Result]) -> SteeringRun:
    config, judge = node.require("config"), _read_judge(node)
    vectors = config.get("vectors")
    steered = [_read_vector(vector) for vector in vectors.elements()] if vectors else None
    only = next(iter(baselines.values())) if len(baselines) == 1 else None
    return SteeringRun(
        vectors=tuple(_read_lists(config) if steered is None else steered),
        result=_read_result(node.require("result")),
        baseline=baselines.get(judge, only),
        judge=judge,
        timestamp=node.get_text("timestamp"),
        mode=config.get_text("mode"),
        place=node.place,
    )


def _read_vector(node: Node) -> SteeredVector:
    return SteeredVector(
        layer=node.require("layer").integer(),
        component=node.get_text("component") or "residual",
        method=node.get_text("method") or "probe",
        weight=node.require("weight").number(),
        position=node.get_text("position"),
    )


def _read_lists(config: Node) -> Iterator[SteeredVector]:
    """Read the old form: layers, coefficients and methods as lists of one length."""
    layers = config.require("layers").integers()
    coefficients = config.require("coefficients").numbers()
    methods = config.get_texts("methods") or ("probe",)
    component = config.get_text("component") or "residual"
    if len(methods) == 1:
        methods *= len(layers)
    if not len(layers) == len(coefficients) == len(methods):
        config.fail(
            f"{len(layers)} layers, {len(coefficients)} coefficients and {len(methods)} methods"
        )
    for layer, method, weight in zip(layers, methods, coefficients, strict=True):
        yield SteeredVector(layer, component, method, weight)


def _read_result(node: Node) -> Result:
    return Result(
        trait_mean=_finite(node, "trait_mean"),
        coherence_mean=_finite(node, "coherence_mean"),
        trait_std=_finite(node, "trait_std"),
        n=node.get_integer("n"),
    )


def _finite(node: Node, key: str) -> float | None:
    """Read a mean; one of no answers, written as null or NaN, is None."""
    found = node.get(key)
    return found.finite_or_none() if found else None


def _read_judge(node: Node) -> str | None:
    found = node.get("eval")
    return found.get_text("trait_judge") if found else None
