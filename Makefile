# Everything the project does for itself. A target that needs Python sets up .venv first, from the lock, hash-checked.

SHELL := /bin/bash
VENV ?= .venv
PROFILE ?= paper
# For two cores: each worker computes on one thread, and waits about a quarter of its time for kernels and processes.
WORKERS ?= 3

# Hundreds of processes are started: where none may keep what it compiled, each compiles torch's sources anew, for seconds.
export PYTHONDONTWRITEBYTECODE :=

PYTHONS := $(or $(PYTHON),python3 python3.12 python3.11)
BIN := $(VENV)/bin
STAMP := $(VENV)/.in-step-with-lock
LOCK_COMMAND := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --extra book --extra dev --extra attributes --extra ray pyproject.toml -o requirements.lock

.DEFAULT_GOAL := help
.PHONY: help setup book html pdf frames picture test lint format types notebooks check lock advisories clean distclean

help: ## show this list
	@echo "usage: make TARGET [PYTHON=python3.12] [PROFILE=paper]"
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 14

setup: $(STAMP) ## make .venv with everything in it, exactly as locked

# Without PYTHON the first of these that runs and is 3.11 or 3.12 is taken; a version manager's shim may exist and fail.
$(BIN)/python:
	@for candidate in $(PYTHONS); do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$candidate"; \
	    exec "$$candidate" -m venv $(VENV); \
	  fi; \
	done; \
	echo "error: no Python 3.11 or 3.12 with venv (tried $(PYTHONS)); install one and name it: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1

$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@SECONDS=0; if $(BIN)/python -m pip install --quiet uv; then \
	  $(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock && \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .; \
	else \
	  echo "uv cannot be installed; pip does it, more slowly" >&2; \
	  $(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --no-deps -e .; \
	fi && echo "set up in $$SECONDS s"
	@touch $@

# The pages are executed before they are checked and built, under -j too.
.NOTPARALLEL:

book: notebooks html ## execute every notebook and build the book into _build/html

html: $(STAMP) ## build the book from the pages that are there, unless one is out of date; executes nothing
	$(BIN)/python -m pmtlib.runner check
	@SECONDS=0; $(BIN)/jupyter-book build book/ -n -W --keep-going && \
	  echo "built from the pages in $$SECONDS s; open _build/html/index.html"

notebooks: $(STAMP) ## execute the notebooks with PROFILE (paper, quick, smoke) and put the pages into book/results
	$(BIN)/python -m pmtlib.runner execute --profile $(PROFILE)

pdf: html ## print the book into _build/pmtlib.pdf, with the Chromium that is here
	$(BIN)/python -m pmtlib.runner pdf

picture: $(STAMP) ## draw the picture of the README anew
	$(BIN)/python -m pmtlib.figures.audit book/_static/strip.png

frames: $(STAMP) ## make the frames of the interactive page anew
	$(BIN)/python -m pmtlib.runner frames

check: $(STAMP) ## say which pages of the book are out of date
	$(BIN)/python -m pmtlib.runner check

lint: $(STAMP) ## ruff over code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint types ## lint, types, all tests, the notebooks and the book; the last line is pytest's
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lock: $(STAMP) ## resolve requirements.lock anew from pyproject.toml
	PATH="$(abspath $(BIN)):$$PATH" $(LOCK_COMMAND)

advisories: $(STAMP) ## report published faults of the locked packages (needs the index's database of them)
	$(BIN)/uv tool run pip-audit --requirement requirements.lock --no-deps --disable-pip

clean: ## remove what building and testing left
	rm -rf _build book/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pmtlib tests -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	rm -rf $(VENV)
