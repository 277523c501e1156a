# The two commands of the README, and what they are made of. Everything lives in .venv; nothing is installed outside this folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The CPU build of torch unless told otherwise: make demo CONSTRAINTS= takes whatever pip finds (a CUDA build, on Linux).
CONSTRAINTS ?= -c constraints.txt
# pytest-xdist workers; the tests that measure time are kept on one of them.
WORKERS ?= 2
PYTEST_FLAGS ?=
BENCH_FLAGS ?=

.PHONY: help demo run test test-fast lint bench install install-dev clean

help:
	@echo "make demo   set everything up and run the main job: a head goes in, a SEG and an SR come back"
	@echo "make run    the same, and leave both nodes running until Ctrl-C"
	@echo "make test   all tests (REQUIRE_PEERS=1: a missing peer program is a failure, not a skip)"
	@echo "make lint   ruff, mypy --strict, import-linter"
	@echo "make bench  the figures of the README, with the peers in the same run (about an hour)"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# The stamps are remade when the dependencies change.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[training]'
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[training,test,lint]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

demo: install
	$(BIN)/dicom-node demo

run: install
	$(BIN)/dicom-node demo --keep

test: install-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(if $(REQUIRE_PEERS),--require-peers) $(PYTEST_FLAGS)

test-fast: install-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m 'not slow' $(PYTEST_FLAGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install-dev
	$(BIN)/python -m benchmarks.run $(BENCH_FLAGS)

clean:
	rm -rf $(VENV) demo-data build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
