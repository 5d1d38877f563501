# Every target makes what it needs: a fresh machine with Python, pip and make is enough.
#   make demo    see ReAct separate digits from other images
#   make test    run all tests
#   make lint | docs | bench | clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := plot test lint docs bench
stamp = $(VENV)/.installed-$(1)

.PHONY: demo test lint docs bench clean

demo: $(call stamp,plot)
	$(BIN)/python -m reactood demo

test: $(call stamp,test)
	$(BIN)/python -m pytest -n auto $(ARGS)

lint: $(call stamp,lint)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg
	$(BIN)/codespell

docs: $(call stamp,docs)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(call stamp,bench)
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/memory_map.py
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/imagenet_sample.py
	$(BIN)/python benchmarks/surrogates.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/monitoring.py
	$(BIN)/python benchmarks/streams.py
	$(BIN)/python benchmarks/distributed.py

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build docs/auto_examples docs/api

# One stamp per extra: a second call of a target installs nothing.
$(EXTRAS:%=$(VENV)/.installed-%): $(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
