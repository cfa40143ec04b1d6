SHELL := /bin/bash
PYTHON ?= python3
# Small networks get slower with more than one thread
export OMP_NUM_THREADS := 1
NEWEST := .venv/bin/python
OLDEST := .venv-oldest/bin/python
SOURCES := sb3_s2pg tests examples setup.py

.NOTPARALLEL:
.PHONY: demo test test-newest test-oldest format lint type clean

# Train S2PG-SAC with hidden velocities beside memoryless and full-state SAC, print a table and draw the curves
demo: .venv/installed
	$(NEWEST) examples/demo.py

# Both ends of the supported range at the same time; the oldest one is printed when both have finished
test: .venv/installed .venv-oldest/installed
	@$(OLDEST) -m pytest > .venv-oldest/tests.log 2>&1 & oldest=$$!; \
	$(NEWEST) -m pytest; newest_status=$$?; \
	wait $$oldest; oldest_status=$$?; \
	echo; echo "===== oldest supported stack: stable-baselines3 2.2.1, gymnasium 0.29.1 ====="; \
	cat .venv-oldest/tests.log; \
	exit $$((newest_status | oldest_status))

test-newest: .venv/installed
	$(NEWEST) -m pytest

test-oldest: .venv-oldest/installed
	$(OLDEST) -m pytest

format: .venv/installed
	$(NEWEST) -m ruff check --fix --select I $(SOURCES)
	$(NEWEST) -m ruff format $(SOURCES)

lint: .venv/installed
	$(NEWEST) -m ruff check $(SOURCES)
	$(NEWEST) -m ruff format --check $(SOURCES)

type: .venv/installed
	$(NEWEST) -m mypy

# imitation asks for stable-baselines3 2.2, and for pygame, whose place pygame-ce has taken: without its dependencies
.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(NEWEST) -m pip install --quiet --constraint constraints.txt torch
	$(NEWEST) -m pip install --quiet --constraint constraints.txt --editable ".[tests,dev]"
	$(NEWEST) -m pip install --quiet --constraint constraints.txt --no-deps imitation
	touch $@

.venv-oldest/installed: setup.py constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST) -m pip install --quiet --constraint constraints-oldest.txt torch
	$(OLDEST) -m pip install --quiet --constraint constraints-oldest.txt --editable ".[tests]"
	$(OLDEST) -m pip install --quiet --constraint constraints-oldest.txt --no-deps imitation
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info
