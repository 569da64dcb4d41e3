# Everything a newcomer types. `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# What the promise rests on: not a branch of these is left to chance.
STORE := */tistore/store
PROMISE := $(STORE)/log.py,$(STORE)/contents.py,$(STORE)/committing.py,$(STORE)/leases.py,$\
$(STORE)/turns.py,$(STORE)/history.py,$(STORE)/place.py,$(STORE)/system.py,$\
$(STORE)/collecting/*,$(STORE)/rewriting/*,$(STORE)/repairing/*,$(STORE)/verifying/*

.PHONY: demo test check bench torture coverage clean

demo: $(READY)
	$(BIN)/tistore demo

test: $(READY)
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# The whole of store/ is told of; the modules of the promise have to be covered, branch by branch.
coverage: $(READY)
	OPENBLAS_NUM_THREADS=1 $(BIN)/coverage run -m pytest --quiet tests/store tests/durability \
		tests/golden tests/cli/test_rewriting.py tests/cli/test_log.py tests/cli/test_doctor.py
	$(BIN)/coverage report --skip-covered
	$(BIN)/coverage report --include='$(PROMISE)' --fail-under=100

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
	rm -rf $(VENV) demo.tistore .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
