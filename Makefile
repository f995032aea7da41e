# The two commands: `make run` shows the whole program at work, `make test` runs every check.
# Both start from a bare Python >= 3.11 with venv and pip.

VENV ?= .venv
BIN := $(VENV)/bin

# The first Python that is new enough and can make a virtual environment.
PYTHON ?= $(shell for each in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$each -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$each; break; }; done)

.PHONY: help run test lint bench faults simulate clean

help: ## say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## show the whole round on a sample folder, or on SOURCE=/some/folder; FOLDER=/new/one is made for it
	@$(BIN)/kropotcli demo $(if $(SOURCE),--source "$$SOURCE") $(if $(FOLDER),--folder "$$FOLDER")

test: lint ## every check: style, types, imports, tests
	$(BIN)/python -m pytest -n auto --dist loadgroup

lint: $(VENV)/.installed-dev ## style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev ## measure; the numbers in docs/performance.md come from here
	$(BIN)/python -m tests.bench

faults: $(VENV)/.installed-dev ## kills, power cuts, full disks, broken networks, fuzzers: half an hour; ends with a table
	$(BIN)/python -m tests.faults --everything

simulate: $(VENV)/.installed-dev ## the collector under a virtual clock; SEEDS=1000 runs that many histories
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000)

clean: ## forget the virtual environment and what the tools left
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 with venv and pip was found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# pycurl is the one requirement that some machines have neither a wheel nor a compiler for; the program then falls back
# to a slower transfer engine, and says so.
$(VENV)/.installed: pyproject.toml tests/tools/requirements.py | $(BIN)/python
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . || { \
		echo "trying without pycurl: transfers will be slower" >&2; \
		$(BIN)/python tests/tools/requirements.py --without pycurl > $(VENV)/requirements.txt \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/requirements.txt \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .; }
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what the tests need"
	@$(BIN)/python tests/tools/requirements.py --dev --without pycurl > $(VENV)/requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/requirements-dev.txt
	@touch $@
