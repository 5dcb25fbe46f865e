# Everything a person does with this checkout. `make` alone explains itself.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# Without compiled files each of the many processes of a test run compiles the libraries anew.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
STAMP := .venv/.setup-done

.PHONY: help
help: ## Explain the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMP) ## Install everything into .venv (no sudo; needs Python 3.11 or 3.12, or uv, or curl)

# Redone only when what it depends on has changed.
$(STAMP): pyproject.toml constraints.txt overrides.txt scripts/setup.sh scripts/check_install.py
	@PYTHON="$(PYTHON)" scripts/setup.sh
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Make sample media, analyse them, show what was found
	@$(BIN)/python -m demo.run

.PHONY: test
test: $(STAMP) ## Unit tests: less than a minute
	@$(BIN)/pytest -n auto

.PHONY: test-slow
test-slow: $(STAMP) ## The tests that take longer: whole runs, kills, limits
	@$(BIN)/pytest -m slow

.PHONY: test-all
test-all: test test-slow ## All tests

.PHONY: lint
lint: $(STAMP) ## Style, types, import boundaries, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python scripts/check_constraints.py
	@$(BIN)/python scripts/env_example.py --check
	@$(BIN)/pytest -q media_pipeline_tests/test_architecture.py

.PHONY: format
format: $(STAMP) ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/python scripts/env_example.py

.PHONY: bench
bench: $(STAMP) ## Measure the pipeline against a bare loop; prints ratios
	@$(BIN)/python -m benchmarks.run

.PHONY: scale
scale: $(STAMP) ## Measure homes of 10,000 and 100,000 media (20 minutes, 12 GB of disk); writes docs/scale.md
	@$(BIN)/python -m benchmarks.scale --docs docs/scale.md

.PHONY: storm
storm: $(STAMP) ## Rent machines from the stand-in while everything goes wrong, 200 times (half an hour)
	@$(BIN)/python -m media_pipeline_tests.fault_storm --runs 200 --seed 1

MEDIA ?= ../shared/media
MODELS ?= $(wildcard ../shared/models)

.PHONY: quality
quality: $(STAMP) ## Measure every analyzer on media with known answers (MEDIA=folder); writes docs/quality.md
	@$(BIN)/python -m quality.run --media "$(MEDIA)" $(if $(MODELS),--models "$(MODELS)")

.PHONY: serve
serve: $(STAMP) ## Web interface and watch folder on http://127.0.0.1:3000
	@$(BIN)/media-pipeline serve

.PHONY: constraints
constraints: $(STAMP) ## Resolve constraints.txt anew, for Python 3.11 and 3.12
	@scripts/constraints.sh

.PHONY: clean
clean: ## Remove what can be made again: .venv, caches, the demo; never your media
	@rm -rf .venv .venv-bootstrap build dist data/demo .pytest_cache .mypy_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- a server: docs/operations.md -------------------------------------------------------------------------------------

.PHONY: up down status upgrade
up: ## Start the server of docker-compose.yml on this machine, wait until it is well (MONITORING=1: with Grafana)
	@deploy/server.sh up

down: ## Stop the server; all data stays
	@deploy/server.sh down

status: ## What runs, how it is, what memory it takes
	@deploy/server.sh status

upgrade: ## Bring the server to this checkout; goes back by itself when it does not get well
	@deploy/server.sh upgrade

.PHONY: logs
logs: ## What the server's containers print (SERVICE=daemon: only that one)
	@deploy/server.sh logs $(SERVICE)

.PHONY: restore-drill
restore-drill: ## Restore the newest backup into a scratch project and compare
	@deploy/server.sh drill

.PHONY: vps-deploy
vps-deploy: ## Install or upgrade the server on another machine over ssh (HOST=root@media.example.org)
	@deploy/vps-deploy.sh "$(HOST)"
