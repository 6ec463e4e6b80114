# Every target makes the environment it needs in .venv; only Python 3.11 or later must be installed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/run.stamp
DEV := $(VENV)/dev.stamp
LOWEST := .cache/lowest
BASE ?= HEAD~1
WORKERS ?= auto
NODE := tests/node/node_modules/.package-lock.json
COMPOSE := docker compose -f deploy/compose.yaml
PIP_LOCKED := -m pip install --quiet --disable-pip-version-check --require-hashes -r
# Shows each package that pip collects on one line; pip's exit status becomes the pipeline's.
PIP_PROGRESS = { $(BIN)/python $(subst --quiet,,$(PIP_LOCKED)) $(1) || echo FAILED; } | { \
	show() { [ "$$TERM" = dumb ] || printf '\r  %-60s' "$$1"; }; \
	count=0; status=0; \
	while read -r word name _; do case "$$word" in \
		Collecting) count=$$((count + 1)); show "$$count $$name";; \
		Installing) show "installing $$count packages (half a minute)";; \
		FAILED) status=1;; \
	esac; done; echo; exit $$status; }
PIP_SELF := -m pip install --quiet --disable-pip-version-check --no-deps -e .
EXTRAS := --extra embedded --extra tracing
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade $(EXTRAS) \
	--no-annotate --no-strip-extras --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
PYTEST := $(BIN)/python -m pytest -q
PARALLEL := --numprocesses=$(WORKERS) --maxprocesses=8 --dist=worksteal
COVERAGE := --cov --cov-append --cov-report=

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-lowest mutations chaos bench bench-compare bench-journal bench-tuning profile \
	check check-prose check-schemas check-deploy generate-schemas generate-deploy generate-faults \
	generate-sizing fmt lock lines clean compose-up compose-down rehearse-kubernetes

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUN)  ## Run the bridge on an embedded broker, with a live view of every event
	@$(BIN)/gumlet-bridge dev $(ARGS)

test: $(DEV)  ## Run the tests in a few minutes, on the embedded broker and on Apache Kafka; ARGS="-k name" to choose
	@$(PYTEST) $(PARALLEL) -m "not long" tests/checks tests/unit tests/enumeration tests/kafka tests/integration $(ARGS)
	@echo "NOT RUN: tests marked long, tests/chaos, tests/deploy. make test-all runs them."

test-all: $(DEV)  ## Run all tests: also fault injection, browsers, generated code, deployment
	@rm -f .coverage .coverage.*
	@if command -v npm >/dev/null; then $(MAKE) -s $(NODE) || true; fi
	@# One after the other: a scenario of tests/chaos keeps both a Kafka and a daemon under load.
	@status=0; \
	$(PYTEST) $(PARALLEL) $(COVERAGE) tests/checks tests/unit tests/enumeration tests/kafka tests/integration $(ARGS) || status=1; \
	$(PYTEST) $(COVERAGE) tests/chaos tests/deploy --ignore=tests/deploy/files $(ARGS) || status=1; \
	$(BIN)/python -m coverage report --skip-covered || status=1; \
	echo "NOT RUN: tests/deploy/files (make check-deploy), the lowest versions (make test-lowest), long scenarios (make chaos)."; \
	exit $$status

test-lowest: $(LOWEST)/stamp  ## Run the unit and HTTP tests with the lowest versions of all dependencies
	@$(LOWEST)/bin/python -m pytest -q $(PARALLEL) -p no:cacheprovider \
		tests/unit tests/integration/ingress/test_http_responses.py $(ARGS)

mutations: $(DEV)  ## Break each rule of the journal in a copy, and show which test fails
	@$(BIN)/python -m tests.enumeration.mutations

chaos: $(DEV)  ## Run the fault-injection tests in their long form; CHAOS_SEED=n repeats a run
	@CHAOS=long $(PYTEST) tests/chaos tests/integration/ingress/test_security.py tests/integration/ingress/test_limits.py $(ARGS)

bench: $(DEV)  ## Measure CPU cost, tail latency, backlog and start time against a bare aiohttp handler (10 minutes)
	@mkdir -p .cache
	@$(BIN)/python -m tests.bench --json .cache/bench.json $(ARGS)

bench-compare: $(DEV)  ## Compare the cost of this tree with that of another commit: BASE=<git ref>
	@mkdir -p .cache
	@$(BIN)/python -m tests.bench.compare $(BASE)

bench-journal: $(DEV)  ## Measure the journal next to a bare append and the SQLite journal of a commit: BASE=<git ref>
	@$(BIN)/python -m tests.bench.journal $(BASE) $(ARGS)

bench-tuning: $(DEV)  ## Measure alternative settings of the journal, aiokafka and the publisher
	@mkdir -p .cache
	@$(BIN)/python -m tests.bench.tuning $(ARGS)

profile: $(DEV)  ## Write a flame graph of the daemon under load to .cache/profile.svg
	@mkdir -p .cache
	@$(BIN)/python -m tests.bench.profile .cache/profile.svg

