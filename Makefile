# Everything a contributor runs. Nothing needs to be installed first but python3, git and make.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
SOURCES := common client server tests bench demo tools
JOBS ?= 2
export PYTHON

.PHONY: help setup system format check test demo bench man dist clean lock upgrade

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make or refresh .venv from the locks
	@tools/setup.sh

system: ## Install (as root) or name the system packages that the tests and the demo use
	@tools/system-packages.sh tests

format: setup ## Format, and fix what the linter can fix by itself
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

check: setup ## Format, lint, strict types, import rules; changes nothing
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports

test: setup system check ## Every check and every test, with branch coverage
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report=term $(ARGS)

demo: setup ## The whole job: push, test, promote, pull by deltas, swap, roll back
	@tools/system-packages.sh demo || echo "hacktree: going on without them"
	demo/run.sh $(DEMO_TREE)

bench: setup ## Side by side with ostree on real trees, as root (long)
	@tools/system-packages.sh bench
	bench/run.sh

man: setup ## Manual pages in build/man/
	$(BIN)/python tools/man.py build/man

# Timestamps in it are the last commit's. Only here: what compiles Python in the tests would obey it.
dist: setup ## Source distribution and wheel in dist/
	SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}" \
		$(BIN)/python -m hatchling build -d dist

lock: ## Write requirements/*.lock from pyproject.toml; pins that still fit stay
	@tools/lock.sh

upgrade: ## Like lock, with the newest releases
	@tools/lock.sh --upgrade

clean: ## Remove everything that was built, .venv too
	rm -rf .venv build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
