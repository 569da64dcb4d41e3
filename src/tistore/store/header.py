"""The store's header: which format this is, and which store."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tistore.errors import FormatVersionError, IntegrityError, NotAStoreError
from tistore.store.files import Files
from tistore.store.layout import HEADER
from tistore.version import __version__

FORMAT_VERSION = 2
"""The newest version this tistore reads."""

PLAIN_VERSION = 1
"""What a store without features is of: versions of tistore that know of none open it."""

Feature = Literal["bundled-scores"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
"""What a reader must know to read a store; `bundled-scores`: segments may hold scores in place of
their activations."""


@dataclass(frozen=True, slots=True)
class Header:
    """
    Content of `tistore.json`, written once.

    Attributes:
        uuid: Identity of the store, whatever its path.
        format_version: Version of `docs/format.md` it follows.
        sha256: Hash of the file: the parent of commit 1.
        features: What a reader must know beyond the first version.
    """

    uuid: str
    format_version: int
    sha256: str
    features: tuple[str, ...] = ()


def write_header(files: Files, features: Sequence[Feature] = ()) -> bool:
    """Write a new store's header; False when one is there already."""
    content = {
        "format": "tistore",
        # As old as can be: only what needs the newer version is refused by an older reader.
        "format_version": FORMAT_VERSION if features else PLAIN_VERSION,
        "store_uuid": uuid.uuid4().hex,
        "created_by": f"tistore {__version__}",
        "row_convention": "at-token",
        "file_hash": "blake3",
        "chain_hash": "sha256",
    }
    if features:
        content["features"] = list(features)
    return files.put_if_absent(HEADER, json.dumps(content, indent=2).encode() + b"\n")


def read_header(files: Files, where: str) -> Header:
    """
    Read a store's header.

    Raises:
        FormatVersionError: The store is of a version this tistore does not know.
        IntegrityError: The header is damaged.
    """
    data = files.read(HEADER)
    try:
        content = json.loads(data)
        if content["format"] != "tistore":
            raise NotAStoreError(f"{where} holds a {HEADER} of format {content['format']!r}")
        version = content["format_version"]
        features = tuple(content.get("features", ()))
        header = Header(content["store_uuid"], version, hashlib.sha256(data).hexdigest(), features)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{where}/{HEADER} is damaged: {error}", mend="restore it from a copy of the store"
        ) from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{where} is of format version {version}; "
            f"tistore {__version__} reads versions up to {FORMAT_VERSION}",
            mend="install a newer tistore: pip install --upgrade tistore",
        )
    if unknown := [feature for feature in features if feature not in FEATURES]:
        named = ", ".join(map(str, unknown))
        raise FormatVersionError(
            f"{where} needs {named}, which tistore {__version__} does not know",
            mend="install a newer tistore: pip install --upgrade tistore",
        )
    return header
