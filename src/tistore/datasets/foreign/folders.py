"""Files of a folder that may each be a sample, in a fixed order, links out of it refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tistore.datasets.foreign.sample import ForeignSample, Unreadable, require_inside
from tistore.datasets.trait_interp.natural_order import natural_key
from tistore.errors import DatasetError, ForeignFileError

Found = ForeignSample | Unreadable


def read_each(
    source: Path, endings: tuple[str, ...], read: Callable[[Path, str], ForeignSample | None]
) -> Iterator[Found]:
    """
    Read every file of a folder by itself; or the one file, where the source is a file.

    What cannot be read is told and passed over.

    Args:
        source: A file or a folder; folders in it are searched too.
        endings: Endings of the files that are meant.
        read: Reads a file, given the id of a sample that names none: the path in the folder
            without its ending. None for a file that is no sample, but part of one.

    Raises:
        DatasetError: The source is not there, or holds no such file.
    """
    if not source.is_dir():
        paths, root = [require_source(source)], source.parent
    else:
        root = source
        paths = [path for path in walk(source) if path.name.lower().endswith(endings)]
    n_samples = 0
    for path in paths:
        try:
            if source.is_dir():
                require_inside(path, root)
            found = read(path, path.relative_to(root).with_suffix("").as_posix())
        except ForeignFileError as error:
            n_samples += 1
            yield Unreadable(str(path), str(error))
        else:
            if found is not None:
                n_samples += 1
                yield found
    if not n_samples:
        raise DatasetError(
            f"{source} holds no sample: no file ends in {' or '.join(endings)}",
            mend="name the folder of the samples, or another format: `tistore import --help`",
        )


def require_source(source: Path) -> Path:
    """
    Check that a source is there.

    Raises:
        DatasetError: It is not.
    """
    if not source.exists():
        raise DatasetError(f"there is no {source}", mend="check the path")
    return source


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in natural order; links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders.sort(key=natural_key)
        yield from (Path(place, name) for name in sorted(names, key=natural_key))
