# Two targets do all the set-up: `make search` and `make test`. Each target explains itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread each: two OpenMP threads beside another busy process are slower than one.
export OMP_NUM_THREADS ?= 1
export HF_HUB_DISABLE_PROGRESS_BARS = 1

.DEFAULT_GOAL := help

help: ## Show what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

search: $(READY) ## Discover a pruning metric on the embedded model (no download; some minutes)
	$(BIN)/autoproxy search

test: lint types pytest ## Set up if needed, then lint, types and all tests

setup: $(READY) ## Install everything into .venv (skipped while nothing changed)

lint: $(READY) ## Style, formatting and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(READY) ## Static types, strict
	$(BIN)/mypy

pytest: $(READY) ## All tests but the slow ones, on two cores
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

slow: $(READY) ## The slow tests too
	$(BIN)/pytest -q -m "slow or not slow"

triton: $(READY) ## Test the kernels for CUDA devices without one: installs Triton (1 GB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cuda]'
	TRITON_INTERPRET=1 $(BIN)/pytest -q tests/evaluators/test_masks.py tests/evaluators/test_cuda_kernels.py -k 'triton or cuda'

bench: $(READY) ## Speed, as ratios to a named reference in the same run
	$(BIN)/python benchmarks/bench_candidates.py
	$(BIN)/python benchmarks/bench_masks.py
	$(BIN)/python benchmarks/bench_expressions.py
	$(BIN)/python benchmarks/bench_engine.py
	$(BIN)/python benchmarks/bench_proxies.py
	$(BIN)/python benchmarks/bench_workers.py

docs: $(READY) ## The site of these pages, in docs/_build/html; no network
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html

format: $(READY) ## Format the code and mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and every cache, nothing of yours
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks dist build docs/_build

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "AutoProxy needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[dev]'
	@touch $(READY)

.PHONY: help search test setup lint types pytest slow bench docs format clean
