# Every target makes its own virtual environment when there is none and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
OUT ?= quickstart_run

.PHONY: help quickstart test test-slow test-plan lint format clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

# The stamps remember for which dependencies the environment was made.
$(BIN)/.train: setup.py constraints.txt | $(BIN)/python
	@echo "Installing metro_jax with what training needs (once; TensorFlow alone is 600 MB) ..."
	$(PIP) -c constraints.txt -e '.[train]'
	@touch $@

$(BIN)/.all: setup.py constraints.txt | $(BIN)/python
	@echo "Installing metro_jax with everything the tests need (once; TensorFlow alone is 600 MB) ..."
	$(PIP) -c constraints.txt -e '.[all]'
	@touch $@ $(BIN)/.train

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

quickstart: $(BIN)/.train ## METRO-T0's whole life on embedded data: pretrain, finetune, evaluate, convert, answer
	$(BIN)/metro-jax quickstart --out $(OUT)

test: $(BIN)/.all ## All tests but the slow ones
	$(BIN)/python -m pytest -n 2

test-slow: $(BIN)/.all ## The slow tests as well
	$(BIN)/python -m pytest -n 2 -m ''

# In a folder of its own: beside JAX it would make every start look for a TPU.
$(BIN)/.plan: constraints.txt | $(BIN)/.all
	$(PIP) -c constraints.txt --no-deps --upgrade --target $(VENV)/tpu-plan libtpu
	@touch $@

test-plan: $(BIN)/.plan ## What compiles for TPUs, with their compiler (213 MB)
	PYTHONPATH=$(VENV)/tpu-plan $(BIN)/python -m pytest -n 0 -m '' tests/training/plan

lint: $(BIN)/.all ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(BIN)/.all ## Rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and what was built (not quickstart_run)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
