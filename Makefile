# Every target sets up what it needs inside .venv/ and is quick the second time. Assumed: python3 >= 3.11, make and,
# for torch.compile on a CPU, a C++ compiler. `make PYTHON=/path/to/python3.12 demo` takes another Python.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
export PYTHON ?= python3
# Without kept bytecode each process compiles the source of every library that it imports, PyTorch's too: seconds a cell.
unexport PYTHONDONTWRITEBYTECODE

# Setting up is done when the stamp for these very inputs, in this very folder, is there.
INPUTS    := $(shell { echo "$(CURDIR)"; cat locks/install.sh locks/uv.txt locks/dev.txt locks/gpu.txt locks/triton.txt pyproject.toml; } | cksum | tr ' ' '-')
STAMP     := .venv/.installed-$(INPUTS)
GPU_STAMP := .venv/.installed-gpu-$(INPUTS)
BIN       := .venv/bin

.PHONY: help setup setup-gpu demo demo-cluster clean-cluster images test test-setup e2e-setup test-tools test-models test-thorough test-pythons test-tensorrt test-gpu
.PHONY: check lint types architecture locks-in-step generated-in-step generated format lock bench clean clean-tools

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(if $(wildcard $(GPU_STAMP)),,$(STAMP)) ## Make .venv, from which .venv/bin/inferbench runs
	@:

setup-gpu: $(GPU_STAMP) ## The same, with what measuring on an NVIDIA GPU needs besides
	@:

$(STAMP):
	@locks/install.sh $@ locks/dev.txt locks/triton.txt

# gpu.txt is dev.txt with the GPU's libraries added. The extra `tensorrt` is in no lock: its packages fetch their
# libraries from their vendor's own index while they install. Where that can be reached, after `make setup-gpu`:
# .venv/bin/python -m pip install tensorrt
$(GPU_STAMP):
	@locks/install.sh $@ locks/gpu.txt locks/triton.txt

demo: setup ## Measure ResNet-50 on this machine with three backends
	@echo "Running: $(BIN)/inferbench run examples/demo.yaml"
	@$(BIN)/inferbench run examples/demo.yaml || [ $$? -eq 4 ] # 4: a claim does not hold here, which is an answer

test: setup ## Run every test that this machine can run
	@echo "Unit tests: nothing outside the process..."
	@$(BIN)/python -m pytest tests/unit --numprocesses 2 --dist worksteal
	@echo "Runner tests: torch, ONNX Runtime and real processes..."
	@$(BIN)/python -m pytest tests/runner --numprocesses 2 --dist loadfile --no-loadscope-reorder
	@$(BIN)/python -m tests.kubernetes build || [ "$$CI" != true ] # else the tests that need it skip, and say why
	@echo "Cluster tests: a real Kubernetes, its nodes played; and end-to-end tests: a real node, images and pods..."
	@$(BIN)/python -m pytest tests/e2e tests/cluster --numprocesses 7 --no-loadscope-reorder # they wait a lot

test-tools: setup ## Build the Kubernetes, Helm and kwok of the tests, once (10 to 20 minutes of two CPUs)
	@$(BIN)/python -m tests.kubernetes build

test-setup: ## Install what only tests need from Debian: Chromium, to look at report.html (needs root)
	@command -v chromium >/dev/null || { echo "Installing Debian's chromium..." && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; }

e2e-setup: ## Install what real pods need from Debian: containerd, buildah, Prometheus (needs root; starts nothing)
	@tests/e2e/setup.sh

images: setup ## Build the images with buildah, over Debian; FULL=1 the runner with torch too (needs make e2e-setup)
	@$(BIN)/python -m tests.kubernetes_node.images $(if $(FULL),--full)

demo-cluster: setup ## Start a real Kubernetes here and run the demonstration on it (needs root, make e2e-setup)
	@$(BIN)/python -m tests.kubernetes_node.demo up $(if $(FULL),--full)

clean-cluster: setup ## Take that Kubernetes away
	@$(BIN)/python -m tests.kubernetes_node.demo down

