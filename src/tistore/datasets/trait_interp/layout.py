"""What the path of a file says it is: the layouts that trait-interp has had."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tistore.datasets.trait_interp.config import ExperimentConfig
from tistore.datasets.trait_interp.files import (
    AnnotationFile,
    ConfigFile,
    Entry,
    LeftOut,
    MassiveFile,
    ProjectionFile,
    PromptSetFile,
    ResidualFile,
    ResponseFile,
    ScenarioFile,
    SteeringFile,
    VectorFile,
)
from tistore.datasets.trait_interp.positions import is_position_code

_ANNOTATIONS = "_annotations.json"
_VARIANT_FOLDERS = {"raw", "responses", "projections", "massive_activations", "sae"}
_EXTRACTION_FOLDERS = {
    "vectors",
    "activations",
    "val_activations",
    "responses",
    "val_responses",
    "vetting",
}
_TRAIT_FILES = {
    "positive.txt": "scenario texts: read them with the trait folders of the data set",
    "negative.txt": "scenario texts: read them with the trait folders of the data set",
    "positive.jsonl": "scenario texts: read them with the trait folders of the data set",
    "negative.jsonl": "scenario texts: read them with the trait folders of the data set",
    "definition.txt": "a definition: read it with the trait folders of the data set",
    "trait_definition.txt": "a definition: read it with the trait folders of the data set",
    "generation_metadata.json": "settings of the extraction",
    "logit_lens.json": "derived from the vectors",
    "extraction_evaluation.json": "derived from the vectors",
    "cross_trait_matrix.json": "derived from the vectors",
    "ensemble_evaluation.json": "derived from the vectors",
}
_PROMPT_FILE = re.compile(r"prompt_([0-9]+)\.json")
_VECTOR_FILE = re.compile(r"layer([0-9]{1,6})\.pt")
_OLD_VECTOR_FILE = re.compile(
    r"(?:(attn_out|mlp_out)_)?(.+)_layer([0-9]{1,6})(\.pt|_metadata\.json)"
)
_STREAMS: dict[str, Literal["residual", "attn"]] = {
    "residual_stream": "residual",
    "attn_stream": "attn",
}
_SIDES: dict[str, Literal["positive", "negative"]] = {"pos": "positive", "neg": "negative"}


@dataclass(frozen=True, slots=True)
class Place:
    """
    A file to be told by its path.

    Attributes:
        path: Where it lies.
        parts: Its steps below the experiment, at least one.
        size: Bytes.
        config: The experiment's configuration.
    """

    path: Path
    parts: tuple[str, ...]
    size: int
    config: ExperimentConfig

    def leave_out(
        self, verdict: Literal["companion", "skipped", "unknown", "refused"], reason: str
    ) -> LeftOut:
        """Record that the file gives no record of its own."""
        return LeftOut(self.path, self.size, verdict, reason)

    def unknown(self) -> LeftOut:
        """Record that no layout has such a file."""
        return self.leave_out("unknown", "no known layout has a file here")


def classify(place: Place) -> Entry:
    """Tell what a file is; every file gets a record, whether it is known or not."""
    match place.parts:
        case ("config.json",):
            return ConfigFile(place.path, place.size)
        case ("inference", *rest) if rest:
            return _classify_inference(place, rest, None)
        case ("extraction", *rest) if rest:
            return _classify_extraction(place, rest)
        case ("steering", *rest) if rest:
            return _classify_steering(place, rest)
        case ("annotations", file) if file.endswith(".json"):
            return AnnotationFile(place.path, place.size, None, None, None, None)
        case ("analysis" | "model_diff", _, *_):
            return place.leave_out("skipped", "a derived result: queries compute it again")
        case (_, *_, file) if file.endswith(_ANNOTATIONS):
            return _classify_annotations(place, None, [])
        case (_, *rest) if "inference" in rest[:-1]:
            return place.leave_out(
                "skipped", "layout of November 2025: projections and internals, no activations"
            )
        case (_, *rest) if _EXTRACTION_FOLDERS & set(rest[:-1]):
            return _classify_extraction(place, [p for p in place.parts if p != "extraction"])
    return place.unknown()


def _classify_inference(place: Place, parts: Sequence[str], variant: str | None) -> Entry:
    """Tell a file below `inference/`, or below a model's folder there."""
    path, size = place.path, place.size
    is_variant = len(parts) > 2 and parts[1] in _VARIANT_FOLDERS and variant is None
    if is_variant and parts[0] in place.config.names:
        return _classify_inference(place, parts[1:], parts[0])
    match list(parts):
        case ["raw", "residual", _, *_] if len(parts) > 3:
            return _classify_residual(place, parts[2:], variant)
        case ["raw", "internals", *_, _]:
            return place.leave_out("skipped", "layer internals: the store holds block outputs")
        case ["responses", *sets, file] if file.endswith(_ANNOTATIONS):
            return _classify_annotations(place, variant, sets)
        case ["responses", _, *_] if len(parts) > 2 and parts[-1].endswith(".json"):
            return _classify_response(place, parts[1:], variant)
        case ["projections", *rest]:
            return _classify_projection(place, rest, variant)
        case ["massive_activations", *sets, file] if prompt_set := _stem(file, ".json"):
            return MassiveFile(path, size, variant, "/".join([*sets, prompt_set]))
        case ["sae", *_]:
            return place.leave_out("skipped", "features of an autoencoder, derived")
        case ["prompts", file] if match := _PROMPT_FILE.fullmatch(file):
            return ResponseFile(path, size, variant, "", match[1])
        case ["prompts", *sets, file] if prompt_set := _stem(file, ".json"):
            return PromptSetFile(path, size, "/".join([*sets, prompt_set]))
        case ["models", slug, _, *_] if variant is None:
            return _classify_inference(place, parts[2:], slug)
        case [category, trait, folder, *_] if len(parts) > 4 and folder in _STREAMS:
            return _make_projection(
                place, variant, f"{category}/{trait}", parts[3:], _STREAMS[folder]
            )
        case [*trait, "projections", file] if trait and (match := _PROMPT_FILE.fullmatch(file)):
            return ProjectionFile(path, size, variant, "/".join(trait), "", match[1])
    if is_variant:
        return _classify_inference(place, parts[1:], parts[0])
    return place.unknown()


