# make demo: the whole chain on this machine.  make test: the tests.  Both build .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3 python,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
NEEDED_GB := 8
READY := $(VENV)/.ready

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: help demo clone install test test-slow mutants lint bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: clone $(READY) ## run the whole chain, show the numbers and where the report is
	dvc repro
	@python -m pipeline.summary

clone:
	@command -v git >/dev/null || { echo "error: git is missing; install it and run make demo again" >&2; exit 1; }
	@git rev-parse --git-dir >/dev/null 2>&1 || { \
	  echo "error: this folder is no git clone, and DVC needs one: git clone the project (a ZIP will not do)" >&2; exit 1; }

install: $(READY) ## build .venv

$(READY): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { \
	  echo "error: Python 3.11 or newer is missing; install it, or name one: make demo PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than 3.11; name a newer one: make demo PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make environments; install its venv package (python3-venv)" >&2; exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); [ "$$free" -ge $(NEEDED_GB) ] || [ -f $(READY) ] || { \
	  echo "error: $$free GB are free here, the environment needs $(NEEDED_GB); free some disk space" >&2; exit 1; }
	@echo "building $(VENV) (a few minutes, about 6 GB)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

# Two tests at a time share the cores: threads that wait must not spin. Coverage is of the tests' own processes.
test test-slow: export OMP_WAIT_POLICY := passive

test: clone $(READY) ## everything but soaks and long fuzzing, with coverage of the three packages
	python -m pytest -n auto --dist loadgroup -m "not slow" --cov --cov-report=term --cov-fail-under=85

test-slow: clone $(READY) ## soaks, long fuzzing, all datasets and recipes
	python -m pytest -n auto --dist loadgroup -m slow

mutants: $(READY) ## plant faults in the distillation methods and show that a test sees each
	python tests/mutants

lint: $(READY) ## ruff, mypy --strict, the import rules
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: $(READY) ## what was to be reached in training, engines and serving, as tables of ratios (an hour on a quiet machine)
	python benchmarks/reach.py
	python benchmarks/engines.py
	python benchmarks/serving.py

clean: ## caches, decoded images and checkpoints of unfinished runs; results and .venv stay
	rm -rf .runs .decoded .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.* *.egg-info
	find afdcd deploy pipeline tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
