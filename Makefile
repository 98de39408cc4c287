SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo examples test docs unasync lint format lock dist bench gpu results clean

# Python 3.11 or 3.12, whichever is found first; PYTHON=... overrides.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	"$$p" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo "$$p"; break; }; done)
MEMBERS := client build_engines server perf plansmith
# What `make lock` pins of the members' extras: all but pytorch, as CONTRIBUTING.md says.
LOCKED_EXTRAS := bfloat16 cli cuda keras opentelemetry openvino pipelines prometheus remote rtx s3 signing sklearn tensorrt triton
# Where this is set, each of the many programs that are started would compile all its imports anew.
unexport PYTHONDONTWRITEBYTECODE
# Of programs that import ONNX Runtime before plansmith, which turns its telemetry off.
export ORT_DISABLE_TELEMETRY ?= 1
BIN := .venv/bin
STAMP := .venv/.installed

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the pinned versions and the five members, editable

# uv from PATH, else pip brings it into .venv.
$(STAMP): requirements.lock pyproject.toml $(MEMBERS:%=%/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "plansmith needs Python 3.11 or 3.12: install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv || { echo "the venv module is missing: on Debian, apt-get install python3-venv" >&2; exit 2; }
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "Installing the pinned versions into .venv"
	@uv=$$(command -v uv || echo $(BIN)/uv); \
	"$$uv" pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock; \
	"$$uv" pip install --quiet --python $(BIN)/python --no-deps $(MEMBERS:%=-e ./%)
	@touch $@

demo: $(STAMP) ## The main job: build the digits model, serve it with Triton, ask it, show what it saw
	@$(BIN)/python examples/digits/demo.py

examples: $(STAMP) ## Train, build, serve and ask: images, pages, sentences, audio, tables; needs PyTorch, espeak-ng
	@$(BIN)/python -c "import torch" 2>/dev/null || { echo "examples/pictures needs PyTorch: $(BIN)/python -m pip install torch" >&2; exit 2; }
	@command -v espeak-ng >/dev/null || { echo "examples/speech needs espeak-ng: on Debian, apt-get install espeak-ng" >&2; exit 2; }
	@$(BIN)/python examples/pictures/pictures.py
	@$(BIN)/python examples/pictures/features.py
	@$(BIN)/python examples/scenes/scenes.py
	@$(BIN)/python examples/pages/pages.py
	@$(BIN)/python examples/search/search.py
	@$(BIN)/python examples/search/sentiment.py
	@$(BIN)/python examples/speech/speech.py
	@$(BIN)/python examples/speech/words.py
	@$(BIN)/python examples/tabular/tabular.py
	@$(BIN)/python examples/recommend/recommend.py
	@$(BIN)/python examples/mixed/mixed.py

test: $(STAMP) ## Run every test, against real servers
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

docs: $(STAMP) ## Build the documentation site, with a check of every link: out/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

unasync: $(STAMP) ## Write the blocking faces of the client from the asynchronous ones
	@$(BIN)/python client/unasync.py

lint: $(STAMP) ## Check style, types and which room imports which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(MEMBERS:%=%/src) client/unasync.py examples perf/benchmarks/peers
	@$(BIN)/lint-imports --no-cache

format: $(STAMP) ## Rewrite the sources in the house style
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: $(STAMP) ## Measure the committed models, served and in process: out/bench/report.html
	@$(BIN)/python perf/benchmarks/committed_models.py

gpu: $(STAMP) ## Measure on this machine's NVIDIA GPU in ten minutes; DRY_RUN=1 tries the steps on the CPU
	@$(BIN)/python perf/gpu/gpu_check.py $(if $(DRY_RUN),--dry-run) $(if $(MODELS),--models $(MODELS))

results: $(STAMP) ## Repeat every published measurement, and rewrite the tables: an hour, nothing else running
	@$(BIN)/python perf/benchmarks/backend_overhead.py --output perf/results
	@$(BIN)/python perf/benchmarks/client_speed.py --output perf/results
	@$(BIN)/python perf/benchmarks/load_generator.py --output perf/results
	@$(BIN)/python perf/benchmarks/many_models.py --output perf/results
	@$(BIN)/python perf/benchmarks/searched_builds.py --output perf/results
	@$(BIN)/python perf/benchmarks/build_large_model.py
	@$(BIN)/python perf/benchmarks/tune_gain.py --output perf/results
	@$(BIN)/python perf/benchmarks/tune_search.py --output perf/results
	@$(BIN)/python perf/benchmarks/peers_table.py --output perf/results
	@$(BIN)/python perf/benchmarks/minilm_text.py --output perf/results
	@$(BIN)/python -c "import torch" 2>/dev/null || { echo "applications.py needs PyTorch: $(BIN)/python -m pip install torch" >&2; exit 2; }
	@$(BIN)/python perf/benchmarks/applications.py --output perf/results
	@$(BIN)/python perf/benchmarks/published_tables.py

dist: $(STAMP) ## Build wheels and sdists of all five distributions and their SBOM, for a release: dist/
	@rm -rf dist
	@for n in $(MEMBERS); do PLANSMITH_RELEASE=1 $(BIN)/python -m build --no-isolation --outdir dist ./$$n >/dev/null; echo "built $$n"; done
	@$(BIN)/cyclonedx-py requirements requirements.lock --output-reproducible --output-file dist/plansmith-sbom.cdx.json
	@echo "listed what is locked in dist/plansmith-sbom.cdx.json"

lock: ## Resolve requirements.lock anew
	@uv=$$(command -v uv || echo $(BIN)/uv); \
	"$$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url $(foreach n,client build server perf,--no-emit-package plansmith-$n) --group dev $(LOCKED_EXTRAS:%=--extra %) \
	  $(MEMBERS:%=%/pyproject.toml) -o requirements.lock

clean: ## Remove .venv, caches and everything else that was made here
	@rm -rf .venv out dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
