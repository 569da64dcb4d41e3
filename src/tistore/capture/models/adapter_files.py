"""Where an adapter's files lie: a folder, or a hub's copy of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from tistore.capture.config import Source
from tistore.errors import ModelLoadError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILE = "tokenizer_config.json"
_DOWNLOADED = ["adapter_*", TEMPLATE_FILE, TOKENIZER_FILE]


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """
    What an adapter's files say of it without their weights.

    Attributes:
        name: The organism's.
        folder: Where the files lie.
        settings: Of its `adapter_config.json`.
        shapes: Of each weight, by the name it has in the file.
        template: Chat template that was saved beside it; None where none was.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    template: str | None

    @property
    def base_name(self) -> str | None:
        """What the adapter says it was trained on: a path on some machine, or a hub id."""
        return self.settings.get("base_model_name_or_path") or None


def find_adapter(name: str, source: Source) -> Path:
    """
    Find an adapter's folder, downloading it where the source is a hub id.

    Raises:
        ModelLoadError: There is no such adapter, or a file of it is missing.
    """
    folder = source.path if source.is_local else _download(name, source)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise ModelLoadError(
                f"adapter {name!r} at {folder} has no {file}",
                mend="give the folder that PEFT's save_pretrained wrote",
            )
    return folder


def find_adapter_here(name: str, source: Source) -> Path | None:
    """
    Find an adapter's folder without asking a hub; None for one that is not on this machine yet.

    Raises:
        ModelLoadError: There is no such adapter, or a file of it is missing.
    """
    if source.is_local:
        return find_adapter(name, source)
    if not source.may_be_hub_id:
        raise _not_found(name, source)
    find = partial(snapshot_download, allow_patterns=_DOWNLOADED, local_files_only=True)
    try:
        folder = Path(find(source.given))
    except (OSError, HFValidationError, LocalEntryNotFoundError):
        return None
    is_whole = all((folder / file).is_file() for file in (CONFIG_FILE, WEIGHTS_FILE))
    return folder if is_whole else None


def read_adapter(name: str, folder: Path) -> AdapterFolder:
    """
    Read what an adapter is; its weights stay on the disk.

    Raises:
        ModelLoadError: A file of it is damaged.
    """
    try:
        settings = json.loads((folder / CONFIG_FILE).read_text())
        if not isinstance(settings, dict):
            raise ValueError(f"{CONFIG_FILE} holds no object")
        with safe_open(folder / WEIGHTS_FILE, framework="numpy") as weights:
            shapes = {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}
        template = _read_template(folder)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise ModelLoadError(
            f"adapter {name!r} at {folder} is damaged: {error}",
            mend="copy it again from where it was trained",
        ) from error
    return AdapterFolder(name, folder, settings, shapes, template)


def _read_template(folder: Path) -> str | None:
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text()
    if not (folder / TOKENIZER_FILE).is_file():
        return None
    template = json.loads((folder / TOKENIZER_FILE).read_text()).get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template or None


def _download(name: str, source: Source) -> Path:
    if not source.may_be_hub_id:
        raise _not_found(name, source)
    try:
        return Path(snapshot_download(source.given, allow_patterns=_DOWNLOADED))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise _not_found(name, source) from error


def _not_found(name: str, source: Source) -> ModelLoadError:
    return ModelLoadError(
        f"no adapter {name!r}: nothing lies at {source.path}, and no hub has {source.given!r}",
        mend="check the adapter's path; it is relative to the config file",
    )
