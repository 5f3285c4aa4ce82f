# Two commands suffice on a fresh machine: `make demo` and `make test`. Needs Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
N ?= 20
# Test files run side by side on one broker: waiting is a quarter of the suite's time. WORKERS=0: one by one.
WORKERS ?= 4
# The stamp is newer than what it was made from: setup does nothing until packaging changes.
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint check bench crash-test

setup: $(STAMP)

$(STAMP): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[broker,test,dev]'
	$(BIN)/python -m autoemb_pipeline.kernels
	touch $(STAMP)

demo: setup
	$(BIN)/autoemb-pipeline demo

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Everything that needs neither a broker nor patience.
check: lint
	$(BIN)/python -m pytest -m "not slow and not kafka"

bench: setup
	$(BIN)/python -m tests.benchmarks

# Kills the trainer (and the broker) N times and compares with a run that was never stopped.
crash-test: setup
	AUTOEMB_CRASHES=$(N) $(BIN)/python -m pytest tests/run/test_crashes.py tests/run/test_broker_crashes.py
