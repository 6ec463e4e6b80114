# Everything here makes its own environment in .venv; nothing needs to be installed first but Python 3.11.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/run.stamp
DEV := $(VENV)/dev.stamp
NODE := tests/node/node_modules/.package-lock.json
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help run test check check-schemas schemas fmt lock clean

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUN)  ## Run the bridge on an embedded broker, with a live view of every event
	@$(BIN)/bridge dev $(ARGS)

test: $(DEV)  ## Run all tests, on the embedded broker and on Apache Kafka; ARGS="-k name" to choose
	@$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

check: $(DEV) check-schemas  ## Lint, check the format, the types and the contract
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

check-schemas: $(DEV)
	@$(BIN)/bridge schemas check $(if $(AGAINST),--against $(AGAINST))
	@$(BIN)/bridge schemas asyncapi --check
	@$(BIN)/bridge schemas page --check
	@$(BIN)/python -m pytest --quiet --no-header tests/unit/test_contract.py tests/unit/test_normalize.py -k example
	@if command -v npm >/dev/null && $(MAKE) -s $(NODE); then \
		node tests/node/asyncapi.mjs schemas/asyncapi.yaml; \
	else echo "NOT CHECKED, schemas/asyncapi.yaml by AsyncAPI's parser: no npm, or it cannot have the packages"; fi

schemas: $(DEV)  ## Make schemas/asyncapi.yaml and schemas/README.md from the schema files
	@$(BIN)/bridge schemas asyncapi --write
	@$(BIN)/bridge schemas page --write

fmt: $(DEV)  ## Format the code and mend what can be mended by a tool
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

lock: $(DEV)  ## Choose the newest dependencies and write them down with their hashes
	@$(BIN)/python -m pip install --quiet uv
	@$(UV_COMPILE) --upgrade --extra embedded --output-file requirements.lock pyproject.toml
	@$(UV_COMPILE) --upgrade --extra embedded --group dev --output-file tests/requirements.lock pyproject.toml

clean:  ## Remove the environment, caches and build output
	@rm -rf $(VENV) tests/node/node_modules .cache dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	@echo "making an environment in $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

$(RUN): $(VENV)/pyvenv.cfg requirements.lock pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(DEV): $(RUN) tests/requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@touch $@

$(NODE): tests/node/package-lock.json
	@cd tests/node && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@
