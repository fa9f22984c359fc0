# `make` alone tells what there is. Everything works from a fresh clone; what is done already is not done again.
.DEFAULT_GOAL := help
.PHONY: help setup venv demo check test lab-up lab-down bench lock
MESHSTRAP := uv run --no-sync meshstrap
PYINFRA := uv run --no-sync pyinfra
PYTEST := uv run --no-sync pytest
TIERS := tests/browser tests/api tests/node tests/lab
# Hundreds of short runs: without its bytecode each would take a second more to start, whatever this shell is set to.
export PYTHONDONTWRITEBYTECODE :=
LAB := $(or $(MESHSTRAP_LAB),.lab)

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: lab-up ## The main job on the lab: bare nodes -> cluster -> Istio -> canary, proved
	$(PYINFRA) inventory.py deploys/site.py -y
	$(PYINFRA) inventory.py deploys/canary.py -y

# A machine of two cores with a cluster of two nodes inside loses a packet now and then. What failed is run once more by
# itself, and both runs are in the log: what fails twice has failed. A proof is never repeated so, only its test.
test: check setup ## Every test tier: unit, browser, api, node, lab
	@set -e; \
	trap 'exit 130' INT TERM; \
	$(MESHSTRAP) lab build; \
	if [ ! -e '$(LAB)/nodes.yaml' ]; then trap '$(MESHSTRAP) lab down' EXIT; fi; \
	$(MESHSTRAP) lab up; \
	$(PYTEST) $(TIERS) || { echo "What failed is run once more, alone:"; $(PYTEST) --last-failed $(TIERS); }

check: venv ## Style, types, layers and unit tests, in under a minute
	uv run --no-sync ruff check --quiet
	uv run --no-sync ruff format --check --quiet
	uv run --no-sync mypy
	uv run --no-sync lint-imports
	$(PYTEST) tests/unit

lab-up: setup ## Build the lab's bundle if it is not there, and start its nodes
	$(MESHSTRAP) lab build
	$(MESHSTRAP) lab up

lab-down: venv ## Remove the lab's nodes; the bundle stays
	$(MESHSTRAP) lab down

bench: setup ## Time the main job, step by step (takes the lab down first)
	$(MESHSTRAP) lab build
	uv run --no-sync python -m bench.main_job

setup: ## Install what is missing on this machine (as root), or name it
	@.ci/setup
	@$(MAKE) --no-print-directory venv

lock: ## Pin the newest versions that pyproject.toml allows
	uv run --no-project --python '>=3.11' .ci/lock.py

venv: .venv/synced

.venv/synced: pyproject.toml
	@command -v uv >/dev/null || .ci/setup
	uv sync --quiet --compile-bytecode
	@touch $@