MODELS := resnet50 mobilenet_v3_large vit_b_16 efficientnet_b0 swin_t convnext_tiny regnet_y_400mf densenet121 efficientnet_lite0

# Each model in a process of its own; what they take, some GB, is removed again.
test-models: setup ## Convert nine real models to every precision and judge them; writes docs/results/models.md
	@rm -rf .venv/models
	@for model in $(MODELS); do \
		echo "Converting $$model to every precision, and judging it (minutes)..."; \
		INFERBENCH_TEST_MODELS=$$model INFERBENCH_TEST_CACHE=.venv/models/cache $(BIN)/python -m pytest tests/runner/test_convert.py tests/runner/test_tensorrt_rtx.py \
			-k "near_to_fp32 or builder_takes" --basetemp=.venv/models/work --junitxml=.venv/models/$$model.xml \
			-o junit_family=xunit1 -o timeout=3600 || true; \
		rm -rf .venv/models/work .venv/models/cache; \
	done
	@$(BIN)/python benchmarks/models.py .venv/models $(MODELS) >docs/results/models.md

PYTHONS := python3.11 python3.12 python3.13 python3.14

test-pythons: setup ## Plan every example under other Pythons that are here, and compare the hashes (seconds)
	@$(BIN)/python -m tests.pythons $(PYTHONS)

test-thorough: setup ## Read 10,000 generated files, documents and bytes of each kind (minutes)
	@INFERBENCH_HYPOTHESIS=thorough $(BIN)/python -m pytest tests/unit/contract/test_document.py --numprocesses 2 -o timeout=3600

TENSORRT := .venv/tensorrt

# Not part of `make test`: see tests/tensorrt/fetch.py for what is fetched, and from where.
test-tensorrt: setup ## Run the TensorRT backend on NVIDIA's libraries as far as no GPU is needed (fetches 560 MB)
	@$(BIN)/python -m tests.tensorrt.fetch
	@INFERBENCH_TENSORRT_BINDINGS=$(TENSORRT)/10/site:$(TENSORRT)/11/site \
		$(BIN)/python -m pytest tests/tensorrt tests/runner/test_tensorrt_names.py -k "real_libraries or every_name"

test-gpu: setup-gpu ## Run the tests that need an NVIDIA GPU
	@$(BIN)/python -m pytest tests/gpu -m gpu -rs

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

CRD := crds/inferbench.dev_inferencebenchmarks.yaml

generated-in-step: setup
	@echo "Generated files in step..."
	@$(BIN)/inferbench schema --check
	@cmp $(CRD) charts/inferbench/files/$(CRD)
	@$(BIN)/inferbench schema --crd --allow-privileged-pod-templates | cmp - charts/inferbench/files/crds-privileged/$(notdir $(CRD))
	@$(BIN)/python docs/resource.py --check

generated: setup ## Make crds/, the chart's copies of them and the tables of docs/resource.md anew
	@$(BIN)/inferbench schema --crd >$(CRD)
	@cp $(CRD) charts/inferbench/files/crds/
	@$(BIN)/inferbench schema --crd --allow-privileged-pod-templates >charts/inferbench/files/crds-privileged/$(notdir $(CRD))
	@$(BIN)/python docs/resource.py

format: setup ## Format the code and mend what the linter can mend
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

lock: setup ## Make locks/ anew from pyproject.toml; UPGRADE=1 takes the newest versions
	@$(BIN)/python locks/lock.py $(if $(UPGRADE),--upgrade)

bench: setup ## List the benchmarks of inferbench itself
	@ls benchmarks/*.py benchmarks/gpu/all.py | sed 's|^|  $(BIN)/python |'; ls benchmarks/gpu/pack.sh | sed 's|^|  |'

clean: ## Remove what the targets made, but no results
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-tools: ## Remove the built Kubernetes, Helm and kwok, and what they were built from
	$(if $(wildcard $(BIN)/python),$(BIN)/python -m tests.kubernetes clean)
