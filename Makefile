# `make demo` and `make test` set everything up themselves.
.DEFAULT_GOAL := help
BIN := .venv/bin
CODE := common client server tests bench demo

.PHONY: help setup system format check test demo bench lock dist clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1 \t\2/p' Makefile | expand -t 20

setup: ## the virtual environment in .venv, from the lock
	@tools/setup.sh

system: ## nginx, strace and the like: installed when root, else named
	@tools/system-packages.sh

format: setup ## format the code
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

check: setup ## format, lint, types and import rules
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy common client server tests bench demo
	$(BIN)/lint-imports

test: setup system check ## every check and every test, with branch coverage
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

demo: setup ## push two builds of this machine's userland, pull, swap, roll back
	$(BIN)/python demo/demo.py $(DEMO_TREE)

bench: setup system ## real trees, side by side with ostree (as root; downloads about 1 GB)
	$(BIN)/python bench/trees.py
	$(BIN)/python bench/compare.py

lock: ## pin the dependencies anew
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
		--group dev --strip-extras --allow-unsafe -o requirements/dev.lock pyproject.toml

dist: setup ## the wheel
	$(BIN)/python -m hatchling build

clean: ## remove what the other targets made
	rm -rf .venv dist build .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
