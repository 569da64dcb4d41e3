"""Where trait-interp looks for what: its folders, and which names they can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tistore.datasets.trait_interp.config import ExperimentConfig, Variant
from tistore.datasets.trait_interp.documents import find_problem
from tistore.datasets.trait_interp.files import Entry, ProjectionFile, ResponseFile, VectorFile
from tistore.datasets.trait_interp.layout import Place, classify
from tistore.datasets.trait_interp.positions import encode_position
from tistore.errors import ConfigError
from tistore.schemas.model import BASE_READER, Model
from tistore.schemas.response import ResponseSlot
from tistore.schemas.site import Component
from tistore.schemas.vector import Vector

COMPONENT_NAMES: dict[Component, str] = {
    "residual": "residual",
    "attn_out": "attn_contribution",
    "mlp_out": "mlp_contribution",
    "o_proj": "attn_out",
    "down_proj": "mlp_out",
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "heads": "heads",
    "mlp_act": "mlp_act",
    "attention": "attention",
}
"""What trait-interp calls each component: its `attn_out` is the store's `o_proj`. Of those from
`q_proj` on it knows keys and values only; vectors of the others go out under the store's names."""

UNKNOWN = "unknown"
"""What its files say where a model is not known."""

_LONGEST_NAME = 250  # bytes of a file's name, less than the 255 that file systems take
_MOST_STEPS = 64


@dataclass(frozen=True, slots=True)
class View:
    """
    A response as one reader saw it, whatever was captured.

    Attributes:
        reader: The reader.
        slot: Whose response it is, and to what.
    """

    reader: str
    slot: ResponseSlot

    @property
    def folder(self) -> str:
        """The set's folder: by itself for the author's own reading, else named as a replay."""
        if self.reader == self.slot.organism:
            return self.slot.prompt_set
        return f"{self.slot.prompt_set}_replay_{self.slot.organism}"

    @property
    def stem(self) -> str:
        """The file's name: the prompt's id, numbered where there are several samples."""
        prompt_id, sample = self.slot.prompt_id, self.slot.sample
        return f"{prompt_id}_sample{sample}" if sample else prompt_id

    @property
    def own(self) -> View:
        """The author's view of the same response."""
        return View(self.slot.organism, self.slot)


class Places:
    """
    Names the files of an experiment, and refuses names that would be read as something else.

    Every path is told back by the reader of trait-interp's layouts: what it says the file is must
    be what was meant.

    Args:
        models: Models that wrote or read, by name; its variants.
        vectors: Vectors that go out; the models they were fitted on are variants too.
    """

    def __init__(self, models: Mapping[str, Model], vectors: Iterable[Vector]) -> None:
        self._variants = {
            name: Variant(name, model.base_id or UNKNOWN, model.adapter_id)
            for name, model in models.items()
        }
        for vector in vectors:
            if vector.model is not None and vector.model not in self._variants:
                self._variants[vector.model] = Variant(vector.model, vector.model)
        for name in self._variants:
            if problem := find_problem(name):
                raise ConfigError(
                    f"the model {name!r} cannot name a folder: {problem}",
                    mend="leave it out with --where, or its vectors with --vector",
                )
        bases = [name for name, variant in self._variants.items() if variant.lora is None]
        self.base = BASE_READER if BASE_READER in bases else (bases or list(self._variants))[0]
        self._config = ExperimentConfig(
            "variants", tuple(self._variants.values()), self.base, self.base
        )
        self._taken: dict[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        """Lay the variants out as `config.json` has them."""
        return {
            "defaults": {"extraction": self.base, "application": self.base},
            "model_variants": {
                name: {"model": variant.model} | ({"lora": variant.lora} if variant.lora else {})
                for name, variant in self._variants.items()
            },
            "diff_convention": "replay_suffix",
        }

    def hub_id(self, name: str) -> str:
        """Tell the model behind a variant's name."""
        return self._variants[name].model or UNKNOWN

    def response(self, view: View) -> str:
        """
        Name the file of a response.

        Raises:
            ConfigError: Its names cannot be those of files.
        """
        path = f"inference/{view.reader}/responses/{view.folder}/{view.stem}.json"
        return self._take(path, view, ResponseFile, _expect(view))

    def projection(self, view: View, trait: str) -> str:
        """
        Name the file of a response's scores on a trait; unique, as its response's file is.

        Raises:
            ConfigError: Its names cannot be those of files.
        """
        path = f"inference/{view.reader}/projections/{trait}/{view.folder}/{view.stem}.json"
        self._check(path, ProjectionFile, _expect(view) | {"trait": trait, "stream": None})
        return path

    def vector(self, vector: Vector) -> str:
        """
        Name the file of a vector.

        Raises:
            ConfigError: Its names cannot be those of files, or another vector has the same.
        """
        expected = {
            "variant": vector.model or self.base,
            "trait": vector.trait,
            "position_code": encode_position(vector.position),
            "component": COMPONENT_NAMES[vector.component],
            "method": vector.method,
            "layer": vector.layer,
        }
        variant, trait, code, component, method, layer = expected.values()
        path = f"extraction/{trait}/{variant}/vectors/{code}/{component}/{method}/layer{layer}.pt"
        return self._take(path, vector.key, VectorFile, expected)

    def _take(self, path: str, meant: Any, kind: type, expected: Mapping[str, Any]) -> str:
        """Check a path, and that nothing else has it."""
        if self._taken.setdefault(path, meant) != meant:
            raise ConfigError(
                f"{path} would hold two things: {meant} and {self._taken[path]}",
                mend="export them one by one, with --where or --vector",
            )
        self._check(path, kind, expected)
        return path

    def _check(self, path: str, kind: type, expected: Mapping[str, Any]) -> None:
        if problem := _find_problem(path) or self._tell_back(path, kind, expected):
            raise ConfigError(
                f"{path!r} cannot be a file of an experiment: {problem}",
                mend="leave it out with --where or --vector, or use another format",
            )

    def _tell_back(self, path: str, kind: type, expected: Mapping[str, Any]) -> str | None:
        steps = tuple(path.split("/"))
        entry: Entry = classify(Place(Path(path), steps, 0, self._config))
        told = {name: getattr(entry, name, None) for name in expected}
        if type(entry) is kind and told == expected:
            return None
        if type(entry) is not kind:
            return f"trait-interp has another kind of file there, or none ({type(entry).__name__})"
        wrong = next(name for name in expected if told[name] != expected[name])
        return f"it would be read with {wrong} {told[wrong]!r}, not {expected[wrong]!r}"


def _expect(view: View) -> dict[str, Any]:
    author = view.slot.organism if view.reader != view.slot.organism else None
    return {
        "variant": view.reader,
        "prompt_set": view.slot.prompt_set,
        "prompt_id": view.stem,
        "author": author,
    }


def _find_problem(path: str) -> str | None:
    steps = path.split("/")
    if len(steps) > _MOST_STEPS:
        return "it lies too deep"
    for step in steps:
        if len(step.encode(errors="replace")) > _LONGEST_NAME:
            return f"{step[:40]!r}… is too long a name"
    stem = steps[-1].rpartition(".")[0]
    return next((problem for step in (*steps, stem) if (problem := find_problem(step))), None)