check: $(DEV) check-schemas  ## Check lint, format, types, language, links, import directions and the schemas
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/python -m tests.checks.prose
	@$(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter tests/checks/imports.toml
	@$(PYTEST) --no-header tests/checks
	@echo "NOT CHECKED: the files of deploy/ and the validators built with Go and npm. make check-deploy checks them."

check-prose: $(DEV)  ## Check documents, docstrings and messages for banned words; ARGS="bridge/cli README.md" to choose
	@$(BIN)/python -m tests.checks.prose $(ARGS)

check-schemas: $(DEV)
	@$(BIN)/gumlet-bridge schemas check $(if $(AGAINST),--against $(AGAINST))
	@$(BIN)/gumlet-bridge schemas asyncapi --check
	@$(BIN)/gumlet-bridge schemas docs --check
	@$(PYTEST) --no-header tests/unit/contract/test_schemas.py tests/unit/contract/test_normalizer.py -k example

check-deploy: $(DEV)  ## Check all files of deploy/ and the AsyncAPI document with their own validators (Go, npm)
	@$(PYTEST) --no-header -rs tests/deploy/files $(ARGS)
	@if command -v npm >/dev/null && $(MAKE) -s $(NODE); then \
		node tests/node/asyncapi.mjs schemas/asyncapi.yaml; \
	else echo "NOT CHECKED: schemas/asyncapi.yaml by AsyncAPI's parser: npm or its packages are missing"; fi

generate-schemas: $(DEV)  ## Generate schemas/asyncapi.yaml and schemas/README.md from the schema files
	@$(BIN)/gumlet-bridge schemas asyncapi --write
	@$(BIN)/gumlet-bridge schemas docs --write

generate-deploy: $(DEV)  ## Generate the derived files of deploy/
	@$(BIN)/python -m tests.deploy.generate

generate-sizing: $(DEV)  ## Generate deploy/SIZING.md from the figures of the last `make bench`
	@$(BIN)/python -m tests.deploy.sizing .cache/bench.json

generate-faults: $(DEV)  ## Generate the table of faults in deploy/README.md: provokes each on a real Kafka (3 minutes)
	@FAULT_TABLE=write $(PYTEST) tests/integration/admin/test_fault_table.py

rehearse-kubernetes: $(DEV)  ## Test deploy/kubernetes and the chart on a real Kubernetes API (needs Go, Maven, Java 21; 25 minutes the first time)
	@$(BIN)/python -m tests.deploy.kubernetes $(ARGS)

compose-up:  ## Run the bridge with Kafka, Prometheus, Grafana and a topic viewer (needs Docker)
	@$(COMPOSE) up --build --detach --wait
	@echo "webhooks 127.0.0.1:8080 (token dev) · status 127.0.0.1:8081 · Grafana 127.0.0.1:3000 · topics 127.0.0.1:8082"

compose-down:  ## Stop these containers; ARGS=--volumes also removes the volumes
	@$(COMPOSE) down $(ARGS)

fmt: $(DEV)  ## Format the code and apply auto-fixes
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

lock: $(DEV)  ## Update the lock files (newest versions, with hashes)
	@$(BIN)/python -m pip install --quiet uv
	@mkdir -p .cache
	@$(UV_COMPILE) --output-file requirements.lock pyproject.toml
	@# The first lock constrains the second: the tests run with the versions that ship.
	@$(UV_COMPILE) --group dev --constraint requirements.lock --output-file tests/requirements.lock pyproject.toml
	@# The lowest version of each dependency in pyproject.toml, the newest of everything else.
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade $(EXTRAS) --resolution lowest-direct \
		--no-annotate --no-header --output-file .cache/lowest.txt pyproject.toml
	@$(UV_COMPILE) --group test --constraint .cache/lowest.txt --output-file tests/lowest.lock pyproject.toml

lines:  ## Print the line counts of bridge/: production code, and everything
	@cat $$(git ls-files 'bridge/*.py' ':!bridge/operations' ':!bridge/devtools' ':!bridge/cli') | wc -l | sed 's/$$/ production/'
	@cat $$(git ls-files 'bridge/*.py') | wc -l | sed 's/$$/ in all/'

clean:  ## Remove the environment, caches and build output
	@rm -rf $(VENV) tests/node/node_modules .cache dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	@echo "creating an environment in $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

$(RUN): $(VENV)/pyvenv.cfg requirements.lock pyproject.toml
	@echo "installing $$(grep -c == requirements.lock) packages for the bridge (about 20 s)"
	@$(call PIP_PROGRESS,requirements.lock)
	@$(BIN)/python $(PIP_SELF)
	@touch $@

$(DEV): $(RUN) tests/requirements.lock
	@echo "installing $$(grep -c == tests/requirements.lock) packages for development (about 60 s)"
	@$(call PIP_PROGRESS,tests/requirements.lock)
	@touch $@

$(LOWEST)/stamp: tests/lowest.lock pyproject.toml
	@echo "installing $$(grep -c == tests/lowest.lock) packages at their lowest versions in $(LOWEST)"
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python $(PIP_LOCKED) tests/lowest.lock
	@$(LOWEST)/bin/python $(PIP_SELF)
	@touch $@

$(NODE): tests/node/package-lock.json
	@echo "installing AsyncAPI's parser (npm)"
	@cd tests/node && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@
