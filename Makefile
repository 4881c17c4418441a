# Everything a newcomer needs: python3 (3.11 or newer, with venv) and make. `.venv` is made at the first call.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$p; break; }; done)
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
DRAWS ?= 20
PYTEST = $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: help demo test conformance nightly format readme clean

help:
	@echo "make demo         calibrate, quantize and check a digit classifier, LiteRT included; writes demo_out/"
	@echo "make test         ruff, mypy and the tests (QSIM_MODELS=<folder of real models> adds those that need them)"
	@echo "make conformance  all generated single-op models, DRAWS=20 each; goes on where it stopped; writes experiments/results/conformance.json"
	@echo "make nightly      everything, the long runs included"
	@echo "make format       lay out the code; make readme: rewrite the README's generated table; make clean: remove .venv and caches"

demo: $(READY)
	$(BIN)/python -m experiments.demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

conformance: $(READY)
	$(PYTEST) --rows all --draws $(DRAWS) --work .conformance tests/test_conformance.py tests/test_recurrent.py tests/test_blockwise.py

nightly: $(READY)
	$(PYTEST) --rows all --draws $(DRAWS) -m "nightly or not nightly"

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: $(READY)
	$(BIN)/python -m tests.support_table

clean:
	rm -rf $(VENV) .conformance .jax_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "qsim needs Python 3.11 or newer, and there is $$(python3 --version 2>/dev/null || echo no python3) here:" \
	  "install one, or name it with 'make PYTHON=/path/to/python3 ...'." >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "qsim needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' cannot make virtual environments:" \
	  "install its venv module (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[test]'
	@touch $@

.DEFAULT:
	@echo "There is no target '$@'; 'make help' lists them." >&2; exit 2
