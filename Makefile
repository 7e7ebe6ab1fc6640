# make setup | demo | test (test-python, test-web) | test-slow | lint | golden | web
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two processes, a file of tests in one of them: each test runs on one thread.
WORKERS ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-python test-web test-slow lint lint-python lint-types lint-web golden web
WEB := mobile_demo/web

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/python -m scripts.demo

test: test-python test-web

test-python: setup
	$(BIN)/python -m pytest $(WORKERS)

# In a real browser: Chromium, or what CHROMIUM names.
test-web: $(WEB)/node_modules/.installed
	cd $(WEB) && npm test && npm run e2e

# The built app, in mobile_demo/web/dist: serve it with python -m runtime.demo.
web: $(WEB)/node_modules/.installed
	cd $(WEB) && npm run build

$(WEB)/node_modules/.installed: $(WEB)/package-lock.json
	@command -v npm >/dev/null || { echo "the web app needs Node.js 20.19 or later (make test-python does without)" >&2; exit 2; }
	cd $(WEB) && npm ci --no-audit --no-fund
	touch $@

test-slow: setup
	$(BIN)/python -m pytest $(WORKERS) -m "slow or not slow"

lint: lint-python lint-types lint-web

lint-python: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Packages are strict, tests and scripts are checked: pyproject.toml says how.
lint-types: setup
	$(BIN)/mypy addkit runtime export train tests scripts examples

lint-web: $(WEB)/node_modules/.installed
	cd $(WEB) && npm run lint

golden: setup
	$(BIN)/python -m scripts.golden
