.PHONY: demo test test-all lint resolve docs clean

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# What pip is to install of PyTorch before all else, if not the index's own build: TORCH='torch==2.13.0 --index-url URL'
TORCH ?=

# One environment for everything: tested versions come from constraints.txt, lower bounds from pyproject.toml.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1' -c constraints.txt
	$(if $(TORCH),$(PIP) $(TORCH))
	$(PIP) -c constraints.txt -e '.[qpu]' --group dev
	touch $(READY)

demo: $(READY)
	$(BIN)/calo4pqvae demo --out runs/demo

# As many processes as cores, each with one thread; a file's tests stay in one process, and so do their fixtures.
test test-all: export OMP_NUM_THREADS ?= 1

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile

resolve:
	$(PYTHON) tools/resolve_constraints.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(PIP) -c constraints.txt --group docs
	$(BIN)/sphinx-build -W -b html docs docs/_build

clean:
	rm -rf $(VENV) runs docs/_build
