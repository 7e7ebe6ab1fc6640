# make setup | demo | test | test-slow | lint | golden
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two processes, a file of tests in one of them: each test runs on one thread.
WORKERS ?= -n 2 --dist loadfile

.PHONY: setup demo test test-slow lint golden

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/python -m scripts.demo

test: setup
	$(BIN)/python -m pytest $(WORKERS)

test-slow: setup
	$(BIN)/python -m pytest $(WORKERS) -m "slow or not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy runtime export train

golden: setup
	$(BIN)/python -m export.golden
