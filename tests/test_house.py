"""The house: who may import whom, what starts fast, where things are allowed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src" / "tistore"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    "version", "errors", "markdown", "schemas", "datasets", "store", "query", "vectors", "audit",
    "capture", "exchange", "cli",
]  # fmt: skip
USERS_OF_TORCH = {PACKAGE / "query" / "product.py", PACKAGE / "exchange" / "torch_data.py"}
SLOW_TO_LOAD = {
    "numpy", "duckdb", "pyarrow", "polars", "pandas", "tensorstore", "sqlglot", "scipy", "sklearn",
    "matplotlib", "jinja2",
}  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate"}


def imported_names(path: Path) -> set[str]:
    """Every absolute module name a file imports, wherever in the file it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    floor = floor_of(path)
    if floor == "__init__":
        return
    for name in imported_names(path):
        if name.startswith("tistore."):
            below = name.split(".")[1]
            assert FLOORS.index(below) <= FLOORS.index(floor), f"{floor} imports {name}"


def test_only_capture_knows_model_libraries():
    """But for the scan's product, which may use torch where it is, and torch's own data sets."""
    for path in MODULES:
        if floor_of(path) != "capture":
            known = {"torch"} if path in USERS_OF_TORCH else set()
            roots = {name.split(".")[0] for name in imported_names(path)}
            assert not roots & (HEAVY - known), f"{path} imports {roots & HEAVY}"


def test_only_one_module_touches_arrays_and_one_calls_a_chat_template():
    array_users = [p for p in MODULES if {"zarr", "tensorstore"} & imported_names(p)]
    assert array_users == [PACKAGE / "store" / "arrays.py"]
    callers = [p for p in MODULES if ".apply_chat_template(" in p.read_text()]
    assert callers == [PACKAGE / "capture" / "tokenize.py"]


def test_modules_are_named_for_what_they_hold_and_stay_small():
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    for path in MODULES:
        assert path.stem not in {"utils", "helpers", "common", "misc"}
        source = path.read_text()
        assert source.count("\n") <= 600, f"{path} is long: is it still one noun?"
        functions = {n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}
        assert not functions & packages, f"{path}: a function is named like a package"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import tistore"],
        ["-m", "tistore.cli.main", "--help"],
        ["-m", "tistore.cli.main", "sql", "--help"],
    ],
)
def test_starting_loads_no_data_or_model_library(arguments):
    """What makes starting quick; `make bench` measures how quick it is."""
    watched = (
        "import sys, runpy; arguments = sys.argv[1:]; "
        "sys.argv = ['tistore', *arguments[2:]]\n"
        "try:\n"
        "    if arguments[0] == '-c': exec(arguments[1])\n"
        "    else: runpy.run_module(arguments[1], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", watched, *arguments], capture_output=True, text=True, check=True
    )

    loaded = set(ast.literal_eval(done.stderr.strip().splitlines()[-1]))
    assert "tistore" in loaded
    assert not loaded & (HEAVY | SLOW_TO_LOAD)


def test_no_registry_address_and_no_lock_file_is_committed():
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split("\n"):
        assert not name.endswith((".lock", "package-lock.json"))
    constraints = (PROJECT / "constraints.txt").read_text()
    assert "://" not in constraints
    assert re.search(r"^torch==2\.13\.0$", constraints, re.MULTILINE)
