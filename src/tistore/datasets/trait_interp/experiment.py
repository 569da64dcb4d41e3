"""An experiment's folder, walked: the file system is its only index."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tistore.datasets.trait_interp.config import ExperimentConfig, read_config
from tistore.datasets.trait_interp.documents import find_problem
from tistore.datasets.trait_interp.files import Entry, LeftOut
from tistore.datasets.trait_interp.layout import Place, classify
from tistore.datasets.trait_interp.natural_order import natural_key
from tistore.errors import ConfigError

_MAX_STEPS = 64


@dataclass(frozen=True, slots=True)
class Experiment:
    """
    A folder of trait-interp's.

    Attributes:
        path: The folder, with links resolved.
        name: What the folder is called.
        config: What its `config.json` says.
    """

    path: Path
    name: str
    config: ExperimentConfig

    def walk(self) -> Iterator[Entry]:
        """
        Tell every file of the experiment, a record at a time, in natural order.

        Links are not followed to folders, nor out of the experiment; files whose names could not
        be ids are refused. What is left out is said, with the reason: nothing is passed over.
        """
        yield from _walk(self, self.path, ())


def open_experiment(path: Path) -> Experiment:
    """
    Open an experiment.

    Raises:
        ConfigError: The path is no folder, or holds nothing an experiment has.
        DatasetError: Its `config.json` is malformed.
    """
    if not path.is_dir():
        raise ConfigError(f"no experiment at {path}", mend="give the path of its folder")
    resolved = path.resolve()
    known = ("config.json", "inference", "extraction", "steering", "annotations")
    if not any((resolved / name).exists() for name in known) and not any(
        resolved.glob("*/inference")
    ):
        raise ConfigError(
            f"{path} holds none of {', '.join(known)}",
            mend="give the folder of one experiment, such as experiments/NAME",
        )
    config = resolved / "config.json"
    if config.is_symlink() and (refusal := _judge_link(resolved, config)):
        raise ConfigError(f"{config}: {refusal.reason}", mend="put the file itself there")
    return Experiment(resolved, resolved.name, read_config(config))


def _walk(experiment: Experiment, folder: Path, steps: tuple[str, ...]) -> Iterator[Entry]:
    """Tell the files below one folder, its folders in place among them."""
    try:
        with os.scandir(folder) as scan:
            found = sorted(scan, key=lambda entry: natural_key(entry.name))
    except OSError as error:
        yield LeftOut(folder, 0, "refused", f"cannot be listed: {error.strerror}")
        return
    for entry in found:
        path, parts = Path(entry.path), (*steps, entry.name)
        if problem := find_problem(entry.name) or find_problem(path.stem):
            yield LeftOut(path, 0, "refused", f"its name cannot be an id: {problem}")
        elif entry.is_symlink() and (refusal := _judge_link(experiment.path, path)):
            yield refusal
        elif entry.is_dir(follow_symlinks=False):
            if len(parts) > _MAX_STEPS:
                yield LeftOut(path, 0, "refused", f"lies deeper than {_MAX_STEPS} folders")
            else:
                yield from _walk(experiment, path, parts)
        else:
            yield _tell(experiment, path, parts)


def _judge_link(root: Path, path: Path) -> LeftOut | None:
    """Say why a link is left out; None for a link to a file of the experiment."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return LeftOut(path, 0, "refused", "a link that leads nowhere")
    if not target.is_relative_to(root):
        return LeftOut(path, 0, "refused", f"a link out of the experiment, to {target}")
    if target.is_dir():
        reason = f"a link to {target.relative_to(root)}, which is read where it lies"
        return LeftOut(path, 0, "skipped", reason)
    return None


def _tell(experiment: Experiment, path: Path, parts: tuple[str, ...]) -> Entry:
    try:
        status = path.stat()
    except OSError as error:
        return LeftOut(path, 0, "refused", f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return LeftOut(path, 0, "refused", "no regular file")
    return classify(Place(path, parts, status.st_size, experiment.config))
