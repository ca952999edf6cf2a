# Every target sets up .venv by itself; Python 3.11 or newer is all that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
READY := $(VENV)/.ready

.PHONY: demo test check validate bench clean
.DEFAULT_GOAL := check

demo: $(READY)
	$(BIN)/gaussequiv demo $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(ONE_THREAD) $(BIN)/pytest -q -n 2 -m "not slow and not full"

test: $(READY)
	$(ONE_THREAD) $(BIN)/pytest -q -n 2 -m "not full"
	$(ONE_THREAD) $(BIN)/pytest -q -n 2 benchmarks --benchmark-disable -k "not euler and not plain and not scikit"

validate: $(READY)
	$(ONE_THREAD) $(BIN)/pytest -q -n 2 -m full
	$(BIN)/python benchmarks/validate.py

bench: $(READY)
	$(ONE_THREAD) $(BIN)/pytest -q benchmarks --benchmark-only --benchmark-columns=median,rounds --benchmark-sort=name

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# The constraint asks for the CPU build of torch. Where it is not to be had, the plain torch is installed instead.
$(READY): pyproject.toml constraints/cpu.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt -e '.[dev]' \
	  || { echo 'The CPU build of torch is not to be had here; installing the default one (it may pull gigabytes).'; \
	       $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; }
	touch $(READY)
