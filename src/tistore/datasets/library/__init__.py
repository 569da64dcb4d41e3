"""The trait folders and prompt sets that come with tistore, as files."""

from __future__ import annotations

from pathlib import Path

TRAITS = Path(__file__).parent / "traits"
"""Holds `category/name` folders, as `scenarios.read_trait` reads them."""

PROMPT_SETS = Path(__file__).parent / "prompt_sets"
"""Holds JSON files, as `prompt_sets.read_prompt_set` reads them; folders are part of a name."""
