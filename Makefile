# Needs python3, pip, make and git. Each target sets up its own environment in .venv when that is missing or stale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lint check bench clean

help:
	@echo "make demo   train SGD, SAM and mSAM on real digits, measure flatness, write runs/demo/report.html (minutes)"
	@echo "make test   the test suite"
	@echo "make check  format, lint, types, tests"
	@echo "make bench  the benchmarks"
	@echo "make clean  remove the environment, caches and runs/demo"

# Where venv cannot bring pip along (Debian without python3-venv), the system's pip installs into the environment.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python -a -x $(BIN)/pip || { rm -rf $(VENV); \
		$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }; }
	@echo "installing into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,data,hf,lightning,interactive]'
	@touch $@

demo: $(READY)
	@$(BIN)/msam sweep --task digits --model mlp --set train_examples=500 --set label_noise=0.2 \
		--perturbation none,sam --micro-batches 1,2,4,8,16 --rho 0.1 --seeds 2 \
		--epochs 60 --batch-size 100 --lr 0.1 --out runs/demo
	@$(BIN)/msam compare runs/demo --rho 0.1 --out runs/demo/report.html --note "The settings are those of an \
	earlier trial of this comparison and the same for all: learning rate, momentum and schedule are common ones for SGD, and \
	rho is from the grid of Foret et al. 2021. No search was made over them here, neither on the test images nor for one \
	method. A fifth of the training labels is random, so that there is something to overfit, and 60 epochs bring every run \
	to about the same training loss."

test: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint test

bench: $(READY)
	@$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist runs/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
