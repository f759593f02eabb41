# Every target sets up what it needs inside .venv/ and is quick the second time. Assumed: python3 >= 3.11, make and,
# for torch.compile on a CPU, a C++ compiler. `make PYTHON=/path/to/python3.12 demo` takes another Python.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
export PYTHON ?= python3

# Setting up is done when the stamp for these very inputs, in this very folder, is there.
INPUTS    := $(shell { echo "$(CURDIR)"; cat locks/install.sh locks/uv.txt locks/dev.txt locks/gpu.txt pyproject.toml; } | cksum | tr ' ' '-')
STAMP     := .venv/.installed-$(INPUTS)
GPU_STAMP := .venv/.installed-gpu-$(INPUTS)
BIN       := .venv/bin

.PHONY: help setup setup-gpu demo test test-setup test-gpu check lint types architecture locks-in-step generated-in-step format lock bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(if $(wildcard $(GPU_STAMP)),,$(STAMP)) ## Make .venv, from which .venv/bin/inferbench runs
	@:

setup-gpu: $(GPU_STAMP) ## The same, with what measuring on an NVIDIA GPU needs besides
	@:

$(STAMP):
	@locks/install.sh $@ locks/dev.txt

# gpu.txt is dev.txt with the GPU's libraries added. The extra `tensorrt` is in no lock: its packages fetch their
# libraries from their vendor's own index while they install. Where that can be reached, after `make setup-gpu`:
# .venv/bin/python -m pip install tensorrt
$(GPU_STAMP):
	@locks/install.sh $@ locks/gpu.txt

demo: setup ## Measure ResNet-50 on this machine with three backends
	@echo "Running: inferbench run examples/demo.yaml"
	@$(BIN)/inferbench run examples/demo.yaml || [ $$? -eq 4 ] # 4: a claim does not hold here, which is an answer

test: setup ## Run every test that this machine can run
	@echo "Unit tests: nothing outside the process..."
	@$(BIN)/python -m pytest tests/unit
	@echo "Runner tests: torch, ONNX Runtime and real processes..."
	@$(BIN)/python -m pytest tests/runner --numprocesses 2 --dist worksteal

test-setup: ## Install what only tests need from Debian: Chromium, to look at report.html (needs root)
	@command -v chromium >/dev/null || { echo "Installing Debian's chromium..." && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; }

test-gpu: setup-gpu ## Run the tests that need an NVIDIA GPU
	@$(BIN)/python -m pytest tests/gpu -m gpu

check: lint types architecture locks-in-step generated-in-step ## Lint, types, architecture, locks and generated files

lint: setup
	@echo "Lint and format..."
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "Some files are not formatted: run \`make format\`" >&2; exit 1; }

types: setup
	@echo "Types..."
	@$(BIN)/mypy --no-error-summary

architecture: setup
	@echo "Architecture: who may import whom..."
	@$(BIN)/lint-imports --no-logo >.venv/architecture.log || { cat .venv/architecture.log >&2; exit 1; }

locks-in-step: setup
	@echo "Locks in step with pyproject.toml..."
	@$(BIN)/python locks/lock.py --check

generated-in-step: setup
	@$(if $(wildcard crds/*.yaml),echo "Generated files in step..." && $(BIN)/inferbench schema --check,:)

format: setup ## Format the code and mend what the linter can mend
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

lock: setup ## Make locks/ anew from pyproject.toml; UPGRADE=1 takes the newest versions
	@$(BIN)/python locks/lock.py $(if $(UPGRADE),--upgrade)

bench: setup ## List the benchmarks of inferbench itself
	@ls benchmarks/*.py 2>/dev/null | sed 's|^|  $(BIN)/python |' || true

clean: ## Remove what the targets made, but no results
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