def _classify_residual(place: Place, parts: Sequence[str], variant: str | None) -> Entry:
    prompt_id = _stem(parts[-1], ".pt")
    if not prompt_id:
        return place.unknown()
    set_name = "/".join(parts[:-1])
    prompt_set, author = place.config.split_replay(set_name) or (set_name, None)
    return ResidualFile(place.path, place.size, variant, prompt_set, prompt_id, author, set_name)


def _classify_response(place: Place, parts: Sequence[str], variant: str | None) -> Entry:
    prompt_id = _stem(parts[-1], ".json")
    if not prompt_id:
        return place.unknown()
    set_name = "/".join(parts[:-1])
    prompt_set, author = place.config.split_replay(set_name) or (set_name, None)
    return ResponseFile(place.path, place.size, variant, prompt_set, prompt_id, author)


def _classify_projection(place: Place, parts: Sequence[str], variant: str | None) -> Entry:
    """Tell `{trait}/prompt_N.json` (oldest) from `{category}/{trait}/{set…}/{id}.json`."""
    match = _PROMPT_FILE.fullmatch(parts[-1])
    if variant is None and match and 2 <= len(parts) <= 3:
        trait = "/".join(parts[:-1])
        return ProjectionFile(place.path, place.size, variant, trait, "", match[1])
    if variant is None or len(parts) < 4:
        return place.unknown()
    return _make_projection(place, variant, "/".join(parts[:2]), parts[2:], None)


def _make_projection(
    place: Place,
    variant: str | None,
    trait: str,
    parts: Sequence[str],
    stream: Literal["residual", "attn"] | None,
) -> Entry:
    prompt_id = _stem(parts[-1], ".json")
    if not prompt_id:
        return place.unknown()
    set_name = "/".join(parts[:-1])
    prompt_set, author = place.config.split_replay(set_name) or (set_name, None)
    return ProjectionFile(
        place.path, place.size, variant, trait, prompt_set, prompt_id, author, stream
    )


def _classify_annotations(place: Place, variant: str | None, sets: Sequence[str]) -> Entry:
    """Tell whether annotations lie beside the folder of a set, or beside one response."""
    name = place.parts[-1].removesuffix(_ANNOTATIONS)
    folder = place.path.with_name(name) if name else None
    file = place.path.with_name(f"{name}.json")
    if folder and folder.is_dir():
        named = "/".join([*sets, name])
        return AnnotationFile(place.path, place.size, variant, named, None, folder)
    if name and file.is_file():
        named_set = "/".join(sets) or None
        prompt_id = name if named_set else None
        return AnnotationFile(place.path, place.size, variant, named_set, prompt_id, file)
    return AnnotationFile(place.path, place.size, variant, None, None, None)


