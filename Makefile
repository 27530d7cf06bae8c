# The commands of the project. `make demo` and `make test` do all their own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Modules are compiled when they are first imported, once; most of what torch brings never are.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test run bench faults fuzz pocket sbom clean setup

demo: $(READY)
	$(BIN)/triage demo

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadfile -m 'not long_only'

run: $(READY)
	$(BIN)/triage --config triage.toml migrate
	$(BIN)/triage --config triage.toml run

# Without atheris, which has no wheel for some Pythons, coverage leads no search.
fuzz: $(READY)
	-$(BIN)/pip install --quiet --constraint constraints.txt --group fuzz
	$(BIN)/python -m tests.security.fuzz

bench: $(READY)
	$(BIN)/python -m tests.benchmarks --write

faults: $(READY)
	$(BIN)/python -m tests.assurance

sbom: $(READY)
	@mkdir -p dist
	$(BIN)/python -m tests.security.supply_chain > dist/sbom.cdx.json

pocket: $(READY)
	$(BIN)/python -m triage.pocket

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "triage needs Python 3.11 or newer; name one with PYTHON=/path/to/python3."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv is missing: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt pip
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --group dev --editable '.[learning]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
