PYTHON ?= python3
ARGS ?=
CASES ?= 200
SEED ?= 1
BIN := .venv/bin
PIP ?= $(BIN)/python -m pip --disable-pip-version-check
OLDEST := .venv-oldest
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all test-gpu test-oldest soak lint format benchmark size docs constraints

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## install everything into .venv; faster with PIP="uv pip", if uv is installed

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed: make PYTHON=python3.11 setup")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (several GB, only this once)"
	@$(PIP) install --constraint constraints.txt --editable '.[dev,export,data-quality,photos,dicom,tiff]'
	@touch $@

train: setup ## train a small network on handwritten digits, or with ARGS="--config FILE ..." anything else
	@$(BIN)/python scripts/train.py fit $(ARGS)

test: lint ## lint, types and the quick tests
	@echo "The quick tests take about 4 minutes on 2 cores; make test-all runs all, in about 18."
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: lint ## lint, types and all tests
	@$(BIN)/python -m pytest $(ARGS)

test-gpu: setup ## what only a GPU can show
	@$(BIN)/python -m pytest -m "gpu or any_device" tests $(ARGS)

test-oldest: ## the tests on the oldest versions that pyproject.toml allows; PYTHON=python3.12
	@$(PYTHON) -m venv --clear $(OLDEST)
	@sed -nE 's/^ *"([A-Za-z0-9._-]+)(\[.*\])?>=([0-9.]+).*/\1==\3/p' pyproject.toml > $(OLDEST)/constraints.txt
	@$(OLDEST)/bin/python -m pip install --disable-pip-version-check --constraint $(OLDEST)/constraints.txt --editable '.[dev,timm,wandb,mlflow,export,data-quality,photos,dicom,tiff]'
	@$(OLDEST)/bin/python -m pytest $(ARGS)

soak: setup ## break off and take up random runs; CASES=200 SEED=1
	@$(BIN)/python -m tests.faults.soak --cases $(CASES) --seed $(SEED)

lint: setup ## style and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary

format: setup ## rewrite the sources in the project's style
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

benchmark: setup ## speed beside the bare training step and a standard program, and start-up; ARGS="--config FILE"
	@$(BIN)/python scripts/benchmark.py $(ARGS)
	@$(BIN)/python -m tests.benchmarks.standard_program $(ARGS)
	@$(BIN)/python -m tests.benchmarks.startup

size: setup ## how many lines there are to read, by room
	@$(BIN)/python -m tests.size

docs: setup ## build README.md and docs/ as a site in .site/html; a dead link fails
	@test -x $(BIN)/zensical || $(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	@rm -rf .site && mkdir .site && cp -R docs .site/pages && cp *.md .site/pages && mv .site/pages/README.md .site/pages/index.md
	@sed -E -i.bak 's#(\]\(|src=")docs/#\1#g; s#\]\(\.\./#](#g; s#\]\(README\.md#](index.md#g' .site/pages/*.md && rm .site/pages/*.bak
	@$(BIN)/zensical build --strict
	@echo "site  .site/html/index.html"

constraints: setup ## pin the newest versions of everything in constraints.txt
	@$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report .venv/report.json '.[dev,docs,timm,wandb,mlflow,export,data-quality,photos,dicom,tiff]'
	@$(BIN)/python -c 'import json; names = (i["metadata"] for i in json.load(open(".venv/report.json"))["install"]); print(*sorted("{}=={}".format(m["name"].lower(), m["version"]) for m in names if m["name"] != "kindling"), sep="\n")' > .venv/constraints.txt
	@mv .venv/constraints.txt constraints.txt