def _classify_extraction(place: Place, parts: Sequence[str]) -> Entry:
    """Tell a file below `extraction/`, with or without a variant's folder below the trait."""
    found = [i for i, part in enumerate(parts[:-1]) if i and part in _EXTRACTION_FOLDERS]
    if not found:
        reason = _TRAIT_FILES.get(parts[-1])
        return place.leave_out("skipped", reason) if reason else place.unknown()
    trait, variant = _split_trait(place.config, parts[: found[0]])
    folder, tail = parts[found[0]], parts[found[0] + 1 :]
    if folder == "vectors":
        return _classify_vector(place, trait, variant, tail)
    if folder in ("responses", "val_responses"):
        return _classify_scenarios(place, trait, variant, folder, tail)
    if folder == "vetting":
        return place.leave_out("skipped", "a judge's verdicts on scenarios")
    return place.leave_out("skipped", "states a vector was fitted on: the vector is read instead")


def _classify_vector(place: Place, trait: str, variant: str | None, tail: Sequence[str]) -> Entry:
    companion = place.leave_out("companion", "read with the vectors it describes")
    match list(tail):
        case [position, component, method, file] if found := _VECTOR_FILE.fullmatch(file):
            return VectorFile(
                path=place.path,
                size=place.size,
                variant=variant,
                trait=trait,
                position_code=position,
                component=component,
                method=method,
                layer=int(found[1]),
                metadata=place.path.with_name("metadata.json"),
            )
        case [_, _, _, "metadata.json"]:
            return companion
        case [file] if found := _OLD_VECTOR_FILE.fullmatch(file):
            if found[4] != ".pt":
                return companion
            return VectorFile(
                path=place.path,
                size=place.size,
                variant=variant,
                trait=trait,
                position_code=None,
                component=found[1] or "residual",
                method=found[2],
                layer=int(found[3]),
                metadata=place.path.with_name(f"{place.path.stem}_metadata.json"),
            )
    return place.unknown()


def _classify_scenarios(
    place: Place, trait: str, variant: str | None, folder: str, tail: Sequence[str]
) -> Entry:
    held_out = folder == "val_responses"
    match list(tail):
        case ["metadata.json"]:
            return place.leave_out("skipped", "settings of the generation")
        case [file] if file.endswith((".json", ".csv")):
            stem = file.rpartition(".")[0]
            side = _SIDES.get(stem.removeprefix("val_"))
            if side:
                held_out = held_out or stem.startswith("val_")
                return ScenarioFile(place.path, place.size, variant, trait, side, held_out)
    return place.unknown()


def _classify_steering(place: Place, parts: Sequence[str]) -> Entry:
    """Tell a file below `steering/{trait}/[variant/][position/][set…/]`."""
    folders, file = parts[:-1], parts[-1]
    if file.endswith(_ANNOTATIONS):
        return _classify_annotations(place, None, [])
    if "ensembles" in folders:
        return place.leave_out("skipped", "combinations of vectors, searched for again")
    at_responses = folders.index("responses") if "responses" in folders else None
    trait, variant, code, prompt_set = _split_steering(place.config, folders[:at_responses])
    if at_responses is not None and trait and file.endswith(".json"):
        return ScenarioFile(place.path, place.size, variant, trait, None)
    if file in ("results.json", "results.jsonl") and trait:
        return SteeringFile(place.path, place.size, variant, trait, code, prompt_set)
    if file in ("layer_sweep.json", "naturalness.json"):
        return place.leave_out("skipped", "derived from the steering results")
    return place.unknown()


def _split_steering(
    config: ExperimentConfig, folders: Sequence[str]
) -> tuple[str, str | None, str | None, str | None]:
    """Split into trait, variant, position code and prompt set; the trait is empty without one."""
    codes = [i for i, part in enumerate(folders) if i and is_position_code(part)]
    # A trait can be named like a position ("all_all"); the later one is then the position.
    at = next((i for i in codes if i >= 2), codes[0] if codes else len(folders))
    trait, variant = _split_trait(config, folders[:at])
    code = folders[at] if at < len(folders) else None
    return trait, variant, code, "/".join(folders[at + 1 :]) or None


def _split_trait(config: ExperimentConfig, parts: Sequence[str]) -> tuple[str, str | None]:
    """Split `{category}/{trait}[/{variant}]`: a third step, or a declared name, is the variant."""
    if len(parts) > 2 or (len(parts) == 2 and parts[1] in config.names):
        return "/".join(parts[:-1]), parts[-1]
    return "/".join(parts), None


def _stem(file: str, suffix: str) -> str:
    """Return the name before `suffix`; empty where it has another, or is nothing else."""
    return file.removesuffix(suffix) if file.endswith(suffix) else ""
