"""
Contrast scenarios of a trait, read from a folder.

A trait folder holds `positive` and `negative`, each as `.txt` (one scenario a line) or `.jsonl`
(one object a line: `prompt`, and perhaps `response` and `system_prompt`), and perhaps
`definition.txt`. Folder and parent folder name the trait: `category/name`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tistore.datasets.prompt_sets import parse_json_lines, read_bytes
from tistore.errors import DatasetError

Side = Literal["positive", "negative"]
SIDES: tuple[Side, Side] = ("positive", "negative")
"""That show the trait, and that do not."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    A text that shows a trait, or shows its absence.

    Attributes:
        prompt: What the model is given.
        response: What it then says, where the scenario fixes that.
        system_prompt: Instruction given before the prompt, if any.
    """

    prompt: str
    response: str | None = None
    system_prompt: str | None = None

    @property
    def text(self) -> str:
        """All of its words, in the order they are read."""
        return "\n".join(filter(None, (self.system_prompt, self.prompt, self.response)))


@dataclass(frozen=True, slots=True)
class TraitScenarios:
    """
    Both sides of a trait.

    Attributes:
        trait: `category/name`.
        positive: Scenarios that show the trait, in file order; at least one.
        negative: Scenarios that do not; at least one. Sides need not be of one length.
        definition: What the trait is, for people and judges.
    """

    trait: str
    positive: tuple[Scenario, ...]
    negative: tuple[Scenario, ...]
    definition: str | None = None


def read_trait(folder: Path) -> TraitScenarios:
    """
    Read a trait folder.

    Raises:
        DatasetError: The folder or a side is missing, malformed or empty.
    """
    if not folder.is_dir():
        raise DatasetError(f"no trait folder at {folder}", mend="check the path")
    resolved = folder.resolve()
    return TraitScenarios(
        trait=f"{resolved.parent.name}/{resolved.name}",
        positive=read_side(folder, "positive"),
        negative=read_side(folder, "negative"),
        definition=read_definition(folder),
    )


def list_traits(folder: Path) -> list[Path]:
    """
    List the trait folders below `folder`, in name order, the folder itself included.

    One that lacks a side is listed, for `read_trait` to refuse.
    """
    names = [f"{side}.{suffix}" for side in SIDES for suffix in ("txt", "jsonl")]
    return sorted({found.parent for name in names for found in folder.rglob(name)})


def read_side(folder: Path, side: Side) -> tuple[Scenario, ...]:
    """
    Read one side of a trait folder, in file order.

    Raises:
        DatasetError: The side is missing, twice there, malformed or empty.
    """
    found = [path for path in (folder / f"{side}.jsonl", folder / f"{side}.txt") if path.exists()]
    if len(found) != 1:
        what = "both" if found else "neither"
        raise DatasetError(
            f"{folder} holds {what} {side}.txt {'and' if found else 'nor'} {side}.jsonl",
            mend="keep exactly one of them",
        )
    path = found[0]
    scenarios = _read_objects(path) if path.suffix == ".jsonl" else _read_lines(path)
    if not scenarios:
        raise DatasetError(f"{path} holds no scenarios", mend="add one a line")
    return scenarios


def _read_lines(path: Path) -> tuple[Scenario, ...]:
    return tuple(Scenario(line.strip()) for line in _read_text(path).split("\n") if line.strip())


def _read_objects(path: Path) -> tuple[Scenario, ...]:
    entries = parse_json_lines(path, read_bytes(path))
    return tuple(_read_scenario(path, index, entry) for index, entry in enumerate(entries))


def _read_scenario(path: Path, index: int, entry: Any) -> Scenario:
    fields = entry if isinstance(entry, dict) else {}
    values = [fields.get(key) for key in ("prompt", "response", "system_prompt")]
    prompt, response, system_prompt = values
    if not isinstance(prompt, str) or not prompt.strip():
        raise DatasetError(
            f"{path}: scenario at index {index} has no prompt", mend='write {"prompt": "…"}'
        )
    if not all(value is None or isinstance(value, str) for value in values):
        raise DatasetError(
            f"{path}: scenario at index {index} has a field that is not text",
            mend='write {"prompt": "…", "response": "…", "system_prompt": "…"}',
        )
    return Scenario(prompt, response, system_prompt)


def read_definition(folder: Path) -> str | None:
    """
    Read what a trait is; None where its folder does not say.

    Raises:
        DatasetError: `definition.txt` cannot be read.
    """
    path = folder / "definition.txt"
    return (_read_text(path).strip() or None) if path.exists() else None


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8: {error}", mend="save it as UTF-8") from error
