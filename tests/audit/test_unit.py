"""The prompt is the unit of every inference."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import tistore.audit

FOLDER = Path(tistore.audit.__file__).parent


def test_nothing_that_makes_a_p_or_an_interval_takes_token_rows():
    """Arguments are prompts and cells."""
    found = [path for part in ("statistics", "effects") for path in (FOLDER / part).glob("*.py")]
    names = sorted(f"{path.parent.name}.{path.stem}" for path in found if path.stem != "__init__")
    modules = [import_module(f"tistore.audit.{name}") for name in ["rank", *names]]
    functions = [
        function
        for one in modules
        for name, function in inspect.getmembers(one, inspect.isfunction)
        if function.__module__ == one.__name__ and not name.startswith("_")
    ]

    assert len(functions) > 20
    for function in functions:
        for parameter in inspect.signature(function).parameters:
            assert "token" not in parameter, f"{function.__qualname__}({parameter})"
