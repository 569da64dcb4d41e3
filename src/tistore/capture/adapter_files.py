"""Where an adapter's files lie: a folder, or a hub's copy of one."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tistore.capture.config import Source
from tistore.errors import ModelLoadError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


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


def check_adapter(name: str, source: Source) -> None:
    """
    Refuse an adapter that is certain not to load; a hub is not asked.

    Raises:
        ModelLoadError: There is no such adapter, or a file of it is missing.
    """
    if source.is_local:
        find_adapter(name, source)
    elif not source.may_be_hub_id:
        raise _not_found(name, source)


def _download(name: str, source: Source) -> Path:
    if not source.may_be_hub_id:
        raise _not_found(name, source)
    try:
        return Path(snapshot_download(source.given, allow_patterns=["adapter_*"]))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise _not_found(name, source) from error


def _not_found(name: str, source: Source) -> ModelLoadError:
    return ModelLoadError(
        f"no adapter {name!r}: nothing lies at {source.path}, and no hub has {source.given!r}",
        mend="check the adapter's path; it is relative to the config file",
    )
