# r1: the whole recipe at miniature scale.  test: the tests.  Both set up .venv first.
# small: a real base on one GPU.
# bench: each figure of benchmarks/results.jsonl that this machine can measure.
# system: tests with real servers and a browser (Chromium).  chaos: 50 kills, and what comes out is the same.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

r1: $(VENV)/installed
	$(BIN)/r1 run micro

small: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[small]'
	$(BIN)/r1 run small

test: $(VENV)/installed
	$(BIN)/python -m pytest

system: $(VENV)/installed
	$(BIN)/python -m pytest -m system tests/system

chaos: $(VENV)/installed
	$(BIN)/python -m tests.chaos --kills 50

check: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks

seeds: $(VENV)/installed
	$(BIN)/r1 run seeds
	rm -rf build/seeds && mkdir -p build
	$(BIN)/r1 export seeds/base build/seeds/base
	$(BIN)/r1 export seeds/student_base build/seeds/student

$(VENV)/installed: requirements.lock requirements-nodeps.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-nodeps.lock -e .
	touch $@

.PHONY: r1 small test system chaos check bench seeds
