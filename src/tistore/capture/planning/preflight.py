"""What would stop a run, or spoil it, found before any weights are loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tistore.capture.config import BaseConfig, OrganismConfig, RunConfig, Source
from tistore.capture.families import find_module
from tistore.capture.models.adapter_files import (
    AdapterFolder,
    find_adapter,
    find_adapter_here,
    read_adapter,
)
from tistore.capture.models.adapter_fit import FitCheck
from tistore.capture.models.architecture import build_skeleton, load_tokenizer
from tistore.capture.models.quantization import refuse_wrong_weights
from tistore.capture.planning.settings import resolve_settings
from tistore.capture.running.workload import Question, Selection, encode_questions, read_selections
from tistore.capture.texts.endings import check_stop_tokens
from tistore.capture.texts.template_checks import check_template, check_templates_agree
from tistore.capture.texts.text_checks import check_context, check_texts, check_tokens
from tistore.errors import ConfigError
from tistore.schemas.response import CaptureSettings


@dataclass(frozen=True, slots=True)
class CheckedWeights:
    """
    One model with weights of its own, all but the weights.

    Attributes:
        config: Its table.
        architecture: Config of the part that reads text.
        skeleton: Its modules, without memory.
        tokenizer: Its own.
        settings: Layers, components and rows that are kept of it.
        questions: The run's prompts as it gets them; none where nobody with these weights writes.
        adapters: The adapters on it that are on this machine.
    """

    config: BaseConfig
    architecture: PreTrainedConfig
    skeleton: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: CaptureSettings
    questions: tuple[Question, ...]
    adapters: tuple[AdapterFolder, ...]


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """
    A run in which nothing was found that would stop it.

    Attributes:
        weights: By name, in the order they are loaded.
        selections: The prompts of each set.
        notes: What is worth knowing, and no reason to stop.
    """

    weights: Mapping[str, CheckedWeights]
    selections: tuple[Selection, ...]
    notes: tuple[str, ...]


def check_run(config: RunConfig, *, fetch: bool = False) -> CheckedRun:
    """
    Refuse a run that would fail later, or quietly read something else than it says.

    Costs seconds: configs, tokenizers, prompts and the headers of adapters are read, weights are
    not. What a stored response would be refused for is for `given.read_given` to say.

    Args:
        config: The run's.
        fetch: Whether to download adapters that lie on a hub; otherwise one that is not on this
            machine yet goes unchecked, and a note says so.

    Raises:
        ModelLoadError: A base, a tokenizer or an adapter is not there, is damaged, or they do not
            belong together: other modules, shapes, rank, vocabulary, or another base's name; or
            this machine would get a base's weights wrong.
        SiteNotFoundError: A model has no such layer, or a block of it no such component.
        CaptureError: A prompt would begin with two beginning-of-sequence tokens, is longer than
            the context, or the chat template is another model's.
        ConfigError: Prompt sets share a name, or lack a prompt that is asked for; or a stop token
            is in no vocabulary.
        DatasetError: A prompt set cannot be read.
    """
    selections = tuple(read_selections(config))
    notes: list[str] = []
    weights = {
        name: _check_weights(config, name, selections, fetch, notes) for name in config.weights
    }
    return CheckedRun(weights, selections, tuple(notes))


def _check_weights(
    config: RunConfig,
    name: str,
    selections: Sequence[Selection],
    fetch: bool,
    notes: list[str],
) -> CheckedWeights:
    base = config.weights[name]
    skeleton = build_skeleton(base)
    refuse_wrong_weights(base, skeleton)
    architecture = skeleton.config.get_text_config()
    settings = resolve_settings(config, architecture)
    for site in settings.sites:
        find_module(skeleton, site)
    tokenizer = load_tokenizer(base)
    embeddings: Any = skeleton.get_input_embeddings()
    n_embeddings = int(embeddings.weight.shape[0])
    notes += check_tokens(tokenizer, n_embeddings, base)
    notes += check_template(tokenizer, base)
    adapters = tuple(_read_adapters(config, name, fetch, notes))
    fit = FitCheck(skeleton, str(base.path))
    for adapter in adapters:
        _check_adapter(config, base, adapter, tokenizer, fit)
    notes += _note_base_names(base, adapters)
    questions: tuple[Question, ...] = ()
    if any(config.weights_of(o) == name and not config.is_given(o) for o in config.answerers):
        questions = tuple(encode_questions(tokenizer, selections))
        check_texts(tokenizer, questions, n_embeddings)
        check_context(architecture, questions, config.generation.max_new_tokens)
        check_stop_tokens(architecture, tokenizer, config.generation)
    return CheckedWeights(base, architecture, skeleton, tokenizer, settings, questions, adapters)


def _read_adapters(
    config: RunConfig, weights: str, fetch: bool, notes: list[str]
) -> list[AdapterFolder]:
    found, absent = [], []
    for name, source in config.adapters_on(weights).items():
        folder = find_adapter(name, source) if fetch else find_adapter_here(name, source)
        if folder is None:
            absent.append(name)
        else:
            found.append(read_adapter(name, folder))
    if absent:
        notes.append(
            f"not on this machine yet, and so not checked: {_list_some(absent)}; "
            "`tistore ingest` downloads and checks them before it loads anything"
        )
    return found


def _check_adapter(
    config: RunConfig,
    base: BaseConfig,
    adapter: AdapterFolder,
    tokenizer: PreTrainedTokenizerBase,
    fit: FitCheck,
) -> None:
    organism = next(entry for entry in config.organisms if entry.name == adapter.name)
    _refuse_other_base(organism, base, adapter)
    fit.check(adapter)
    if adapter.template is not None and organism.template != "base":
        check_templates_agree(tokenizer, adapter, base)


def _refuse_other_base(organism: OrganismConfig, base: BaseConfig, adapter: AdapterFolder) -> None:
    """Refuse an adapter that names another hub model than the one it is to be read on."""
    named = adapter.base_name
    if organism.trained_on is not None:
        if organism.trained_on != named:
            raise ConfigError(
                f"trained_on of {organism.name!r} is {organism.trained_on!r}, and its adapter "
                f"names {named!r} as its base",
                mend=f"set trained_on = {named!r}, or remove it" if named else "remove it",
            )
        return
    if named is None or base.path.is_local or not _is_hub_id(named):
        return
    if named.casefold() != base.path.given.casefold():
        raise ConfigError(
            f"adapter {organism.name!r} at {adapter.folder} was trained on {named!r}, and is to "
            f"be read on {base.path.given!r}",
            mend=f'set base.path to "{named}", or trained_on = "{named}" in its [[organisms]] '
            "table if this is meant",
        )


def _is_hub_id(name: str) -> bool:
    """Whether a name can only be a hub's `owner/name`: it may also be a path of another machine."""
    return name.count("/") == 1 and Source(name, Path(name)).may_be_hub_id


def _note_base_names(base: BaseConfig, adapters: Sequence[AdapterFolder]) -> list[str]:
    """Tell which adapters name a base that is called otherwise than the folder they are read on."""
    if not base.path.is_local:
        return []
    others: dict[str, list[str]] = defaultdict(list)
    own = base.path.path.resolve().name.casefold()
    for adapter in adapters:
        named = adapter.base_name
        if named and named.rstrip("/").rsplit("/", 1)[-1].casefold() != own:
            others[named].append(adapter.name)
    return [
        f"trained on {named!r} by their own account, and read on {base.path}: {_list_some(names)}"
        for named, names in others.items()
    ]


def _list_some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
