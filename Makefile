# Everything below works on a fresh machine with Python 3.11 to 3.13: the virtual environment is made when it is missing.

VENV ?= .venv
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 \
	&& echo $$p && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

.PHONY: install test tests lint quick peers demo bench bench-arm bench-gpu clean

install: $(VENV)/.installed

# Made anew only when the packages that the project asks for may have changed. Plain wheels: nothing of CUDA is downloaded.
$(VENV)/.installed: setup.py pyproject.toml
	@$(BIN)/python -c '' 2>/dev/null || test -n "$(PYTHON)" || { \
		echo "No Python 3.11 to 3.13 with venv and pip was found (on Debian and Ubuntu, python3-venv is a package of its own)."; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || { echo "Making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing packages into $(VENV); the first time takes a few minutes"
	@$(PIP) install --upgrade pip
	@PYTHONWARNINGS=ignore $(PIP) install --editable '.[test,demo,jax]'
	@touch $@

lint: install
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy mnv3_tf export cli demo benchmarks

# Side by side, one process for each core up to four; what takes long to make is made once for all of them.
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

# Lint runs beside the tests; either's failure fails it.
test: install
	@$(MAKE) --no-print-directory --jobs 2 lint tests

tests: install
	@$(PYTEST)

quick: install
	@$(PYTEST) -m 'not slow'

# Imported weights against torchvision, timm, PaddleClas and keras.applications themselves; the first time, they are installed into
# environments of their own in the cache folder (about 3 GB, ten minutes).
peers: install
	@$(BIN)/python tests/peers/run.py
	@$(BIN)/python tests/peers/starting_points.py

demo: install
	@$(BIN)/python demo/run.py

bench: install
	@$(BIN)/python benchmarks/latency.py
	@$(BIN)/python benchmarks/throughput.py
	@$(BIN)/python benchmarks/pipelines.py
	@$(BIN)/python benchmarks/start_up.py

# Counts the ARM instructions of one inference on emulated processors (needs qemu-user; about ten minutes on two cores).
bench-arm: install
	@$(BIN)/python benchmarks/arm_instructions.py

# Training on an accelerator: the step and the input pipeline (KERAS_BACKEND=jax and jax[cuda13], or the extra `gpu`).
bench-gpu: install
	@$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) demo/out benchmarks/out build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
