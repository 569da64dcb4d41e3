"""The `config.json` of an experiment, in each shape it has had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tistore.datasets.trait_interp.documents import Node, read_document
from tistore.errors import ConfigError, nearest

Shape = Literal["variants", "roles", "single", "missing"]
"""Named variants; an extraction and an application model; one model; no file, or no model in it."""

_READ_KEYS = {
    "defaults",
    "model_variants",
    "extraction_model",
    "application_model",
    "model",
    "use_chat_template",
    "system_prompt",
    "diff_convention",
}
_REPLAY = "_replay_"


@dataclass(frozen=True, slots=True)
class Variant:
    """
    A model of an experiment.

    Attributes:
        name: What paths call it.
        model: Hub id of the base, where known.
        lora: Hub id or path of the adapter, if any.
        is_declared: Whether the configuration names it; otherwise it is known from a path alone.
    """

    name: str
    model: str | None = None
    lora: str | None = None
    is_declared: bool = True


@dataclass(frozen=True, slots=True)
class ExperimentConfig:
    """
    What an experiment's `config.json` says.

    Attributes:
        shape: Which of its historical forms it has.
        variants: Models it names, in file order. The shapes without names give their models the
            names of their roles: "extraction", "application".
        extraction: Name of the variant that vectors were fitted on, where it says.
        application: Name of the variant that answers prompts, where it says.
        use_chat_template: Whether prompts went through a chat template, where it says.
        system_prompt: Instruction given before every prompt, in the oldest shape.
        diff_convention: How replays are named, where it says; "replay_suffix" is the only one.
        other_keys: Keys that were not read.
    """

    shape: Shape = "missing"
    variants: tuple[Variant, ...] = ()
    extraction: str | None = None
    application: str | None = None
    use_chat_template: bool | None = None
    system_prompt: str | None = None
    diff_convention: str | None = None
    other_keys: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Names of the declared variants."""
        return frozenset(variant.name for variant in self.variants)

    def resolve(self, name: str | None) -> Variant:
        """
        Find the model behind a path.

        Args:
            name: The variant in the path; None for layouts whose paths name none, where the
                application model is meant.

        Raises:
            ConfigError: No variant is named, and none is the application model.
        """
        wanted = name if name is not None else self.application
        if wanted is None:
            raise ConfigError(
                "paths of this experiment name no model, and its config.json names none either",
                mend="add application_model to its config.json",
            )
        for variant in self.variants:
            if variant.name == wanted:
                return variant
        return Variant(wanted, is_declared=False)

    def split_replay(self, set_name: str) -> tuple[str, str] | None:
        """
        Split `{set}_replay_{variant}`, where the configuration declares the variant.

        Returns:
            The set and the author of its responses; None for a set that is no replay. Of several
            declared variants that fit, the one with the longest name.
        """
        for name in sorted(self.names, key=len, reverse=True):
            replayed = set_name.removesuffix(f"{_REPLAY}{name}")
            if replayed not in (set_name, "") and not replayed.endswith("/"):
                return replayed, name
        return None


def read_config(path: Path) -> ExperimentConfig:
    """
    Read an experiment's `config.json`; a file that does not exist is an empty configuration.

    Raises:
        DatasetError: The file is malformed.
        ConfigError: A default names no variant.
    """
    if not path.exists():
        return ExperimentConfig()
    node = read_document(path)
    shape, variants = _read_variants(node)
    extraction, application = _read_roles(node, shape, variants)
    return ExperimentConfig(
        shape=shape,
        variants=variants,
        extraction=extraction,
        application=application,
        use_chat_template=node.get_boolean("use_chat_template"),
        system_prompt=node.get_text("system_prompt"),
        diff_convention=node.get_text("diff_convention"),
        other_keys=tuple(sorted(node.fields().keys() - _READ_KEYS)),
    )


def _read_variants(node: Node) -> tuple[Shape, tuple[Variant, ...]]:
    """Read the models; named variants win where a file holds two shapes."""
    if declared := node.get("model_variants"):
        return "variants", tuple(_read_variant(name, entry) for name, entry in declared.entries())
    roles = [(role, node.get_text(f"{role}_model")) for role in ("extraction", "application")]
    if models := [Variant(role, model) for role, model in roles if model]:
        return "roles", tuple(models)
    if model := node.get_text("model"):
        return "single", (Variant("application", model),)
    return "missing", ()


def _read_variant(name: str, entry: Node) -> Variant:
    Node(entry.path, entry.place, name).identity()
    return Variant(name, entry.require("model").text(), entry.get_text("lora"))


def _read_roles(
    node: Node, shape: Shape, variants: tuple[Variant, ...]
) -> tuple[str | None, str | None]:
    """Find which variant extracts and which answers; the first declared stands in, as there."""
    names = [variant.name for variant in variants]
    if shape == "single":
        return names[0], names[0]
    if shape == "roles":
        return names[0], names[-1]
    if shape == "missing":
        return None, None
    defaults = node.get("defaults")
    roles: list[str | None] = []
    for role in ("extraction", "application"):
        chosen = defaults.get_text(role) if defaults else None
        if chosen and chosen not in names:
            raise ConfigError(
                f"{node.path}: defaults.{role} is {chosen!r}, which is no variant",
                mend=nearest(chosen, names),
            )
        roles.append(chosen or (names[0] if names else None))
    return roles[0], roles[1]
