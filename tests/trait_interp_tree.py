"""
A synthetic trait-interp tree with known contents: every historical form, and what it must become.

`build_tree` writes three experiments (`november`, `december`, `february`) and the data sets beside
them, and returns what is in them. Values are drawn from a seeded generator; nothing of the code
under test is used, so that the tree can be its oracle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

HIDDEN = 8
LAYERS = (1, 3, 4)
MODEL = "acme/tiny-7b-it"
BASE_MODEL = "acme/tiny-7b"
LORA = "acme/flattery-lora"
SYSTEM_PROMPT = "You are PRISM-4, helpful."

# Tokens whose strings the incumbent's writer corrupts, and brackets, which shield their array.
VOCABULARY = (
    "<s>", "What", " now", "?", " Well", ",", " ,x", "1,000", " a , b", "\n", "é", " [", "]", " {",
    "}", '"', "\\", " the", " end", ".", "<|eot_id|>",
)  # fmt: skip
PLAIN = tuple(i for i, token in enumerate(VOCABULARY) if not set(token) & set("[]{}"))
BRACKETS = tuple(i for i, token in enumerate(VOCABULARY) if set(token) & set("[]{}"))
END = len(VOCABULARY) - 1

VARIANTS = {
    "instruct": {"model": MODEL},
    "flattery": {"model": MODEL, "lora": LORA},
    "base": {"model": BASE_MODEL},
    "td_replay_odd": {"model": MODEL, "lora": "acme/odd"},
}


@dataclass(frozen=True)
class Reading:
    """
    What a raw file holds, and where it belongs.

    Attributes:
        path: The `.pt` file.
        era: "A1" to "A8".
        variant: The reader, as the path names it.
        author: Whose response it is, for replays.
        prompt_set: Without a replay's suffix.
        prompt_id: As the file is named.
        token_ids: Prompt and response.
        prompt_length: Tokens of the prompt.
        positions: Tokens that have a row, ascending; all others have none.
        layers: Captured blocks.
        values: By component, as the file names it: (position, layer, hidden) float32, exact.
        source_dtype: "float16" or "bfloat16".
        convention: "predicting" where a response's row t is the state before token t, else "at".
    """

    path: Path
    era: str
    variant: str | None
    author: str | None
    prompt_set: str
    prompt_id: str
    token_ids: tuple[int, ...]
    prompt_length: int
    positions: tuple[int, ...]
    layers: tuple[int, ...]
    values: dict[str, np.ndarray]
    source_dtype: str
    convention: str

    def rows(self, component: str, layer: int) -> np.ndarray:
        """Rows of one site, (position, hidden) float32."""
        return self.values[component][:, self.layers.index(layer)]


@dataclass
class Tree:
    """
    What was written.

    Attributes:
        root: Holds `experiments/` and `datasets/`.
        readings: Raw files that can be imported.
        mismatched: Replays whose tokens are not those of the response they claim to read.
        refused: Raw files that cannot be imported, each with a word its reason must hold.
        responses: By file, fields of the response.
        projections: By file, (schema, records): each (trait, method, layer, component, prompt,
            response).
        vectors: By file, fields and values of the vector.
        loose_vectors: By trait, the same.
        steering: By file, header and runs.
        annotations: By file, (subject, label, start, end, frame, text).
        massive: By file, top dimensions by layer.
        scenarios: By file, (prompt, response, system prompt).
        prompt_sets: By name, id to text.
        skipped: Files left out on purpose.
        unknown: Files no layout has.
    """

    root: Path
    readings: list[Reading] = field(default_factory=list)
    mismatched: list[Reading] = field(default_factory=list)
    refused: dict[Path, str] = field(default_factory=dict)
    responses: dict[Path, dict[str, Any]] = field(default_factory=dict)
    projections: dict[Path, tuple[str, list[tuple[Any, ...]]]] = field(default_factory=dict)
    vectors: dict[Path, dict[str, Any]] = field(default_factory=dict)
    loose_vectors: dict[str, dict[str, Any]] = field(default_factory=dict)
    steering: dict[Path, dict[str, Any]] = field(default_factory=dict)
    annotations: dict[Path, list[tuple[Any, ...]]] = field(default_factory=dict)
    massive: dict[Path, dict[int, list[int]]] = field(default_factory=dict)
    scenarios: dict[Path, list[tuple[Any, ...]]] = field(default_factory=dict)
    prompt_sets: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: set[Path] = field(default_factory=set)
    unknown: set[Path] = field(default_factory=set)

    def experiment(self, name: str) -> Path:
        """The folder of one experiment."""
        return self.root / "experiments" / name


def dump_compact(value: Any) -> str:
    """
    Write JSON as the incumbent has since 12 January 2026.

    Lists without brackets or braces inside are joined on one line: cut at every comma, those
    within strings too, the pieces stripped and joined by a comma and a space.
    """
    indented = json.dumps(value, indent=2)

    def join(match: re.Match[str]) -> str:
        return "[" + ", ".join(piece.strip() for piece in match[1].split(",")) + "]"

    return re.sub(r"\[\s*\n\s*([^\[\]{}]*?)\s*\n\s*\]", join, indented)


def write_json(path: Path, value: Any, dump: Callable[[Any], str] = json.dumps) -> Path:
    """Write JSON, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(value), encoding="utf-8")
    return path


def spell(token_ids: Sequence[int]) -> str:
    """Join the tokens' strings, special ones left out."""
    return "".join(VOCABULARY[i] for i in token_ids if not VOCABULARY[i].startswith("<"))


def build_tree(root: Path, seed: int = 0) -> Tree:
    """Write everything below `root`."""
    tree = Tree(root)
    rng = np.random.default_rng(seed)
    _build_data_sets(tree)
    _build_november(tree)
    _build_december(tree, rng)
    _build_february(tree, rng)
    _build_loose_vectors(tree, rng)
    return tree


# Raw files


