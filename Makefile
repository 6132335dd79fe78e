# Every task, from a fresh clone; `make help` lists them.
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
# torch's CPU build, unless there is an NVIDIA driver: then the default build, without constraints.
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | head -n 1)
CONSTRAINTS := $(if $(GPU),,-c constraints-cpu.txt)
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)

.DEFAULT_GOAL := help
.PHONY: help setup demo study test test-slow peers peers-table bench-peers bench bench-loader lint figures clean

help: ## list these tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## install everything into .venv (again: does nothing)
	@echo "Ready. Type next:"
	@echo "  . $(BIN)/activate"
	@echo "  python src/train.py recipe=demo   # as make demo: train a small CLIP and write its report, about five minutes on two cores"
	@echo "  python src/plan.py model=vit_b32  # the cost of a training of the paper's size"

$(READY): pyproject.toml constraints-cpu.txt
	@echo "Installing into $(VENV): 1.2 GB for a CPU, several GB for a GPU, most of it torch."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(INDEX) -e ".[dev]" $(CONSTRAINTS)
	@touch $(READY)

demo: $(READY) ## train on the embedded pairs, print tables, write report.html (RECIPE=demo_long STEPS=n)
	$(BIN)/python src/train.py recipe=$(RECIPE) $(if $(STEPS),trainer.max_steps=$(STEPS))

study: $(READY) ## train CLIP, a supervised baseline and Visual N-Grams at equal compute: the robustness table (STEPS=n)
	$(BIN)/python src/study.py $(STEPS)

test: $(READY) ## run the fast tests (COV=1: with line coverage of src/diptych, which takes 1.5 times as long)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup $(if $(COV),--cov --cov-report=term --cov-fail-under=90)

test-slow: $(READY) ## run the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow and not alone" --durations=10 -n 2 --dist loadgroup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow and alone" --durations=10

peers: $(PEERS)/.ready ## install open_clip, transformers and CLIP_benchmark into .venv-peers, for comparisons (again: does nothing)

$(PEERS)/.ready: tests/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $(INDEX) -r tests/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps clip_benchmark==1.6.2
	@touch $@

peers-table: $(READY) $(PEERS)/.ready ## compare the nine models with open_clip and transformers: parameters and largest differences
	$(BIN)/python tests/peers/table.py

bench: $(READY) $(PEERS)/.ready $(if $(filter order,$(BENCH)),$(LOADERS)/.ready) ## measure ratios to other projects, written to benchmarks/results.md (BENCH=step-fp32 for one)
	$(BIN)/python benchmarks/results.py $(BENCH)

bench-peers: $(LOADERS)/.ready ## install other projects' data loaders into .venv-bench (again: does nothing)

$(LOADERS)/.ready: benchmarks/requirements.txt benchmarks/requirements-order.txt
	$(PYTHON) -m venv $(LOADERS)
	$(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check $(INDEX) -r benchmarks/requirements.txt
	for package in $$(cat benchmarks/requirements-order.txt); do \
	  $(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check $$package || echo "$$package can't be installed here"; \
	done
	@touch $@

bench-loader: $(READY) $(LOADERS)/.ready ## compare the data loader with open_clip's, Megatron-Energon's and SPDL's; ten minutes
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/order.py
	$(BIN)/python benchmarks/loader.py

lint: $(READY) ## check with ruff and mypy, that notebooks have no output, and that every config composes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/checks/notebooks.py notebooks/*.ipynb
	$(BIN)/python tests/checks/configs.py

figures: $(READY) ## draw the README's figures from the newest runs of demo and study
	$(BIN)/python -c "from pathlib import Path; from diptych.report.plots import results_figure; \
	results_figure(max(Path('runs/demo').iterdir()), Path('docs/evidence/results.png'))"
	$(BIN)/python -c "from pathlib import Path; from diptych.tasks.robustness import robustness_figure; \
	robustness_figure(max(Path('runs/study').iterdir()), Path('docs/evidence/robustness.png'))"

clean: ## remove the environments and caches; keep the runs
	rm -rf $(VENV) $(PEERS) $(LOADERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
