"""What a file of an experiment is, as its path says: one record a kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class File:
    """
    A file of an experiment.

    Attributes:
        path: Where it lies.
        size: Bytes.
    """

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class ConfigFile(File):
    """The experiment's `config.json`."""


@dataclass(frozen=True, slots=True)
class InferenceFile(File):
    """
    A file that belongs to a model of the experiment.

    Attributes:
        variant: The model in the path; None in layouts that name none, where the application
            model is meant.
    """

    variant: str | None


@dataclass(frozen=True, slots=True)
class ResidualFile(InferenceFile):
    """
    Raw activations of one prompt and its response: `{id}.pt`.

    Attributes:
        prompt_set: The set that was answered; for a replay, without the suffix.
        prompt_id: As the file is named.
        author: For a replay, whose response was read; None where the reader is the author.
        set_name: The set as the folder is named.
    """

    prompt_set: str
    prompt_id: str
    author: str | None
    set_name: str


@dataclass(frozen=True, slots=True)
class ResponseFile(InferenceFile):
    """
    A response.

    Attributes:
        prompt_set: The set as the folder is named; empty in the oldest layout, which had none.
        prompt_id: As the file is named.
        author: For a copy kept with a replay, whose response it is.
    """

    prompt_set: str
    prompt_id: str
    author: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectionFile(InferenceFile):
    """
    Scores of one response on a trait.

    Attributes:
        trait: `category/name`, or a bare name in the oldest layout.
        prompt_set: For a replay, without the suffix; empty in the oldest layout.
        prompt_id: As the file is named.
        author: For a replay, whose response was read.
        stream: "residual" or "attn", where the folder says.
    """

    trait: str
    prompt_set: str
    prompt_id: str
    author: str | None = None
    stream: Literal["residual", "attn"] | None = None


@dataclass(frozen=True, slots=True)
class VectorFile(InferenceFile):
    """
    A direction: a one-dimensional tensor.

    Attributes:
        trait: `category/name`.
        position_code: Folder that stands for the position; None in the old layout.
        component: As the folder or the name says; "residual" where it says nothing.
        method: How it was fitted.
        layer: Block it was fitted at.
        metadata: File that would tell more, whether it exists or not.
    """

    trait: str
    position_code: str | None
    component: str
    method: str
    layer: int
    metadata: Path


@dataclass(frozen=True, slots=True)
class ScenarioFile(InferenceFile):
    """
    Responses to a trait's scenarios.

    Attributes:
        trait: `category/name`.
        side: Which side of the trait; None for responses of a steered model.
        is_held_out: Whether they were kept from fitting.
    """

    trait: str
    side: Literal["positive", "negative"] | None
    is_held_out: bool = False


@dataclass(frozen=True, slots=True)
class SteeringFile(InferenceFile):
    """
    Results of steering along a trait's vectors.

    Attributes:
        trait: `category/name`.
        position_code: Folder that stands for the position; None in the oldest layout.
        prompt_set: Questions that were asked; None where the path names none.
    """

    trait: str
    position_code: str | None
    prompt_set: str | None


@dataclass(frozen=True, slots=True)
class AnnotationFile(InferenceFile):
    """
    Labels on stretches of responses.

    Attributes:
        prompt_set: Set whose responses are annotated; None where the path does not say.
        prompt_id: The one annotated response; None where the file names them.
        responses: File or folder the annotations lie beside, where it exists.
    """

    prompt_set: str | None
    prompt_id: str | None
    responses: Path | None


@dataclass(frozen=True, slots=True)
class MassiveFile(InferenceFile):
    """
    Dimensions of outlying size.

    Attributes:
        prompt_set: What they were measured on; "calibration" for the neutral prompts.
    """

    prompt_set: str


@dataclass(frozen=True, slots=True)
class PromptSetFile(File):
    """
    Prompts.

    Attributes:
        prompt_set: Name, by the file's place.
    """

    prompt_set: str


@dataclass(frozen=True, slots=True)
class LeftOut(File):
    """
    A file that gives no record of its own.

    Attributes:
        verdict: "companion" of a file it is read with; "skipped" on purpose; "unknown" to this
            version; "refused", such as a link out of the experiment.
        reason: Why, for people.
    """

    verdict: Literal["companion", "skipped", "unknown", "refused"]
    reason: str


Entry = (
    ConfigFile
    | ResidualFile
    | ResponseFile
    | ProjectionFile
    | VectorFile
    | ScenarioFile
    | SteeringFile
    | AnnotationFile
    | MassiveFile
    | PromptSetFile
    | LeftOut
)
