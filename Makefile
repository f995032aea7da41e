# The two commands: `make run` shows the whole program at work, `make test` runs every check.
# Both start from a bare Python >= 3.11 with venv and pip.

VENV ?= .venv
BIN := $(VENV)/bin

# The first Python that is new enough and can make a virtual environment.
PYTHON ?= $(shell for each in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$each -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$each; break; }; done)

.PHONY: help run test lint docs bench faults simulate attack page lock audit lowest release-check clean

help: ## say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## show the whole round on a sample folder, or on SOURCE=/some/folder; FOLDER=/new/one is made for it
	@$(BIN)/kropotcli demo $(if $(SOURCE),--source "$$SOURCE") $(if $(FOLDER),--folder "$$FOLDER")

test: $(VENV)/.installed-dev ## every check: style, types, imports, tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(MAKE) --no-print-directory --keep-going --jobs=2 types tests

# Beside each other: many tests wait, and leave a processor free.
.PHONY: types tests
types: $(VENV)/.installed-dev
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadgroup

lint: $(VENV)/.installed-dev ## style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev ## the handbook and all pages as a site, in docs/_build
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

bench: $(VENV)/.installed-dev ## measure; the numbers in docs/performance.md come from here
	$(BIN)/python -m tests.bench

faults: $(VENV)/.installed-dev ## kills, power cuts, full disks, broken networks, fuzzers: half an hour; ends with a table
	$(BIN)/python -m tests.faults --everything

simulate: $(VENV)/.installed-dev ## the collector under a virtual clock; SEEDS=1000 runs that many histories
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000)

attack: $(VENV)/.installed-dev ## hostile values, clients, servers and database users: all of tests/attack, of which make test runs a sample
	KROPOT_TEST_ATTACK=all KROPOT_TEST_HYPOTHESIS=wide $(BIN)/python -m pytest -n auto --dist loadgroup tests/attack

page: $(VENV)/.installed-dev ## the page with 100,000 elements, its times at a million, and the screenshots in docs/images
	KROPOT_TEST_PAGE=all $(BIN)/python -m pytest -n 0 tests/browser
	$(BIN)/python -m tests.tools.screenshots

# uv reads the files that are there first: what pyproject.toml still allows stays as it is, but for UPGRADE=1.
LOCK = $(VENV)/tools/bin/uv pip compile --quiet --universal --fork-strategy fewest --python $(BIN)/python --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

lock: $(VENV)/tools/.installed ## write the lock files from pyproject.toml; UPGRADE=1 takes the newest releases
	$(LOCK) pyproject.toml --extra postgresql --extra mysql --extra paper --extra s3 --extra sftp --extra notify --output-file locks/run.txt
	$(LOCK) --group dev --constraint locks/run.txt --output-file locks/dev.txt
	$(LOCK) --group build --constraint locks/run.txt --constraint locks/dev.txt --output-file locks/build.txt
	$(LOCK) --group lock --constraint locks/run.txt --constraint locks/dev.txt --output-file locks/tools.txt

audit: $(VENV)/tools/.installed ## ask whether a release in the lock files has a known fault
	$(BIN)/python tests/tools/audit.py $(VENV)/tools/bin/pip-audit

lowest: $(VENV)/tools/.installed ## install the lowest releases that pyproject.toml allows, and run the tests with them; TESTS=... some
	$(VENV)/tools/bin/uv venv --quiet --clear --python $(BIN)/python $(VENV)/lowest
	$(VENV)/tools/bin/uv pip compile --quiet --python $(BIN)/python --resolution lowest-direct pyproject.toml \
		--extra postgresql --extra mysql --extra paper --extra s3 --extra sftp --extra notify --output-file $(VENV)/lowest.txt
	$(VENV)/tools/bin/uv pip install --quiet --python $(VENV)/lowest/bin/python --requirement $(VENV)/lowest.txt
	$(VENV)/tools/bin/uv pip install --quiet --python $(VENV)/lowest/bin/python --constraint $(VENV)/lowest.txt --group dev --editable .
	$(VENV)/lowest/bin/python -m pytest -n auto --dist loadgroup $(TESTS)

release-check: $(VENV)/.installed $(VENV)/tools/.installed ## build twice and compare, install the wheel on a bare system, live with it for a few minutes, and build the image
	$(BIN)/python -m tests.release --uv $(VENV)/tools/bin/uv

clean: ## forget the virtual environment and what the tools left
	rm -rf $(VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 with venv and pip was found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Only what the lock files name is installed, and only with the contents that they name. Some machines have neither
# wheels nor a compiler for pycurl and psycopg-binary; the program does without, and says so.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement

$(VENV)/.installed: pyproject.toml locks/run.txt locks/build.txt | $(BIN)/python
	@echo "installing into $(VENV)"
	@$(INSTALL) locks/run.txt || { \
		echo "trying without pycurl and psycopg-binary: transfers will be slower, and PostgreSQL needs libpq" >&2; \
		sed -e '/^pycurl==/,/[^\\]$$/d' -e '/^psycopg-binary==/,/[^\\]$$/d' locks/run.txt > $(VENV)/run.txt \
		&& $(INSTALL) $(VENV)/run.txt; }
	@$(INSTALL) locks/build.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: locks/dev.txt $(VENV)/.installed
	@echo "installing what the tests need"
	@$(INSTALL) locks/dev.txt
	@touch $@

# Not beside the program: the tools bring a pip of their own.
$(VENV)/tools/.installed: locks/tools.txt | $(BIN)/python
	@echo "installing the tools for the lock files"
	@$(BIN)/python -m venv $(VENV)/tools
	@$(VENV)/tools/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement locks/tools.txt
	@touch $@
