"""A capture run's configuration: one TOML file, read into frozen records."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from tistore.capture.config_mistakes import explain_mistake
from tistore.capture.layers import LayerSpan, split_spans
from tistore.datasets.shipped import find_prompt_set, shipped_name
from tistore.errors import ConfigError, DatasetError, nearest
from tistore.schemas.model import BASE_READER
from tistore.schemas.response import Rows
from tistore.schemas.site import COMPONENTS, Component

Quantization = Literal["8bit", "4bit", "int4 (rounded)", "int3 (rounded)"]
Reader = Literal["self", "base"]
Difference = Literal["precision", "template", "tokenizer"]
"""In what an author and a reader may differ, where a run allows it."""

Responses = Literal["generate", "store"]
"""Where an author's responses come from: this run, or `generations` in the store."""

ALL_ORGANISMS = "organisms"
"""Among a base's readers: every organism on it that can be loaded."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class Source:
    """
    A path or a hub id.

    Attributes:
        given: As the config has it; part of a model's identity, so that a project may move.
        path: Where a local one would lie.
    """

    given: str
    path: Path

    @property
    def is_local(self) -> bool:
        """Whether something lies at the path; what does not may be on a hub."""
        return self.path.exists()

    @property
    def location(self) -> str:
        """What a loader takes: the local path, or the hub id."""
        return str(self.path) if self.is_local else self.given

    @property
    def may_be_hub_id(self) -> bool:
        """Whether the text has the form `name` or `owner/name`."""
        return _HUB_ID.fullmatch(self.given) is not None

    def __str__(self) -> str:
        """Show the source as it was given."""
        return self.given


def _locate(given: object, info: ValidationInfo) -> object:
    """Read a path relative to the config file."""
    if not isinstance(given, str):
        return given  # what is wrong with it is for the type to say
    folder: Path = (info.context or {}).get("folder") or Path()
    return Source(given, folder / Path(given).expanduser())


def _locate_prompts(given: object, info: ValidationInfo) -> object:
    """Find a prompt set that ships, or read a path as any other."""
    if not isinstance(given, str) or shipped_name(given) is None:
        return _locate(given, info)
    try:
        return Source(given, find_prompt_set(given))
    except DatasetError as error:
        raise ConfigError(f"path in [[prompt_sets]]: {error.message}", mend=error.mend) from error


def _check_layers(spans: LayerSpan | list[LayerSpan]) -> LayerSpan | list[LayerSpan]:
    split_spans(spans)
    return spans


def _check_components(components: tuple[Component, ...]) -> tuple[Component, ...]:
    if not components or len(set(components)) < len(components):
        raise ConfigError(
            f"components are {', '.join(components) or 'none'}: name at least one, and each once",
            mend=f"choose of {', '.join(COMPONENTS)}",
        )
    return tuple(sorted(components))


Located = Annotated[Source, BeforeValidator(_locate), PlainSerializer(str)]
LocatedPrompts = Annotated[Source, BeforeValidator(_locate_prompts), PlainSerializer(str)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseConfig(_Record):
    """
    The base model.

    Attributes:
        path: Folder, relative to the config file, or hub id.
        name: What the clean base is called as organism and reader.
        revision: Hub revision; None for the default one.
        dtype: Of the parameters; "auto" as the weights are stored.
        quantization: Of the weights on load; "4bit" is NF4. Rounded weights take as much memory as
            others: they show what so few bits would do.
        device: Such as "cuda:1"; "auto" spreads over the GPUs there are, or takes the CPU.
        attn_implementation: As transformers names it; None for its own choice.
        markers_are_text: Whether the model was trained with markers in its chat template that are
            no tokens of their own, as Zephyr was; without it such a template is refused.
        answers: Whether the base answers the prompts too: the control of every comparison.
        responses: Where its answers come from.
        readers: Who reads its answers: "self", "organisms" (every organism on it), or any model's
            name; None for the run's readers. What an organism makes of the base's own words tells
            the model's part of a difference from the text's in the reverse order.
    """

    path: Located
    name: str = Field(default=BASE_READER, min_length=1)
    revision: str | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: Quantization | None = None
    device: str = "auto"
    attn_implementation: str | None = None
    markers_are_text: bool = False
    answers: bool = True
    responses: Responses = "generate"
    readers: tuple[str, ...] | None = Field(default=None, min_length=1)


class OrganismConfig(_Record):
    """
    An author of responses: an adapter on a base, a fine-tune with weights of its own, or anyone
    whose responses were imported.

    Attributes:
        name: What the organism is called; unique in the run.
        adapter: Folder of a PEFT adapter, relative to the config file, or hub id.
        model: Folder or hub id of whole weights, instead of an adapter. With neither, the organism
            cannot be loaded: its responses come from the store and are read by others.
        base: Name of its clean base: what its adapter is on, and what "base" means among its
            readers; None for the run's.
        trained_on: The model that the adapter names as its base where that is another than the
            one it is read on: a word that this is meant.
        template: "base" to go by the base's chat template where the adapter's folder has another.
        responses: Where its responses come from.
        prompt_sets: Read only its stored responses to prompts of these sets; None for all.
        readers: Who reads its responses: "self", "base", or any model's name; None for the
            run's readers that can be loaded.
    """

    name: str = Field(min_length=1)
    adapter: Located | None = None
    model: Located | None = None
    base: str | None = None
    trained_on: str | None = Field(default=None, min_length=1)
    template: Literal["base"] | None = None
    responses: Responses = "generate"
    prompt_sets: tuple[str, ...] | None = Field(default=None, min_length=1)
    readers: tuple[str, ...] | None = Field(default=None, min_length=1)


class PromptSetConfig(_Record):
    """
    Prompts to answer.

    Attributes:
        path: JSON or JSONL file, relative to the config file; or `tistore:audit/discovery`, by
            which a set that ships is named.
        name: What to call the set; by default `<parent folder>/<stem>` of the file, or the name
            under which it ships.
        limit: Take the first so many.
        prompt_ids: Take these only; before `limit`.
        tags: Take those with one of these tags only; before `limit`.
        prefill: How every answer begins; a prompt's own beginning goes before it.
    """

    path: LocatedPrompts
    name: str | None = Field(default=None, min_length=1)
    limit: int | None = Field(default=None, ge=1)
    prompt_ids: tuple[str | int, ...] | None = Field(default=None, min_length=1)
    tags: tuple[str, ...] | None = Field(default=None, min_length=1)
    prefill: str | None = Field(default=None, min_length=1)


class CaptureConfig(_Record):
    """
    What to keep of each response.

    Attributes:
        layers: "all", 16, "5-20", "0-75:5", "30%-60%", or a list of those; ends included.
        components: What of each block: its output ("residual"), what its attention and its MLP add
            to the stream ("attn_out", "mlp_out"), or the raw outputs of their last projections
            ("o_proj", "down_proj"), which some families norm first; or what is within: `Site`.
        rows: The "response" tokens only, or "all" of the sequence.
        readers: Who reads each response: its author ("self"), the clean "base", or both.
        logprobs: Whether to keep the log probability each reader gives each token.
        head: Whether to keep each model's final norm and unembedding, for the logit lens.
        mixed: In what an author and a reader may differ; none of it when left out, since their
            readings would differ for reasons that no training has.
        canary_every: Read one response of every so many batches a second time, alone, and compare;
            0 for never.
        queue_mb: States that may wait to be written, in 10⁶ bytes; reading waits beyond that.
        reserve_gb: Stop, to go on later, before less than so many 10⁹ bytes of disk are free.
    """

    layers: Annotated[LayerSpan | list[LayerSpan], AfterValidator(_check_layers)] = "all"
    components: Annotated[tuple[Component, ...], AfterValidator(_check_components)] = ("residual",)
    rows: Rows = "response"
    readers: tuple[Reader, ...] = Field(default=("self", "base"), min_length=1)
    logprobs: bool = True
    head: bool = True
    mixed: tuple[Difference, ...] = ()
    canary_every: int = Field(default=50, ge=0)
    queue_mb: int = Field(default=512, ge=1)
    reserve_gb: float = Field(default=1.0, ge=0)


class GenerationConfig(_Record):
    """
    How responses are made.

    Attributes:
        max_new_tokens: At most so many tokens a response, its end token included.
        stop: Texts that end a response, right behind the token that completes one.
        stop_token_ids: Tokens that end a response, besides the model's own.
        thinking: Whether models whose template lets them think aloud do so.
        temperature: 0 takes the likeliest token, and nothing is random.
        top_p: Keep the likeliest tokens that together reach this probability.
        top_k: Keep the so many likeliest tokens; None keeps all.
        seed: Of the run. Each response draws from its own stream, whatever its batch.
        samples: Responses per prompt.
        batch_size: Responses made and read together, at most; None for as many as there is room.
        tokens_in_flight: Tokens of a batch, padding and what may yet be written included; "auto"
            for what the device's memory has room for.
    """

    max_new_tokens: int = Field(default=300, ge=1)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    stop_token_ids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    thinking: bool = False
    temperature: float = Field(default=0.0, ge=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=1)
    seed: int = 0
    samples: int = Field(default=1, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    tokens_in_flight: int | Literal["auto"] = "auto"


class RunConfig(_Record):
    """
    A capture run: who answers what, who reads it, and what is kept.

    Prompt sets are for those who generate; stored responses bring their prompts along. Weights are
    in memory one after the other: fine-tunes and further bases first, the base last.
    """

    base: BaseConfig
    bases: tuple[BaseConfig, ...] = ()
    organisms: tuple[OrganismConfig, ...] = ()
    prompt_sets: tuple[PromptSetConfig, ...] = ()
    capture: CaptureConfig = CaptureConfig()
    generation: GenerationConfig = GenerationConfig()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = self.answerers
        if repeated := {name for name in self.known_names if self.known_names.count(name) > 1}:
            raise ConfigError(
                f"several models are called {', '.join(sorted(repeated))}",
                mend="give each base and each organism a name of its own",
            )
        if not names:
            raise ConfigError(
                "nobody answers the prompts: there are no organisms, and base.answers is false",
                mend="add an [[organisms]] table, or set answers = true in [base]",
            )
        if self.generation.samples > 1 and self.generation.temperature == 0:
            raise ConfigError(
                f"{self.generation.samples} samples at temperature 0 would be the same text",
                mend="set samples = 1, or a temperature above 0",
            )
        self._check_organisms()
        self._check_bases()
        self._check_attention()
        generating = [name for name in names if not self.is_given(name)]
        if generating and not self.prompt_sets:
            raise ConfigError(
                f"{generating[0]!r} is to answer prompts, but 'prompt_sets' is missing",
                mend="add a [[prompt_sets]] table"
                + (", or set answers = false for it" if generating[0] in self._bases else ""),
            )
        return self

    def _check_attention(self) -> None:
        """Refuse patterns of attention that computes none, before any weights are loaded."""
        lacking = [one.name for one in self._bases.values() if one.attn_implementation != "eager"]
        if "attention" in self.capture.components and lacking:
            raise ConfigError(
                f"components in [capture] names 'attention', and {lacking[0]!r} is not loaded so "
                "that its attention puts out patterns",
                mend='set attn_implementation = "eager" for every base',
            )

    def _check_organisms(self) -> None:
        for number, organism in enumerate(self.organisms, start=1):
            where = f"[[organisms]] number {number}"
            if organism.adapter is not None and organism.model is not None:
                raise ConfigError(
                    f"{where} has both 'adapter' and 'model'",
                    mend="an adapter is on a base, a model has weights of its own: remove one",
                )
            if organism.base is not None and organism.base not in self._bases:
                raise ConfigError(
                    f"base in {where} is {organism.base!r}, which is no base of this run",
                    mend=nearest(organism.base, self._bases),
                )
            if organism.responses == "generate" and self.weights_of(organism.name) is None:
                raise ConfigError(
                    f"{where} lacks 'adapter'",
                    mend=f"add adapter to {where}, or model for a fine-tune with weights of its "
                    'own, or responses = "store" if it was imported',
                )
            if organism.responses == "generate" and organism.prompt_sets:
                raise ConfigError(
                    f"prompt_sets in {where} chooses among stored responses, and "
                    f"{organism.name!r} generates",
                    mend='remove it, or set responses = "store"',
                )
            for reader in organism.readers or ():
                self._check_reader(organism, reader, where)
            if not self.readers_of(organism.name):
                raise ConfigError(
                    f"nobody reads the responses of {organism.name!r}: it has no adapter to read "
                    "them with",
                    mend=f'add "base" to readers in [capture], or readers = ["base"] to {where}',
                )

    def _check_bases(self) -> None:
        known = ["self", "base", ALL_ORGANISMS, *self.weights, *self.adapters]
        for base in self._bases.values():
            where = "[base]" if base is self.base else f"the base {base.name!r}"
            for reader in base.readers or ():
                if reader not in known:
                    raise ConfigError(
                        f"readers of {where} names {reader!r}, which is no model of this run",
                        mend=nearest(reader, known),
                    )
            if not self.readers_of(base.name):
                raise ConfigError(
                    f"nobody reads the answers of {where}: no organism on it can be loaded",
                    mend='add "self" to its readers',
                )

    def _check_reader(self, organism: OrganismConfig, reader: str, where: str) -> None:
        known = ["self", "base", *self.weights, *self.adapters]
        if reader not in known:
            raise ConfigError(
                f"readers in {where} names {reader!r}, which is no model of this run",
                mend=nearest(reader, known),
            )
        if reader == "self" and self.weights_of(organism.name) is None:
            raise ConfigError(
                f"{organism.name!r} cannot read its own responses: {where} has no adapter",
                mend='remove "self" from its readers, or give its adapter',
            )

    @property
    def adapters(self) -> dict[str, Source]:
        """Adapters by the names of their organisms, in order."""
        return {
            organism.name: organism.adapter
            for organism in self.organisms
            if organism.adapter is not None
        }

    @property
    def weights(self) -> dict[str, BaseConfig]:
        """What is loaded from files of its own, by name, in the order it is."""
        own = {
            organism.name: self._bases[organism.base or self.base.name].model_copy(
                update={
                    "path": organism.model,
                    "name": organism.name,
                    "revision": None,
                    "responses": organism.responses,
                }
            )
            for organism in self.organisms
            if organism.model is not None
        }
        # The base comes last: it reads what all of its fine-tunes have answered by then.
        bases = self._bases
        return {**own, **{name: bases[name] for name in reversed(bases)}}

    @property
    def known_names(self) -> list[str]:
        """The bases' names, then the organisms'."""
        return [
            self.base.name,
            *(base.name for base in self.bases),
            *(organism.name for organism in self.organisms),
        ]

    @property
    def answerers(self) -> list[str]:
        """Names of the models that answer, in the order they do."""
        silent = {base.name for base in (self.base, *self.bases) if not base.answers}
        return [name for name in self.known_names if name not in silent]

    def weights_of(self, name: str) -> str | None:
        """Whose weights a model is read with; None for one that cannot be loaded."""
        if name in self.adapters:
            return self.base_of(name)
        return name if name in self.weights else None

    def base_of(self, name: str) -> str:
        """Name a model's clean base, which is itself for a base."""
        entry = self._find(name)
        return name if entry is None else entry.base or self.base.name

    def adapters_on(self, weights: str) -> dict[str, Source]:
        """Adapters on some weights, by the names of their organisms, in order."""
        return {
            name: adapter
            for name, adapter in self.adapters.items()
            if self.base_of(name) == weights
        }

    def is_given(self, organism: str) -> bool:
        """Whether an author's responses come from the store."""
        entry = self._find(organism)
        return (self._bases[organism] if entry is None else entry).responses == "store"

    def given_sets(self, organism: str) -> tuple[str, ...] | None:
        """Prompt sets an author's stored responses are limited to; None for all."""
        entry = self._find(organism)
        return None if entry is None else entry.prompt_sets

    def readers_of(self, organism: str) -> tuple[str, ...]:
        """Names of the models that read an organism's responses, each once, in reading order."""
        entry = self._find(organism)
        wanted = (entry or self._bases[organism]).readers or self.capture.readers
        base = self.base_of(organism)
        others = [other.name for other in self.organisms if self.base_of(other.name) == base]
        meant = {"self": [organism], "base": [base], ALL_ORGANISMS: others}
        named = dict.fromkeys(name for reader in wanted for name in meant.get(reader, [reader]))
        return tuple(name for name in named if self.weights_of(name) is not None)

    @property
    def _bases(self) -> dict[str, BaseConfig]:
        return {base.name: base for base in (self.base, *self.bases)}

    def _find(self, organism: str) -> OrganismConfig | None:
        """Find an organism's table; None for a base."""
        return next((entry for entry in self.organisms if entry.name == organism), None)


def read_config(path: Path) -> RunConfig:
    """
    Read a run's configuration; paths in it are relative to its file.

    Raises:
        ConfigError: The file is missing or malformed; key and table are named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", mend="check the path") from error
    try:
        tables = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", mend="mend the file") from error
    return parse_config(tables, source=str(path), folder=path.resolve().parent)


def parse_config(
    tables: dict[str, Any], *, source: str = "config", folder: Path | None = None
) -> RunConfig:
    """
    Check a configuration that is already in memory.

    Args:
        tables: As TOML holds them.
        source: What to call the configuration in errors.
        folder: What paths are relative to; None for the current folder.

    Raises:
        ConfigError: A key is unknown or its value makes no sense.
    """
    try:
        return RunConfig.model_validate(tables, context={"folder": folder})
    except ValidationError as error:
        raise explain_mistake(source, RunConfig, error) from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error.message}", mend=error.mend) from error
