PYTHON ?= python3
BIN := .venv/bin
PINS := .ci/constraints.txt

.PHONY: run test format clean

# The quickstart study; again, it continues, or draws a finished one anew.
run: .venv/run.stamp
	$(BIN)/python -m experiments.quickstart --workdir=runs/quickstart

# Lint, types, doctests and tests.
test: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=15

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/run.stamp: setup.cfg $(PINS) | .venv/bin/python
	$(BIN)/pip install --quiet --constraint $(PINS) --editable '.[run]'
	touch $@

.venv/dev.stamp: setup.cfg $(PINS) | .venv/bin/python
	$(BIN)/pip install --quiet --constraint $(PINS) --editable '.[run,dev]'
	touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'fedjax_ls needs Python 3.11 or newer; set PYTHON=...'; exit 1; }
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache *.egg-info
