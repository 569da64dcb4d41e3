"""`tistore doctor`: the installation, the machine, and a store."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

import tistore.capture.environment as environment
from command_line import rows, run
from example_readings import make_reading
from tistore.capture.environment import check_environment
from tistore.errors import StoreError
from tistore.store.base import BaseStore
from tistore.store.verifying.health import Check

ASKED = [
    "numpy>=2.0",
    "torch>=2.10; extra == 'capture'",
    "peft>=0.18; extra == 'capture'",
    "jinja2>=3.1; extra == 'capture'",
    "matplotlib>=3.10; extra == 'report'",
    "jinja2>=3.1; extra == 'report'",
    "pytest>=8.4; extra == 'dev'",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TISTORE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def installed(monkeypatch):
    """Give a machine on which just these versions are installed."""

    def install(**versions: str) -> dict[str, Check]:
        def distribution(name: str) -> SimpleNamespace:
            extras = SimpleNamespace(get_all=lambda key: ["capture", "report", "dev"])
            if name == "tistore":
                return SimpleNamespace(version="0.1.0", requires=ASKED, metadata=extras)
            if name not in versions:
                raise PackageNotFoundError(name)
            return SimpleNamespace(version=versions[name])

        monkeypatch.setattr(environment, "distribution", distribution)
        return {check.check: check for check in environment._check_packages()}

    return install


@pytest.fixture
def driver(tmp_path, monkeypatch, installed):
    """Put an nvidia-smi on the path that says something, and install a torch."""

    def put(torch: str, script: str) -> list[Check]:
        installed(numpy="2.1", torch=torch)
        command = tmp_path / "bin" / "nvidia-smi"
        command.parent.mkdir()
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
        return list(environment._check_gpu())

    return put


def test_this_installation_is_sound():
    checks = check_environment()

    assert [check for check in checks if check.state == "problem"] == []
    names = [check.check for check in checks]
    for name in ("python", "tistore", "numpy", "memory", "open files", "cache folder"):
        assert name in names


def test_every_package_is_held_against_what_is_asked_for(installed):
    checks = installed(numpy="1.26.4", torch="2.11.0+cu128", jinja2="3.1.6")

    assert checks["numpy"].state == "problem"
    assert "1.26.4" in checks["numpy"].detail
    assert checks["numpy"].mend == "pip install --upgrade 'numpy>=2.0'"
    assert checks["torch"] == Check("torch", "ok", "2.11.0+cu128 (>=2.10)")
    assert checks["peft"].state == "warning"
    assert checks["peft"].mend == "pip install --upgrade 'tistore[capture]'"
    assert "pytest" not in checks


def test_an_extra_nobody_installed_is_no_fault(installed):
    checks = installed(numpy="2.1")

    assert set(checks) == {"numpy", "tistore[capture]", "tistore[report]"}
    assert {check.state for check in checks.values()} == {"ok"}


def test_a_missing_requirement_is_a_problem(installed):
    assert installed()["numpy"].state == "problem"


def test_a_torch_that_can_be_made_to_run_code_is_warned_of(installed):
    check = installed(numpy="2.1", torch="2.9.1", peft="0.18", jinja2="3.1")["torch"]

    assert check.state == "warning"
    assert "CVE-2026-24747" in check.detail


def test_a_source_tree_that_is_not_installed_says_so(monkeypatch):
    def distribution(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "distribution", distribution)

    (check,) = environment._check_packages()

    assert check.state == "warning"


def test_a_gpu_is_named_without_loading_torch(driver):
    (check,) = driver("2.11.0+cu128", "echo 'NVIDIA H200, 143771 MiB, 143000 MiB, 580.1'")

    assert check.state == "ok"
    assert "NVIDIA H200, 143771 MiB" in check.detail


@pytest.mark.parametrize(
    ("torch", "script", "words"),
    [
        ("2.11.0+cpu", "echo 'NVIDIA H200, 1 MiB, 1 MiB, 580.1'", "built for CPUs"),
        ("2.11.0", "echo 'Driver/library version mismatch'; exit 18", "version mismatch"),
        ("2.11.0", "exit 0", "fails"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_a_warning(driver, torch, script, words):
    (check,) = driver(torch, script)

    assert check.state == "warning"
    assert words in check.detail


def test_a_driver_that_does_not_answer_is_a_warning(driver, monkeypatch):
    def run(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(environment.subprocess, "run", run)

    (check,) = driver("2.11.0", "exit 0")

    assert check.state == "warning"
    assert "timed out" in check.detail


def test_without_a_driver_models_run_on_the_cpu(installed, monkeypatch):
    installed(numpy="2.1", torch="2.11")
    monkeypatch.setenv("PATH", "/nonexistent")

    (check,) = environment._check_gpu()

    assert check.state == "ok"
    assert "CPU" in check.detail


def test_without_torch_nobody_asks_for_a_gpu(installed):
    installed(numpy="2.1")

    assert list(environment._check_gpu()) == []


def test_few_open_files_and_little_memory_are_warned_of(monkeypatch):
    monkeypatch.setattr(environment.resource, "getrlimit", lambda what: (256, 4096))
    monkeypatch.setattr(environment, "_read_available_memory", lambda: 10**8)

    assert environment._check_open_files().mend == "ulimit -n 4096"
    assert environment._check_memory().state == "warning"


def test_a_limit_on_this_process_is_told(tmp_path, monkeypatch):
    (tmp_path / "limit").write_text("3221225472\n")
    (tmp_path / "none").write_text("max\n")
    assert environment._read_number(tmp_path / "limit") == 3 << 30
    assert environment._read_number(tmp_path / "none") is None
    monkeypatch.setattr(environment, "_read_number", lambda path: 3 << 30)
    monkeypatch.setattr(environment, "_read_available_memory", lambda: None)

    detail = environment._check_memory().detail

    assert "this process may use 3.0 GiB" in detail
    assert "available" not in detail


def test_a_cache_folder_that_cannot_be_made_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")

    assert environment._check_folder("cache folder", tmp_path / "file" / "cache").state == "warning"
    assert environment._check_folder("cache folder", tmp_path / "new" / "cache").state == "ok"


def test_it_is_said_when_models_cannot_be_fetched(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    checks = {check.check: check for check in environment._check_hub()}

    assert "HF_HUB_OFFLINE" in checks["hub"].detail


def test_the_command_prints_flat_rows_and_fails_on_a_problem(tmp_path):
    store = BaseStore.create(tmp_path / "s.tistore")
    with store.writer() as writer:
        writer.add(**make_reading())

    printed = rows("doctor", store.path)

    assert {tuple(row) for row in printed} == {("check", "state", "detail", "mend")}
    assert "exclusive creates" in [row["check"] for row in printed]
    next((store.path / "commits").iterdir()).write_bytes(b"")
    done = run("doctor", store.path)
    assert isinstance(done.exception, StoreError)
    assert done.exception.exit_code == 1
    assert "log" in str(done.exception)


def test_a_folder_that_is_no_store_is_told_from_a_damaged_store(tmp_path):
    told = run("doctor", tmp_path)
    (only,) = [row for row in json.loads(run("doctor", tmp_path, "--json").stdout)
               if row["check"] == "store"]  # fmt: skip

    assert isinstance(told.exception, StoreError)
    assert (only["state"], only["mend"]) == ("problem", "mend the path")
    assert "holds no tistore.json and no commits/" in only["detail"]


def test_the_command_loads_no_model_library():
    watched = (
        "import sys; from tistore.capture.environment import check_environment as look; look(); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", watched], check=True, cwd=Path(__file__).parent)
