# Every target does its own set-up in .venv; python3 (3.11 or newer) with venv, make and pip are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# A stamp says that an installation is whole; it is made again when the requirements change.
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev
DOCS_READY := $(VENV)/.ready-docs
ORT_123 := $(VENV)/ort-1.23
OPTIMUM := $(VENV)/optimum-2.3
# Each of one thread, with its own exports; make test PYTEST_ARGS="-n 0 --pdb" uses none.
TEST_PROCESSES ?= 2
GPU := .venv-gpu/bin
GPU_READY := .venv-gpu/.ready
INPUTS := pyproject.toml constraints.txt
CPP := $(wildcard runtime/neo_edge_runtime/cpu/src/*.h runtime/neo_edge_runtime/cpu/src/*.cpp tests/runtime/cpu_kernels/*.cpp)
TEST_ENVIRONMENT = OMP_NUM_THREADS=1 NEO_EDGE_ORT_123=$(CURDIR)/$(ORT_123) NEO_EDGE_OPTIMUM=$(CURDIR)/$(OPTIMUM)
EVIDENCE := goldens batch_equality batch_cost cpu_speed prepacked_cache bundle_speed step_overhead export_scale full_2b nano_accuracy killed_updates quantize_scale quantized_accuracy kernel_accuracy outliers killed_exports engine_cases fuzz video_seeking video_preprocessing video_leaks live_equality live_speed live_window live_policies constrained_steps
PEERS := quantizers:accuracy quantizers:speed llama_cpp

.PHONY: gpu-check setup demo test engine-cases coverage check docs evidence bench peers clean

setup: $(DEV_READY)

# The demo exports with torch and answers without it; a development installation has all that it needs.
demo: $(if $(wildcard $(DEV_READY)),$(DEV_READY),$(DEMO_READY))
	$(BIN)/neo-edge demo

test: $(DEV_READY) $(ORT_123)/.ready $(OPTIMUM)/.ready
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -m "not engine_cases" -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

# Builds every engine that TensorRT-RTX can build without a GPU, and prints the table: some minutes.
engine-cases: $(DEV_READY)
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -m engine_cases tests/export/test_engine_cases.py

coverage: $(DEV_READY) $(ORT_123)/.ready $(OPTIMUM)/.ready
	$(TEST_ENVIRONMENT) $(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage report --skip-covered --show-missing

check: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy
	$(BIN)/pyright

# A warning ends it. The pages are docs/*.md, the reference is from the docstrings.
docs: $(DOCS_READY)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -c docs/sphinx docs build/docs
	@echo "wrote build/docs/index.html"

# All of them run, also behind one that missed; docs/benchmarks.md says what each prints.
evidence: $(DEV_READY)
	@missed=; for script in $(EVIDENCE); do \
	  echo "== $$script"; $(BIN)/python tests/evidence/$$script.py || missed="$$missed $$script"; \
	done; [ -z "$$missed" ] || { echo "missed:$$missed"; exit 1; }

# The same, written into docs/benchmarks.md; EVIDENCE="cpu_speed quantized_accuracy:int4" runs one, and a part of another.
bench: $(DEV_READY)
	$(BIN)/python tests/evidence/write_benchmarks.py $(EVIDENCE)

# All that a GPU can show, in eight minutes at most. WHEELS=folder: from its wheels alone, in an environment of its own (docs/offline-gpu.md).
gpu-check: $(if $(WHEELS),$(GPU_READY),$(DEV_READY))
	$(if $(WHEELS),$(GPU),$(BIN))/python tests/gpu/gpu_check.py $(GPU_CHECK_ARGS)

# Beside other people's programs, which get environments of their own: the first time takes 20 minutes and 2 GB.
peers: $(DEV_READY)
	$(BIN)/python tests/evidence/write_benchmarks.py --scripts benchmarks $(PEERS)

clean:
	rm -rf build dist out .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) found; Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): $(INPUTS) | $(BIN)/python
	$(PIP) -e ".[cpu,export]"
	touch $@

$(DEV_READY): $(INPUTS) | $(BIN)/python
	$(PIP) -e ".[dev]"
	touch $@

$(DOCS_READY): $(DEV_READY)
	$(PIP) -e ".[dev,docs]"
	touch $@

# Every wheel in the folder, whatever it is: it was gathered for this machine.
$(GPU_READY):
	$(PYTHON) -m venv $(if $(SYSTEM_SITE),--system-site-packages) .venv-gpu
	$(GPU)/python -m pip install --disable-pip-version-check --no-index --find-links $(WHEELS) $(wildcard $(WHEELS)/*.whl)
	touch $@

# The newest ONNX Runtime for Python 3.10, which JetPack 6 has; it has no wheel for Python 3.14.
$(ORT_123)/.ready: | $(BIN)/python
	rm -rf $(ORT_123) && mkdir -p $(ORT_123)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))' && \
	  $(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --target $(ORT_123) onnxruntime==1.23.2 || \
	  $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 14))'
	touch $@

# Optimum without its dependencies: its command line needs none of them, and transformers alone has 126 MB.
$(OPTIMUM)/.ready: | $(BIN)/python
	rm -rf $(OPTIMUM) && mkdir -p $(OPTIMUM)
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --target $(OPTIMUM) optimum==2.3.0
	touch $@
