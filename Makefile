# quickstart: the whole pipeline on the embedded task.   test: lint, types and tests.   setup: the environment alone.   docs: the site.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart setup test slow random chaos lint docs clean

quickstart: $(VENV)/core.done
	$(BIN)/prefopt run quickstart

setup: $(VENV)/dev.done

test: setup lint
	$(BIN)/python -m pytest --quiet --numprocesses auto --maxprocesses 4 --dist loadgroup

slow: setup
	$(BIN)/python -m pytest -p randomly -m slow

random: setup
	$(BIN)/python -m pytest -p randomly --quiet --numprocesses auto --maxprocesses 4 --dist loadgroup

chaos: setup
	$(BIN)/python tests/chaos/everything.py --jobs 2
	$(BIN)/python tools/reliability.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# into build/site; a warning is an error, nothing is fetched
docs: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo build/site/index.html

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[dev,suite]'
	touch $@ $(VENV)/core.done

$(VENV)/docs.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
