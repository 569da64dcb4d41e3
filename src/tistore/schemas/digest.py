"""Content hashes of records: canonical JSON, hashed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

DIGEST_LENGTH = 32  # hex digits, 128 bits: collisions are out of reach for any store's size


def digest(value: Any) -> str:
    """
    Hash a JSON-like value.

    Args:
        value: Dicts, lists, strings, integers, booleans, None. Floats are left out on purpose:
            their text is not canonical; hash their bytes instead.

    Returns:
        32 hex digits of SHA-256 over canonical JSON (sorted keys, no spaces, UTF-8).
    """
    # Lone surrogates occur in decoded model text; they must hash, not fail.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
