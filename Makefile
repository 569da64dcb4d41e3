# Everything a newcomer types. `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench torture clean

demo: $(READY)
	$(BIN)/tistore demo

test: $(READY)
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/capturing.py
	$(BIN)/python benchmarks/vectors.py
	$(BIN)/python benchmarks/auditing.py
	$(BIN)/python benchmarks/spans.py
	$(BIN)/python benchmarks/durability.py

# What happens to stores when processes, disks and power do not last; as root, and for an hour.
torture: $(READY)
	$(BIN)/python tests/durability/torture.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo.tistore .mypy_cache .ruff_cache .pytest_cache .hypothesis
