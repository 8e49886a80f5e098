# Every target makes its own .venv from constraints.txt on first use and reuses it afterwards.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Constraints hold for the build backend too, which pip installs in an environment of its own.
PIP    := PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip

.PHONY: demo test check bench clean

demo: $(READY)
	$(BIN)/dhs demo --out demo

test: $(READY)
	@mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --junitxml=build/junit.xml $(TESTARGS)

check: $(READY)
	scripts/check $(BIN)

bench: $(READY)
	$(BIN)/python -m benchmarks.decode
	$(BIN)/python -m benchmarks.bootstrap
	$(BIN)/python -W ignore -m benchmarks.loader
	$(BIN)/python -W ignore -m benchmarks.verify --pairs 50000
	$(BIN)/python -m benchmarks.bricks
	$(BIN)/python -W ignore -m benchmarks.score
	$(BIN)/python -W ignore -m benchmarks.injection

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --editable '.[dev]'
	$(PIP) install --quiet --no-deps lenscat  # a table of known lenses; its own dependencies are not needed
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist
