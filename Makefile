# Everything from a bare clone; `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
LOADERS := .venv-bench
RECIPE ?= demo
STEPS ?=
BENCH ?=
COV ?=
TORCH_INDEX ?=
# The CPU build where no NVIDIA driver is found; the default build, unconstrained, where one is.
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | head -n 1)
CONSTRAINTS := $(if $(GPU),,-c constraints-cpu.txt)
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)

.DEFAULT_GOAL := help
.PHONY: help setup demo study test test-slow peers peers-table bench-peers bench bench-loader lint figures clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## .venv with everything; nothing to do the second time
	@echo "Ready. Type next:"
	@echo "  . $(BIN)/activate"
	@echo "  python src/train.py recipe=demo   # as make demo: a small CLIP and its report, some five minutes of two cores"
	@echo "  python src/plan.py model=vit_b32  # what a training of the paper's size would take"

$(READY): pyproject.toml constraints-cpu.txt
	@echo "Installing into $(VENV): torch is the largest, 1.2 GB in all for a CPU, several for a GPU."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(INDEX) -e ".[dev]" $(CONSTRAINTS)
	@touch $(READY)

demo: $(READY) ## train on the embedded pairs, then tables and report.html (RECIPE=demo_long STEPS=n)
	$(BIN)/python src/train.py recipe=$(RECIPE) $(if $(STEPS),trainer.max_steps=$(STEPS))

study: $(READY) ## CLIP, a supervised baseline and Visual N-Grams at equal compute: the robustness table (STEPS=n)
	$(BIN)/python src/study.py $(STEPS)

test: $(READY) ## the fast suite (COV=1: with line coverage of src/diptych, which takes half as long again)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup $(if $(COV),--cov --cov-report=term --cov-fail-under=90)

test-slow: $(READY) ## the long proofs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow and not alone" --durations=10 -n 2 --dist loadgroup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow and alone" --durations=10

peers: $(PEERS)/.ready ## .venv-peers with open_clip, transformers and CLIP_benchmark, to compare with; nothing to do the second time

$(PEERS)/.ready: tests/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $(INDEX) -r tests/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps clip_benchmark==1.6.2
	@touch $@

peers-table: $(READY) $(PEERS)/.ready ## the nine models beside their peers: parameters and largest differences
	$(BIN)/python tests/peers/table.py

bench: $(READY) $(PEERS)/.ready $(if $(filter order,$(BENCH)),$(LOADERS)/.ready) ## ratios to named peers in one run, kept in benchmarks/results.md (BENCH=step-fp32 for one)
	$(BIN)/python benchmarks/results.py $(BENCH)

bench-peers: $(LOADERS)/.ready ## .venv-bench with the loaders of others; nothing to do the second time

$(LOADERS)/.ready: benchmarks/requirements.txt benchmarks/requirements-order.txt
	$(PYTHON) -m venv $(LOADERS)
	$(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check $(INDEX) -r benchmarks/requirements.txt
	for package in $$(cat benchmarks/requirements-order.txt); do \
	  $(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check $$package || echo "$$package can't be installed here"; \
	done
	@touch $@

bench-loader: $(READY) $(LOADERS)/.ready ## the loader beside open_clip's, Megatron-Energon's and SPDL's; ten minutes
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/order.py
	$(BIN)/python benchmarks/loader.py

lint: $(READY) ## ruff, format, mypy, notebooks without output, every config composes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/checks/notebooks.py notebooks/*.ipynb
	$(BIN)/python tests/checks/configs.py

figures: $(READY) ## the README's figures from the newest runs of demo and study
	$(BIN)/python -c "from pathlib import Path; from diptych.report.plots import results_figure; \
	results_figure(max(Path('runs/demo').iterdir()), Path('docs/evidence/results.png'))"
	$(BIN)/python -c "from pathlib import Path; from diptych.report.robustness import robustness_figure; \
	robustness_figure(max(Path('runs/study').iterdir()), Path('docs/evidence/robustness.png'))"

clean: ## remove the environments and caches; runs stay
	rm -rf $(VENV) $(PEERS) $(LOADERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
