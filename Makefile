# Everything a contributor runs. Each target sets up what it needs by itself: a Debian with make and python3 >= 3.11
# is enough. `make PYTHON=python3.13 test` takes another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Test processes side by side; tests take free ports and temporary directories of their own, so any number is right.
JOBS ?= auto
# More for pytest: make test PYTEST_ARGS="tests/unit -x"
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench bench-check bench-baseline sim planted-bugs soak fuzz clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## Make the virtual environment (the other targets do it when needed)
	@PYTHON='$(PYTHON)' sh tools/setup.sh '$(VENV)'

demo: setup ## Start a service, render a film as a batch job on two local nodes, stop again
	@$(BIN)/python examples/mandelbrot/demo.py $(DEMO_ARGS)

test: setup ## Run every test; what was skipped is listed at the end
	@sh tools/test_packages.sh
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: setup ## Style, types, import rules, purity of the pure rooms
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy tools examples bench
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python tools/check_purity.py

bench: setup ## Measure everything against limits and peers, and write docs/reference/performance.md; see there
	@$(BIN)/python -m bench $(BENCH_ARGS)

bench-check: setup ## Compare a few ratios to limits and peers with those stored; fails on a loss of more than 20 %
	@$(BIN)/python -m bench --quick --check $(BENCH_ARGS)

bench-baseline: setup ## Measure those ratios and store them in bench/baseline.json
	@$(BIN)/python -m bench --quick --store-baseline $(BENCH_ARGS)

sim: setup ## Simulate the cluster with faults over many seeds
	@$(BIN)/python -m millpond.sim.run $(SIM_ARGS)

planted-bugs: setup ## See how many seeds the simulation needs to notice each of a list of planted bugs
	@$(BIN)/python tools/planted_bugs.py $(PLANTED_ARGS)

soak: setup ## Thousands of real tasks while service and nodes are killed, for as long as SOAK_ARGS="--minutes 10" says
	@$(BIN)/python -m tests.process.soak $(SOAK_ARGS)

fuzz: setup ## Requests made at random from the specification, when that is at hand: MILLPOND_FUZZ_EXAMPLES of each kind
	@MILLPOND_FUZZ_EXAMPLES="$${MILLPOND_FUZZ_EXAMPLES:-1000}" $(BIN)/python -m pytest -n $(JOBS) --timeout 3600 tests/api/test_fuzz.py

clean: ## Remove the environment, caches and everything under out/
	@rm -rf '$(VENV)' .cache out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests tools examples bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
