# Everything here makes its own environment in .venv; nothing needs to be installed first but Python 3.11.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/run.stamp
DEV := $(VENV)/dev.stamp
BASE ?= HEAD~1
NODE := tests/node/node_modules/.package-lock.json
COMPOSE := docker compose -f deploy/compose.yaml
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-strip-extras --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help run test chaos bench bench-compare bench-tuning profile check check-schemas schemas deploy-files sizing \
	fmt lock clean compose-up compose-down

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUN)  ## Run the bridge on an embedded broker, with a live view of every event
	@$(BIN)/gumlet-bridge dev $(ARGS)

test: $(DEV)  ## Run all tests, on the embedded broker and on Apache Kafka; ARGS="-k name" to choose
	@$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

chaos: $(DEV)  ## Break everything around the bridge, and show that nothing is lost; CHAOS_SEED=n to repeat a run
	@CHAOS=long $(BIN)/python -m pytest tests/chaos tests/integration/test_security.py tests/integration/test_limits.py -q $(ARGS)

bench: $(DEV)  ## Measure cost, tail, backlog and start beside a bare aiohttp handler (about 5 minutes)
	@mkdir -p .cache
	@$(BIN)/python -m tests.bench --json .cache/bench.json $(ARGS)

bench-compare: $(DEV)  ## Measure the whole way of this tree beside that of another commit: BASE=<git ref>
	@mkdir -p .cache
	@$(BIN)/python -m tests.bench.compare $(BASE)

bench-tuning: $(DEV)  ## Measure what other settings of SQLite, aiokafka and the publisher would be worth
	@mkdir -p .cache
	@$(BIN)/python -m tests.bench.tuning $(ARGS)

profile: $(DEV)  ## Write a flame graph of the daemon under load to .cache/profile.svg
	@mkdir -p .cache
	@$(BIN)/python -m tests.bench.profile .cache/profile.svg

check: $(DEV) check-schemas  ## Lint, check the format, the types, the contract, and all that is in deploy/
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/python -m pytest --quiet --no-header tests/deploy/files

check-schemas: $(DEV)
	@$(BIN)/gumlet-bridge schemas check $(if $(AGAINST),--against $(AGAINST))
	@$(BIN)/gumlet-bridge schemas asyncapi --check
	@$(BIN)/gumlet-bridge schemas docs --check
	@$(BIN)/python -m pytest --quiet --no-header tests/unit/test_contract.py tests/unit/test_normalize.py -k example
	@if command -v npm >/dev/null && $(MAKE) -s $(NODE); then \
		node tests/node/asyncapi.mjs schemas/asyncapi.yaml; \
	else echo "NOT CHECKED, schemas/asyncapi.yaml by AsyncAPI's parser: no npm, or it cannot have the packages"; fi

schemas: $(DEV)  ## Make schemas/asyncapi.yaml and schemas/README.md from the schema files
	@$(BIN)/gumlet-bridge schemas asyncapi --write
	@$(BIN)/gumlet-bridge schemas docs --write

deploy-files: $(DEV)  ## Make those files of deploy/ that are made from others
	@$(BIN)/python -m tests.deploy.generate

sizing: $(DEV)  ## Write deploy/SIZING.md anew from the figures of the last `make bench`
	@$(BIN)/python -m tests.deploy.sizing .cache/bench.json

compose-up:  ## Run the bridge with Kafka, Prometheus, Grafana and a topic viewer (needs Docker)
	@$(COMPOSE) up --build --detach --wait
	@echo "webhooks 127.0.0.1:8080 (token dev) · status 127.0.0.1:8081 · Grafana 127.0.0.1:3000 · topics 127.0.0.1:8082"

compose-down:  ## Stop them; ARGS=--volumes forgets what they stored
	@$(COMPOSE) down $(ARGS)

fmt: $(DEV)  ## Format the code and mend what can be mended by a tool
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

lock: $(DEV)  ## Choose the newest dependencies and write them down with their hashes
	@$(BIN)/python -m pip install --quiet uv
	@$(UV_COMPILE) --upgrade --extra embedded --extra tracing --output-file requirements.lock pyproject.toml
	@$(UV_COMPILE) --upgrade --extra embedded --extra tracing --group dev --output-file tests/requirements.lock pyproject.toml

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

$(NODE): tests/node/package-lock.json
	@cd tests/node && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

$(DEV): $(RUN) tests/requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@touch $@
