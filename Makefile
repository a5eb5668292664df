# Everything starts from a bare checkout: each target sets up what it needs, once.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo
PACKAGES := openssl util-linux git chromium slurm-wlm slurmdbd munge mariadb-server postgresql btrfs-progs
COMMANDS := openssl setpriv git chromium slurmctld slurmdbd munged mariadbd psql mkfs.btrfs

.PHONY: demo ui test drills lint bench wheels clean

demo: $(VENV)/.installed
	$(BIN)/python -m hfassets.demo.run --home $(DEMO)

ui: $(VENV)/.installed
	$(BIN)/python -m hfassets.demo.ui --home $(DEMO)

# Three at a time: the tests of SLURM and of the service mostly wait, on a process each, while others have the third.
test: $(VENV)/.installed-dev $(VENV)/.packages lint
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

drills: $(VENV)/.installed-dev $(VENV)/.packages
	$(BIN)/python -m pytest -m drill

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m hfassets.demo.run --home build/lint --definitions-only
	DAGSTER_HOME=$(CURDIR)/build/lint/dagster HFASSETS_CATALOG=$(CURDIR)/build/lint/catalog.yaml \
		$(BIN)/dagster definitions validate -m hfassets.definitions --log-level warning

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

wheels: $(VENV)/.installed-dev
	$(BIN)/python scripts/check_wheels.py

clean:
	rm -rf $(VENV) $(DEMO) build data

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hfassets needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# pip would make the bytecode on one core. Some packages hold files that are no Python of today, which is no fault.
PIP := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	$(COMPILE)
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test,dev]'
	$(COMPILE)
	touch $(VENV)/.installed $@

# The tests of the web UI and of permissions need these; as an ordinary user they are left to the administrator and
# the tests that miss one say so.
$(VENV)/.packages: | $(BIN)/python
	for command in $(COMMANDS); do command -v $$command >/dev/null || missing=1; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(PACKAGES) >/dev/null; \
	fi
	touch $@