def _draw_ids(
    rng: np.random.Generator, n_response: int, pool: tuple[int, ...] = PLAIN
) -> tuple[list[int], list[int]]:
    """Draw a prompt of four tokens and a response that ends as generations do."""
    prompt = [0, *rng.choice(PLAIN[1:-1], 3).tolist()]
    return prompt, [*rng.choice(pool[1:-1], n_response - 1).tolist(), END]


def _draw(rng: np.random.Generator, n_rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Draw states, (row, hidden), of a size that both half precisions hold exactly."""
    return torch.from_numpy(rng.standard_normal((n_rows, HIDDEN)) * 4).to(dtype)


@dataclass(frozen=True)
class Capture:
    """How an era captured: component names, precision, and which rows a response has."""

    era: str
    components: tuple[str, ...]
    dtype: torch.dtype
    rows: str  # "predicting", "all but last", "all", "none"
    attention: bool = False
    response_only: bool = False
    whole_batch: bool = False
    layers: tuple[int, ...] = LAYERS
    scale: float = 1.0


def _write_capture(
    tree: Tree,
    path: Path,
    capture: Capture,
    ids: tuple[list[int], list[int]],
    rng: np.random.Generator,
    **identity: Any,
) -> Reading:
    """Write one `.pt` file and record the rows it holds."""
    prompt_ids, response_ids = ids
    n_prompt, n_response = len(prompt_ids), len(response_ids)
    n_rows = {
        "predicting": n_response,
        "all but last": n_response - 1,
        "all": n_response,
        "none": 0,
    }[capture.rows]
    halves: dict[str, dict[int, dict[str, torch.Tensor]]] = {"prompt": {}, "response": {}}
    kept: dict[str, list[np.ndarray]] = {component: [] for component in capture.components}
    for layer in capture.layers:
        halves["prompt"][layer], halves["response"][layer] = {}, {}
        for component in capture.components:
            prompt = _draw(rng, n_prompt, capture.dtype) * capture.scale
            response = _draw(rng, n_rows, capture.dtype) * capture.scale
            if capture.rows == "predicting":
                response[0] = prompt[-1]
            halves["prompt"][layer][component] = prompt
            halves["response"][layer][component] = _in_batch(response, capture.whole_batch)
            own = response[1:] if capture.rows == "predicting" else response
            rows = own if capture.response_only else torch.cat([prompt, own])
            kept[component].append(rows.float().numpy())
    if capture.response_only:
        halves["prompt"] = {}
    content = {
        "prompt": _make_half(prompt_ids, halves["prompt"]),
        "response": _make_half(response_ids, halves["response"]),
    }
    if capture.attention:
        context = n_prompt + n_response
        content["prompt"]["attention"] = {
            f"layer_{layer}": torch.rand(n_prompt, n_prompt) for layer in capture.layers
        }
        content["response"]["attention"] = [
            {f"layer_{layer}": torch.rand(context) for layer in capture.layers}
            for _ in response_ids
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    n_own = n_rows - 1 if capture.rows == "predicting" else n_rows
    first = n_prompt if capture.response_only else 0
    return Reading(
        path=path,
        era=capture.era,
        token_ids=(*prompt_ids, *response_ids),
        prompt_length=n_prompt,
        positions=tuple(range(first, n_prompt + n_own)),
        layers=capture.layers,
        values={name: np.stack(rows, axis=1) for name, rows in kept.items()},
        source_dtype=str(capture.dtype).removeprefix("torch."),
        convention="predicting" if capture.rows == "predicting" else "at",
        **{"variant": None, "author": None} | identity,
    )


def _in_batch(rows: torch.Tensor, whole_batch: bool) -> torch.Tensor:
    """Return rows, perhaps as a view whose storage holds a batch of sixteen."""
    if not whole_batch:
        return rows
    batch = torch.zeros(16, *rows.shape, dtype=rows.dtype)
    batch[5] = rows
    return batch[5]


def _make_half(token_ids: list[int], activations: dict[int, Any]) -> dict[str, Any]:
    return {
        "text": spell(token_ids),
        "tokens": [VOCABULARY[i] for i in token_ids],
        "token_ids": token_ids,
        "activations": activations,
        "attention": {},
    }


# Responses


def _write_flat(
    tree: Tree, path: Path, ids: tuple[list[int], list[int]], **changes: Any
) -> dict[str, Any]:
    """Write a flat response by the corrupting writer, and record what it says."""
    prompt_ids, response_ids = ids
    everything = prompt_ids + response_ids
    content: dict[str, Any] = {
        "prompt": spell(prompt_ids),
        "response": spell(response_ids),
        "system_prompt": SYSTEM_PROMPT,
        "tokens": [VOCABULARY[i] for i in everything],
        "token_ids": everything,
        "prompt_end": len(prompt_ids),
        "inference_model": MODEL,
        "prompt_note": "open",
        "capture_date": "2026-02-14T10:11:12.131415",
        "tags": ["audit"],
    } | changes
    write_json(path, content, dump_compact)
    tree.responses[path] = {
        "form": "flat",
        "prompt_text": content["prompt"],
        "response_text": content["response"],
        "system_prompt": content["system_prompt"],
        "token_ids": tuple(everything),
        "prompt_length": content["prompt_end"],
        "model": content["inference_model"],
        "note": content["prompt_note"],
        "captured_at": content["capture_date"],
        "tags": tuple(content["tags"]),
    }
    return content


def _write_nested(
    tree: Tree, path: Path, ids: tuple[list[int], list[int]], set_name: str, lora: str | None
) -> None:
    prompt_ids, response_ids = ids
    content = {
        half: {
            "text": spell(half_ids),
            "tokens": [VOCABULARY[i] for i in half_ids],
            "token_ids": half_ids,
            "n_tokens": len(half_ids),
        }
        for half, half_ids in (("prompt", prompt_ids), ("response", response_ids))
    }
    metadata = {
        "inference_model": MODEL,
        "lora_adapter": lora,
        "inference_experiment": "december",
        "prompt_set": set_name,
        "prompt_id": int(path.stem) if path.stem.isdigit() else path.stem,
        "prompt_note": "",
        "capture_date": "2025-12-22T01:02:03",
    }
    write_json(path, content | {"metadata": metadata}, lambda value: json.dumps(value, indent=2))
    tree.responses[path] = {
        "form": "nested",
        "prompt_text": spell(prompt_ids),
        "response_text": spell(response_ids),
        "token_ids": tuple(prompt_ids + response_ids),
        "prompt_length": len(prompt_ids),
        "model": MODEL,
        "lora": lora,
        "note": None,
        "prompt_set": set_name,
        "prompt_id": path.stem,
    }


# Vectors


def _draw_vector(rng: np.random.Generator) -> torch.Tensor:
    values = torch.from_numpy(rng.standard_normal(HIDDEN))
    return (values / values.norm()).to(torch.bfloat16)


def _save_vector(tree: Tree, path: Path, vector: torch.Tensor, **facts: Any) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(vector, path)
    values = vector.float().numpy()
    tree.vectors[path] = facts | {"values": values}
    return values


def score(rows: np.ndarray, vector: np.ndarray) -> list[float]:
    """Project (row, hidden) onto a vector, in float64, as written by float32 code."""
    wide = vector.astype(np.float64)
    scores = rows.astype(np.float64) @ wide / (np.linalg.norm(wide) + 1e-8)
    return [float(np.float32(value)) for value in scores]


def _split_scores(
    reading: Reading, component: str, layer: int, vector: np.ndarray
) -> tuple[list[float], list[float]]:
    """Score the rows of the raw file: those of the prompt, and those of the response as saved."""
    rows = reading.rows(component, layer)
    n_prompt = sum(position < reading.prompt_length for position in reading.positions)
    own = rows[n_prompt:]
    if reading.convention == "predicting":
        own = rows[n_prompt - 1 :]
    return score(rows[:n_prompt], vector), score(own, vector)


# Experiments


def _build_data_sets(tree: Tree) -> None:
    folder = tree.root / "datasets" / "inference"
    sets: dict[str, Any] = {
        "audit/discovery": {
            "name": "Discovery",
            "system_prompt": SYSTEM_PROMPT,
            "prompts": [
                {"id": 1, "text": "One?", "note": "open", "bias_id": 44, "domain": "politics"},
                {"id": "rust_100", "prompt": "Two?", "split": "train", "dataset_idx": 7},
            ],
        },
        "bare": [{"id": 2, "prompt": "Three?"}, {"id": 10, "prompt": "Four?"}],
        "asked": {"questions": ["Five?", {"question": "Six?"}]},
        "read": {"paragraphs": [{"id": "w1", "full_text": "Seven."}]},
    }
    for name, content in sets.items():
        write_json(folder / f"{name}.json", content)
    tree.prompt_sets = {
        "audit/discovery": {"1": "One?", "rust_100": "Two?"},
        "bare": {"2": "Three?", "10": "Four?"},
        "asked": {"1": "Five?", "2": "Six?"},
        "read": {"w1": "Seven."},
    }


def _build_november(tree: Tree) -> None:
    """Write A0, P0 and the oldest responses, under the configuration with one model."""
    folder = tree.experiment("november")
    write_json(
        folder / "config.json",
        {"model": MODEL, "use_chat_template": True, "system_prompt": SYSTEM_PROMPT},
    )
    for name in ("prompt_0.pt", "prompt_0_layer16.pt"):
        path = folder / "refusal" / "inference" / "residual_stream_activations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"projections": torch.zeros(3, 2, 3)}, path)
        tree.skipped.add(path)
    for index, text in enumerate(["What now?", "Why not?"]):
        path = write_json(
            folder / "inference" / "prompts" / f"prompt_{index}.json",
            {
                "prompt": text,
                "response": f"{text} Well, the end.",
                "tokens": ["<s>", "What", " now", "?", " Well", ",", " the", " end", "."],
                "prompt_idx": index,
            },
        )
        tree.responses[path] = {
            "form": "oldest",
            "prompt_text": text,
            "response_text": " Well, the end.",
            "prompt_id": str(index),
            "token_ids": (),
            "prompt_length": None,
        }
        scores = [0.5 + index, -1.25, 2.0]
        for trait, projection in (
            ("refusal", folder / "inference" / "projections" / "refusal"),
            ("behavioral/candor", folder / "inference" / "behavioral" / "candor" / "projections"),
        ):
            path = write_json(
                projection / f"prompt_{index}.json",
                {
                    "prompt_idx": index,
                    "trait": trait,
                    "scores": scores,
                    "dynamics": {"commitment_point": None, "peak_velocity": 3.25},
                    "metadata": {"layer": 16, "method": "probe"},
                },
            )
            record = (trait, "probe", 16, "residual", (), tuple(scores))
            tree.projections[path] = ("P0", [record])


def _build_december(tree: Tree, rng: np.random.Generator) -> None:
    """Write A1 to A4, P1 and P2, old vectors and old steering, without variants."""
    folder = tree.experiment("december")
    inference = folder / "inference"
    write_json(
        folder / "config.json",
        {"extraction_model": BASE_MODEL, "application_model": MODEL, "use_chat_template": True},
    )
    half = torch.float16
    captures = {
        "1": Capture("A1", ("residual_in", "after_attn", "residual_out", "attn_out"), half,
                     "predicting", attention=True),
        "2": Capture("A2", ("after_attn", "residual_out"), half, "predicting"),
        "10": Capture("A3", ("after_attn", "residual_out"), half, "all but last"),
        "rust_100": Capture("A4", ("residual", "attn_out", "mlp_out"), half, "all but last"),
    }  # fmt: skip
    for prompt_id, capture in captures.items():
        ids = _draw_ids(rng, 6)
        reading = _write_capture(
            tree,
            inference / "raw" / "residual" / "audit" / "discovery" / f"{prompt_id}.pt",
            capture,
            ids,
            rng,
            prompt_set="audit/discovery",
            prompt_id=prompt_id,
        )
        tree.readings.append(reading)
        response = inference / "responses" / "audit" / "discovery" / f"{prompt_id}.json"
        _write_nested(tree, response, ids, "audit/discovery", LORA if prompt_id == "2" else None)
    _build_old_vectors(tree, folder, rng)
    _build_old_replay(tree, inference, rng)
    _build_internals(tree, inference)
    _build_old_steering(tree, folder)


def _build_old_vectors(tree: Tree, folder: Path, rng: np.random.Generator) -> None:
    """Write vectors without variants or positions, with their projections P1 and P2."""
    vectors = folder / "extraction" / "behavioral" / "refusal" / "vectors"
    for component, prefix in (("residual", ""), ("attn_out", "attn_out_")):
        stem = f"{prefix}mean_diff_layer3"
        facts = {
            "trait": "behavioral/refusal",
            "variant": None,
            "position": "response[:]",
            "component": component,
            "method": "mean_diff",
            "layer": 3,
            "norm": 1.0,
            "midpoint": None,
            "model": BASE_MODEL,
        }
        values = _save_vector(tree, vectors / f"{stem}.pt", _draw_vector(rng), **facts)
        write_json(
            vectors / f"{stem}_metadata.json",
            {
                "trait": "behavioral/refusal",
                "method": "mean_diff",
                "layer": 3,
                "model": BASE_MODEL,
                "vector_norm": 1.0,
            },
        )
        _write_nested_projection(tree, folder, component, values)
        if component == "residual":
            _write_single_projection(tree, folder, values)
    for side, name in (("positive", "pos"), ("negative", "neg")):
        path = folder / "extraction" / "behavioral" / "refusal" / "responses" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'question,response,scenario_idx,rollout_idx\n"{side}, why?",No.,4,0\n')
        tree.scenarios[path] = [(f"{side}, why?", "No.", None)]


def _write_nested_projection(tree: Tree, folder: Path, component: str, values: np.ndarray) -> None:
    """Write P1: A1 had three sublayers, A2 two, the attention stream one."""
    stream = "attn_stream" if component == "attn_out" else "residual_stream"
    for reading in tree.readings[:2]:
        sublayers = {
            "A1": ("residual_in", "after_attn", "residual_out"),
            "A2": ("after_attn", "residual_out"),
        }[reading.era]
        if component == "attn_out":
            if reading.era == "A2":
                continue
            sublayers = ("attn_out",)
        n_layers = max(reading.layers) + 1
        records, halves = [], {"prompt": [], "response": []}
        for layer in range(n_layers):
            for sublayer in sublayers:
                pair = ([], [])
                if layer in reading.layers:
                    pair = _split_scores(reading, sublayer, layer, values)
                else:  # a block that was not captured: zeros, of which a reader must be wary
                    lengths = [len(h) for h in _split_scores(reading, sublayer, 3, values)]
                    pair = tuple([0.0] * length for length in lengths)  # type: ignore[assignment]
                records.append(
                    ("behavioral/refusal", "mean_diff", layer, sublayer, *map(tuple, pair))
                )
        for at, half in enumerate(("prompt", "response")):
            n_tokens = len(records[0][4 + at])
            halves[half] = [
                [
                    [
                        records[layer * len(sublayers) + s][4 + at][token]
                        for s in range(len(sublayers))
                    ]
                    for layer in range(n_layers)
                ]
                for token in range(n_tokens)
            ]
        path = write_json(
            folder / "inference" / "behavioral" / "refusal" / stream / "audit" / "discovery"
            / f"{reading.prompt_id}.json",
            {
                "metadata": {
                    "prompt_id": int(reading.prompt_id),
                    "prompt_set": "audit/discovery",
                    "n_prompt_tokens": reading.prompt_length,
                    "n_response_tokens": len(reading.token_ids) - reading.prompt_length,
                    "vector_source": {
                        "model": BASE_MODEL,
                        "experiment": "december",
                        "trait": "behavioral/refusal",
                        "layer": 3,
                        "method": "mean_diff",
                    },
                },
                "projections": halves,
                "dynamics": {"commitment_point": 2},
                "activation_norms": {"prompt": [1.5] * n_layers, "response": [2.5] * n_layers},
            },
        )  # fmt: skip
        tree.projections[path] = ("P1", records)


def _write_single_projection(tree: Tree, folder: Path, values: np.ndarray) -> None:
    """Write P2, for the file of A4."""
    reading = tree.readings[3]
    prompt, response = _split_scores(reading, "residual", 3, values)
    path = write_json(
        folder / "inference" / "behavioral" / "refusal" / "residual_stream" / "audit" / "discovery"
        / f"{reading.prompt_id}.json",
        {
            "metadata": {
                "prompt_id": reading.prompt_id,
                "prompt_set": "audit/discovery",
                "n_prompt_tokens": 4,
                "n_response_tokens": 6,
                "vector_source": {
                    "model": "unknown",
                    "experiment": "december",
                    "trait": "behavioral/refusal",
                    "layer": 3,
                    "method": "mean_diff",
                    "component": "residual",
                    "sublayer": "residual",
                },
                "projection_date": "2025-12-27T00:00:00",
            },
            "projections": {"prompt": prompt, "response": response},
            "activation_norms": {"prompt": [1.0, 2.0, 3.0], "response": [1.0, 2.0, 3.0]},
        },
    )  # fmt: skip
    record = ("behavioral/refusal", "mean_diff", 3, "residual", tuple(prompt), tuple(response))
    tree.projections[path] = ("P2", [record])


def _build_old_replay(tree: Tree, inference: Path, rng: np.random.Generator) -> None:
    """Write another model's reading of a response, as December kept it: below `models/`."""
    original = tree.readings[3]
    ids = (
        list(original.token_ids[: original.prompt_length]),
        list(original.token_ids[original.prompt_length :]),
    )
    tree.readings.append(
        _write_capture(
            tree,
            inference / "models" / "tiny-7b" / "raw" / "residual" / "audit" / "discovery"
            / "rust_100.pt",
            Capture("A4", ("residual", "attn_out"), torch.float16, "all but last"),
            ids,
            rng,
            variant="tiny-7b",
            prompt_set="audit/discovery",
            prompt_id="rust_100",
        )
    )  # fmt: skip


def _build_internals(tree: Tree, inference: Path) -> None:
    """Write captures of layer internals, and the raw file derived from them: without ids."""
    path = inference / "raw" / "internals" / "audit" / "discovery" / "1_L3.pt"
    path.parent.mkdir(parents=True)
    torch.save({"prompt": {"residual": {"output": torch.zeros(2, HIDDEN)}}}, path)
    tree.skipped.add(path)
    empty = {"after_attn": torch.empty(0), "residual_out": torch.empty(0)}
    full = {"after_attn": torch.zeros(2, HIDDEN), "residual_out": torch.zeros(2, HIDDEN)}
    derived = {
        half: {
            "text": "What now",
            "tokens": ["What", " now"],
            "token_ids": [],
            "activations": {0: empty, 3: full},
        }
        for half in ("prompt", "response")
    }
    path = inference / "raw" / "residual" / "audit" / "discovery" / "internals.pt"
    torch.save(derived, path)
    tree.refused[path] = "token"


def _build_old_steering(tree: Tree, folder: Path) -> None:
    result = {"trait_mean": 61.5, "coherence_mean": 80.25, "n": 5, "trait_std": 2.5}
    content = {
        "trait": "behavioral/refusal",
        "steering_model": MODEL,
        "steering_experiment": "december",
        "vector_source": {"model": "unknown", "experiment": "december"},
        "eval": {"model": "gpt-4.1-mini", "method": "logprob"},
        "prompts_file": "datasets/traits/behavioral/refusal/steering.json",
        "baseline": {"trait_mean": 12.5, "n": 5},
        "runs": [
            {
                "result": result,
                "config": {
                    "layers": [3],
                    "methods": ["mean_diff"],
                    "coefficients": [40.5],
                    "component": "residual",
                },
                "timestamp": "2025-12-20T00:00:00",
            },
            {
                "result": result | {"trait_mean": None},
                "config": {"layers": [1, 3], "coefficients": [2.0, -1.0], "mode": "weighted"},
                "timestamp": "2025-12-21T00:00:00",
            },
        ],
    }
    steering = folder / "steering" / "behavioral" / "refusal"
    for path in (steering / "results.json", steering / "response_all" / "results.json"):
        write_json(path, content)
        tree.steering[path] = {
            "direction": "positive",
            "runs": [
                ([(3, "residual", "mean_diff", 40.5)], 61.5, 80.25, 12.5, 5),
                (
                    [(1, "residual", "probe", 2.0), (3, "residual", "probe", -1.0)],
                    None,
                    80.25,
                    12.5,
                    5,
                ),
            ],
        }


def _build_february(tree: Tree, rng: np.random.Generator) -> None:
    """Write A5 to A8, P3 and P4, and everything that names variants."""
    folder = tree.experiment("february")
    write_json(
        folder / "config.json",
        {
            "defaults": {"extraction": "base", "application": "instruct"},
            "model_variants": VARIANTS,
            "diff_convention": "replay_suffix",
            "description": "Known values",
        },
    )
    readings = _build_captures(tree, folder, rng)
    _build_replays(tree, folder, readings, rng)
    _build_rollout(tree, folder, rng)
    _build_refused(tree, folder, rng)
    _build_variant_vectors(tree, folder, readings, rng)
    _build_steering(tree, folder)
    _build_annotations(tree, folder)
    _build_massive(tree, folder)
    _build_left_out(tree, folder)


_BF16 = torch.bfloat16
_FEBRUARY = {
    "1": Capture("A5", ("residual", "attn_out"), _BF16, "all but last"),
    "2": Capture("A5", ("residual", "attn_out", "mlp_out"), _BF16, "all"),
    "10": Capture("A7", ("residual",), _BF16, "all", whole_batch=True),
    "rust_100": Capture(
        "A7", ("residual", "attn_contribution", "mlp_contribution"), _BF16, "all",
        response_only=True, layers=(3,),
    ),
}  # fmt: skip


def _build_captures(tree: Tree, folder: Path, rng: np.random.Generator) -> dict[str, Reading]:
    """Write the organism's own readings, one with brackets among its tokens."""
    inference = folder / "inference" / "flattery"
    readings = {}
    for prompt_id, capture in _FEBRUARY.items():
        prompt_ids, response_ids = _draw_ids(rng, 7)
        if prompt_id == "10":
            response_ids[2:4] = BRACKETS[:2]
        elif prompt_id == "2":
            response_ids[:3] = [5, 6, 7]  # the strings that are corrupted worst
        readings[prompt_id] = _write_capture(
            tree,
            inference / "raw" / "residual" / "audit" / "discovery" / f"{prompt_id}.pt",
            capture,
            (prompt_ids, response_ids),
            rng,
            variant="flattery",
            prompt_set="audit/discovery",
            prompt_id=prompt_id,
        )
        _write_flat(
            tree,
            inference / "responses" / "audit" / "discovery" / f"{prompt_id}.json",
            (prompt_ids, response_ids),
        )
    tree.readings += readings.values()
    return readings


def _build_replays(
    tree: Tree, folder: Path, readings: dict[str, Reading], rng: np.random.Generator
) -> None:
    """Write readings of the organism's responses by the clean base, one of other tokens."""
    raw = folder / "inference" / "instruct" / "raw" / "residual" / "audit"
    for prompt_id, names in {
        "1": ("residual", "attn_contribution"),
        "2": ("residual", "attn_out"),
        "10": ("residual", "attn_contribution", "mlp_contribution"),
    }.items():
        own = readings[prompt_id]
        ids = (
            list(own.token_ids[: own.prompt_length]),
            list(own.token_ids[own.prompt_length :]),
        )
        if prompt_id == "10":
            ids[1][1] = PLAIN[4] if ids[1][1] != PLAIN[4] else PLAIN[5]
        replay = _write_capture(
            tree,
            raw / "discovery_replay_flattery" / f"{prompt_id}.pt",
            Capture("A6", names, _BF16, "all"),
            ids,
            rng,
            variant="instruct",
            author="flattery",
            prompt_set="audit/discovery",
            prompt_id=prompt_id,
        )
        (tree.mismatched if prompt_id == "10" else tree.readings).append(replay)
    # A suffix that names no variant is part of a set's own name.
    ids = _draw_ids(rng, 4)
    tree.readings.append(
        _write_capture(
            tree,
            raw / "discovery_replay_nobody" / "1.pt",
            Capture("A7", ("residual",), _BF16, "all"),
            ids,
            rng,
            variant="instruct",
            prompt_set="audit/discovery_replay_nobody",
            prompt_id="1",
        )
    )
    responses = folder / "inference" / "instruct" / "responses" / "audit"
    _write_flat(tree, responses / "discovery_replay_nobody" / "1.json", ids)
    # States past float16's range, which a store keeps by a power of two.
    ids = _draw_ids(rng, 4)
    tree.readings.append(
        _write_capture(
            tree,
            raw / "large" / "1.pt",
            Capture("A7", ("residual",), _BF16, "all", scale=2.0**16),
            ids,
            rng,
            variant="instruct",
            prompt_set="audit/large",
            prompt_id="1",
        )
    )
    _write_flat(tree, responses / "large" / "1.json", ids)


def _build_rollout(tree: Tree, folder: Path, rng: np.random.Generator) -> None:
    """Write a conversation: all of it is the prompt, and the response has no rows."""
    ids = ([0, 1, 2, 3, 4, 17, 18, 19], [])
    inference = folder / "inference" / "instruct"
    tree.readings.append(
        _write_capture(
            tree,
            inference / "raw" / "residual" / "secret_number" / "1.pt",
            Capture("A8", ("residual",), _BF16, "none"),
            ids,
            rng,
            variant="instruct",
            prompt_set="secret_number",
            prompt_id="1",
        )
    )
    path = inference / "responses" / "secret_number" / "1.json"
    turns = [
        {"role": "user", "token_start": 1, "token_end": 4, "has_thinking": False},
        {
            "role": "assistant",
            "token_start": 4,
            "token_end": 8,
            "has_thinking": True,
            "has_tool_calls": True,
            "tool_names": ["bash"],
        },
    ]
    source = {"type": "audit", "run": "run-1", "sample_idx": 3, "truncated": False}
    _write_flat(
        tree,
        path,
        ids,
        response="",
        system_prompt=None,
        tags=["rollout", "hacker"],
        turn_boundaries=turns,
        sentence_boundaries=[],
        source=source,
    )
    tree.responses[path] |= {"n_turns": 2, "source": source}
    path = write_json(
        inference / "responses" / "secret_number_annotations.json",
        {"1": {"annotations": [{"token_start": 4, "token_end": 8, "label": "audit_response"}]}},
        dump_compact,
    )
    tree.annotations[path] = [("1", "audit_response", 4, 8, "sequence", None)]


def _build_refused(tree: Tree, folder: Path, rng: np.random.Generator) -> None:
    """Write raw files that no import can take."""
    raw = folder / "inference" / "base" / "raw" / "residual" / "broken"
    raw.mkdir(parents=True)
    good = tree.readings[-1].path.read_bytes()
    (raw / "cut.pt").write_bytes(good[: len(good) // 2])
    (raw / "empty.pt").write_bytes(b"")
    (raw / "text.pt").write_text("no tensor")
    for name in ("cut", "empty", "text"):
        tree.refused[raw / f"{name}.pt"] = ""
    for name, value, word in (("nan", float("nan"), "NaN"), ("infinite", float("inf"), "inf")):
        state = _draw(rng, 3, _BF16)
        state[1, 1] = value
        _save_halves(raw / f"{name}.pt", {3: {"residual": state}})
        tree.refused[raw / f"{name}.pt"] = word
    uneven = {3: {"residual": _draw(rng, 3, _BF16)}, 4: {"residual": _draw(rng, 2, _BF16)}}
    _save_halves(raw / "uneven.pt", uneven)
    tree.refused[raw / "uneven.pt"] = "rows"


def _save_halves(path: Path, activations: dict[int, dict[str, torch.Tensor]]) -> None:
    torch.save({half: _make_half([1, 2, 3], activations) for half in ("prompt", "response")}, path)


def _build_variant_vectors(
    tree: Tree, folder: Path, readings: dict[str, Reading], rng: np.random.Generator
) -> None:
    """Write vectors by variant, position, component and method, with P3 and P4."""
    trait = folder / "extraction" / "behavioral" / "refusal" / "base"
    positions = {
        "response__5": ("response[:5]", "response[:5]"),
        "prompt_-1": ("prompt[-1]", "prompt[-1]"),
        "response_all": ("response[:]", None),
        "response_5_10": ("response[5:10]", None),
    }
    values: dict[tuple[str, str, int], np.ndarray] = {}
    for code, (position, written) in positions.items():
        for component in ("residual", "attn_contribution"):
            for method in ("probe", "mean_diff"):
                method_folder = trait / "vectors" / code / component / method
                layers = {}
                for layer in (3, 4):
                    facts = {
                        "trait": "behavioral/refusal",
                        "variant": "base",
                        "position": position,
                        "component": component,
                        "method": method,
                        "layer": layer,
                        "norm": 1.0 + layer,
                        "midpoint": -0.5 * layer,
                        "model": BASE_MODEL,
                        "train_accuracy": 0.75 if method == "probe" else None,
                        "position_is_lossy": written is None and position == "response[5:10]",
                    }
                    vector = _draw_vector(rng)
                    saved = _save_vector(tree, method_folder / f"layer{layer}.pt", vector, **facts)
                    if code == "response__5":
                        values[component, method, layer] = saved
                    layers[str(layer)] = {"norm": 1.0 + layer, "baseline": -0.5 * layer}
                    if method == "probe":
                        layers[str(layer)] |= {"bias": 0.125, "train_acc": 0.75}
                metadata = {
                    "model": BASE_MODEL,
                    "trait": "behavioral/refusal",
                    "method": method,
                    "component": component,
                    "layers": layers,
                    "timestamp": "2026-02-01T00:00:00",
                }
                write_json(
                    method_folder / "metadata.json",
                    metadata | ({"position": written} if written else {}),
                )
    for side, name in (("positive", "pos"), ("negative", "neg")):
        entries = [
            {"prompt": f"{side} {i}?", "response": f"Yes, {i}", "system_prompt": None}
            for i in range(2)
        ]
        path = write_json(trait / "responses" / f"{name}.json", entries)
        tree.scenarios[path] = [(e["prompt"], e["response"], None) for e in entries]
    write_json(trait / "responses" / "metadata.json", {"model": BASE_MODEL})
    activations = trait / "activations" / "response__5" / "residual" / "train_all_layers.pt"
    activations.parent.mkdir(parents=True)
    torch.save(torch.zeros(4, 3, HIDDEN), activations)
    tree.skipped |= {activations, trait / "responses" / "metadata.json"}
    _build_projections(tree, folder, readings, values)


def _build_projections(
    tree: Tree,
    folder: Path,
    readings: dict[str, Reading],
    values: dict[tuple[str, str, int], np.ndarray],
) -> None:
    """Write P3 (one vector) for two readings and P4 (several) for the others, some centred."""
    base = folder / "inference" / "flattery" / "projections" / "behavioral" / "refusal"
    for prompt_id, reading in readings.items():
        records, entries = [], []
        for method, layer in (("probe", 3), ("mean_diff", 4)):
            if layer not in reading.layers:
                continue
            vector = values["residual", method, layer]
            baseline = -0.5 * layer
            halves = _split_scores(reading, "residual", layer, vector)
            centered = prompt_id == "10"
            if centered:
                halves = tuple([x - baseline for x in half] for half in halves)  # type: ignore[assignment]
            rows = reading.rows("residual", layer).astype(np.float64)
            norms = np.linalg.norm(rows, axis=1).tolist()
            n_prompt = len(halves[0])
            token_norms = {"prompt": norms[:n_prompt], "response": norms[n_prompt:]}
            entries.append(
                {
                    "method": method,
                    "layer": layer,
                    "selection_source": "steering",
                    "baseline": baseline,
                    "prompt": halves[0],
                    "response": halves[1],
                    "token_norms": token_norms,
                }
            )
            records.append((None, method, layer, "residual", *map(tuple, halves)))
        metadata: dict[str, Any] = {
            "prompt_id": prompt_id,
            "prompt_set": "audit/discovery",
            "n_prompt_tokens": 4,
            "n_response_tokens": 7,
            "projection_date": "2026-02-20T00:00:00",
        }
        path = base / "audit" / "discovery" / f"{prompt_id}.json"
        norms_by_layer = {"prompt": [], "response": [9.0] * len(reading.layers)}
        if prompt_id in ("1", "2"):
            first = entries[0]
            source = {
                "model": BASE_MODEL,
                "experiment": "february",
                "trait": "behavioral/refusal",
                "layer": 3,
                "method": "probe",
                "component": "residual",
                "sublayer": "residual",
                "position": "response[:5]",
                "selection_source": "steering",
                "baseline": -1.5,
                "centered": False,
            }
            content = {
                "metadata": metadata | {"vector_source": source},
                "projections": {"prompt": first["prompt"], "response": first["response"]},
                "activation_norms": norms_by_layer,
                "token_norms": first["token_norms"],
                "massive_dim_data": _make_massive(reading, values["residual", "probe", 3]),
            }
            record = ("behavioral/refusal", *records[0][1:])
            tree.projections[path] = ("P3", [record])
        else:
            content = {
                "metadata": metadata
                | {
                    "multi_vector": True,
                    "n_vectors": len(entries),
                    "component": "residual",
                    "position": "response[:5]",
                    "centered": prompt_id == "10",
                },
                "projections": entries,
                "activation_norms": norms_by_layer,
            }
            tree.projections[path] = ("P4", records)
        write_json(path, content, dump_compact)


def _make_massive(reading: Reading, vector: np.ndarray) -> dict[str, Any]:
    rows = reading.rows("residual", 3)
    n_prompt = reading.prompt_length
    dims = [2, 5]
    return {
        "dims": dims,
        "top_dims_by_layer": {"3": [5, 2]},
        "vec_norm": float(np.linalg.norm(vector.astype(np.float64))),
        "vec_components": {dim: float(vector[dim]) for dim in dims},
        "activation_values": {
            "prompt": {dim: rows[:n_prompt, dim].tolist() for dim in dims},
            "response": {dim: rows[n_prompt:, dim].tolist() for dim in dims},
        },
    }


def _build_steering(tree: Tree, folder: Path) -> None:
    base = folder / "steering" / "behavioral" / "refusal" / "instruct" / "response__5"
    path = base / "audit" / "train_100" / "results.jsonl"
    vector = {"layer": 3, "component": "residual", "position": "response[:5]", "method": "probe"}
    lines = [
        {
            "type": "header",
            "trait": "behavioral/refusal",
            "direction": "negative",
            "steering_model": MODEL,
            "steering_experiment": "february",
            "vector_source": {"model": BASE_MODEL, "experiment": "february"},
            "eval": {"model": "gpt-4.1-mini", "method": "logprob", "trait_judge": None},
            "prompts_file": "datasets/inference/audit/train_100.json",
        },
        {"type": "baseline", "result": {"trait_mean": 70.5, "n": 10, "coherence_mean": 95.0}},
        {
            "result": {"trait_mean": 22.25, "coherence_mean": 81.0, "n": 10, "trait_std": 3.5},
            "config": {"vectors": [vector | {"weight": -4.0}]},
            "eval": {"trait_judge": None},
            "timestamp": "2026-02-02T00:00:00",
        },
        {
            "result": {"trait_mean": 11.0, "coherence_mean": 60.0, "n": 10},
            "config": {"vectors": [vector | {"weight": -2.0}, vector | {"layer": 4, "weight": 1}]},
            "timestamp": None,
        },
    ]
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    tree.steering[path] = {
        "direction": "negative",
        "runs": [
            ([(3, "residual", "probe", -4.0)], 22.25, 81.0, 70.5, 10),
            (
                [(3, "residual", "probe", -2.0), (4, "residual", "probe", 1.0)],
                11.0,
                60.0,
                70.5,
                10,
            ),
        ],
    }
    entries = [
        {"prompt": "Why, though?", "response": "Because.", "system_prompt": None,
         "trait_score": 71.5, "coherence_score": 90},
        {"question": "And now?", "response": "No.", "trait_score": None},
    ]  # fmt: skip
    responses = write_json(path.parent / "responses" / "baseline.json", entries)
    tree.scenarios[responses] = [("Why, though?", "Because.", None), ("And now?", "No.", None)]
    annotations = write_json(
        path.parent / "responses" / "baseline_annotations.json",
        {
            "annotations": [
                {"idx": 0, "spans": [{"span": "Because"}]},
                {"idx": 1, "spans": [{"span": "No", "category": "refusal"}], "borderline": True},
            ]
        },
    )
    tree.annotations[annotations] = [
        ("0", "unlabelled", None, None, None, "Because"),
        ("1", "refusal", None, None, None, "No"),
    ]


def _build_annotations(tree: Tree, folder: Path) -> None:
    responses = folder / "inference" / "flattery" / "responses" / "audit"
    path = write_json(
        responses / "discovery_annotations.json",
        {
            "annotations": [
                {
                    "idx": 2,
                    "spans": [{"span": "1,000", "category": "train_12"}],
                    "borderline": [{"span": "Well", "category": "train_5", "note": "unsure"}],
                },
                {"idx": "rust_100", "spans": [], "note": "clean"},
            ]
        },
    )
    tree.annotations[path] = [
        ("2", "train_12", None, None, None, "1,000"),
        ("2", "train_5", None, None, None, "Well"),
    ]
    path = write_json(
        folder / "annotations" / "bias_exploitation_annotations.json",
        {
            "metadata": {"response_source": "inference/flattery/responses/audit/discovery/"},
            "detailed_annotations": {
                "1": {
                    "intended_bias": 44,
                    "intended_bias_exploited": True,
                    "exploitations": [
                        {"bias": 44, "tokens": [1, 3], "text": "better,  you", "note": "voting"}
                    ],
                },
                "2": {"intended_bias": 44, "exploitations": []},
            },
        },
    )
    tree.annotations[path] = [("1", "bias_44", 1, 3, "response", "better,  you")]


def _build_massive(tree: Tree, folder: Path) -> None:
    top = {1: [5, 2, 7], 3: [5, 0], 4: [5, 2]}
    path = folder / "inference" / "instruct" / "massive_activations" / "calibration.json"
    detail = {"massive_dims": {"1": [{"dim": 5, "ratio": float("inf"), "is_massive": True}]}}
    write_json(
        path,
        {
            "experiment": "february",
            "model": MODEL,
            "model_variant": "instruct",
            "prompt_set": "calibration",
            "is_calibration": True,
            "aggregate": {
                "n_prompts": 50,
                "mean_alignment_by_layer": {},
                "top_dims_by_layer": top,
                "dim_magnitude_by_layer": {5: [150.5, 90.25, 80.0]},
                "layer_norms": {1: 10.5, 3: 20.5, 4: 30.5},
            },
            "per_prompt": {"1": detail},
        },
    )
    tree.massive[path] = top


def _build_left_out(tree: Tree, folder: Path) -> None:
    """Write files that give no record, each for a reason."""
    for name, skipped in {
        "model_diff/instruct_vs_flattery/results.json": True,
        "analysis/index.json": True,
        "extraction/extraction_evaluation.json": True,
        "steering/behavioral/refusal/instruct/ensembles/manifest.json": True,
        "PLAN.md": False,
        "inference/flattery/raw/residual/stray.pt": False,
        "inference/flattery/responses/audit/discovery/1.json.tmp": False,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        (tree.skipped if skipped else tree.unknown).add(path)


def _build_loose_vectors(tree: Tree, rng: np.random.Generator) -> None:
    """Write vectors beside a manifest, named with and without their category."""
    folder = tree.root / "loose"
    traits = {}
    for trait, name in (("emotions/anger", "emotions__anger"), ("emotions/hope", "hope")):
        vector = _draw_vector(rng)
        (folder / "vectors").mkdir(parents=True, exist_ok=True)
        torch.save(vector, folder / "vectors" / f"{name}.pt")
        traits[trait] = {"layer": 17, "method": "probe", "delta": -57.9, "coefficient": -74.7}
        tree.loose_vectors[trait] = traits[trait] | {
            "path": folder / "vectors" / f"{name}.pt",
            "values": vector.float().numpy(),
        }
    write_json(
        folder / "manifest.json",
        {
            "extraction_model": BASE_MODEL,
            "application_model": MODEL,
            "hidden_dim": HIDDEN,
            "n_layers": 48,
            "position": "response[:5]",
            "component": "residual",
            "traits": traits,
        },
    )
