# `make help` lists the targets. Each one that needs the environment sets it up first.
PYTHON ?= python3
VENV := .venv
# After `make setup GPU=1` every target keeps the CUDA packages; GPU=0 goes back to the CPU.
GPU ?= $(shell cat $(VENV)/.gpu 2>/dev/null || echo 0)
VLLM := .venv-vllm
RUN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(GPU)
# Two workers, each with its own server: much of the time is one process that starts, which keeps one core busy.
PYTEST := $(RUN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-real browser lint serve web lab notebooks bench bench-setup audit clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP) ## environment in .venv (GPU=1 for the official CUDA packages)

$(STAMP): pyproject.toml requirements/cpu.txt requirements/gpu.txt requirements/sglang.txt requirements/dev.txt requirements/setup.py
	@mkdir -p $(VENV) && echo $(GPU) > $(VENV)/.gpu && rm -f $(VENV)/.ready-*
	$(PYTHON) requirements/setup.py --venv $(VENV) $(if $(filter 1,$(GPU)),--gpu)
	@touch $@

demo: $(STAMP) ## customers answered by a real SGLang server (MODEL=folder for another model)
	@$(RUN)/csproto demo $(if $(MODEL),--model $(MODEL))

test: $(STAMP) lint ## lint, types and all tests
	$(PYTEST)

test-all: $(STAMP) lint ## the long suites too
	CSPROTO_LONG=1 $(PYTEST) -m ""

test-real: $(STAMP) ## the desk with a real model (CSPROTO_REAL_MODEL=folder), about ten minutes
	$(RUN)/pytest -m real

browser: ## install what the browser tests need: Chromium, a Chinese font, npm (Debian or Ubuntu, as root)
	@requirements/browser.sh

lint: $(STAMP) ## ruff and mypy
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy src

serve: $(STAMP) ## keep a server running for the other commands and the notebooks
	$(RUN)/csproto serve

web: $(STAMP) ## the assistant as a web page and JSON API on this machine
	$(RUN)/csproto web

lab: $(STAMP) ## JupyterLab with the notebooks
	$(RUN)/jupyter lab notebooks

notebooks: $(STAMP) ## execute every notebook in place
	for n in notebooks/*.ipynb; do $(RUN)/jupyter execute --inplace $$n || exit 1; done
	$(RUN)/nbstripout --keep-output --keep-count notebooks/*.ipynb

bench-setup: $(VLLM)/.ready ## vLLM for comparisons, in an environment of its own (a CPU build)

$(VLLM)/.ready: requirements/vllm.txt requirements/setup.py
	$(PYTHON) requirements/setup.py --venv $(VLLM) --vllm
	@touch $@

bench: $(STAMP) $(VLLM)/.ready ## measure against vLLM on the same work (half an hour on two quiet cores)
	$(RUN)/csproto bench --out data/benchmarks/cpu.json

audit: $(STAMP) ## known faults of the pinned packages, and a list of all (SBOM) in build/sbom.json
	@mkdir -p build
	$(PYTHON) -m venv build/audit && build/audit/bin/pip install -q pip-audit==2.10.1 cyclonedx-bom==7.5.0
	build/audit/bin/cyclonedx-py environment $(VENV) --output-format JSON --output-file build/sbom.json
	build/audit/bin/pip-audit --path $(wildcard $(VENV)/lib/python3*/site-packages) --progress-spinner off

clean: ## remove the environments and everything built
	rm -rf $(VENV) $(VLLM) build
