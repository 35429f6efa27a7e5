# Everything here needs Python 3.11 or newer and make, nothing else: the first run installs the rest below this folder.
# `make help` lists the targets.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
ARGS ?=
WORKERS ?= 4
MINUTES ?= 5
SEED ?=

BIN := .venv/bin
UV := .venv-tools/bin/uv
SOURCES := $(wildcard libs/*/src services/*/src) tests libs/devstack/bootstrap.py

OVERLOAD := tests/bench/overload:tests/bench/scale:tests/bench/gateway:tests/bench/streams:tests/clients:tests/support

# Services, commands and test processes start by the hundred. Where an environment forbids Python to keep what it has
# compiled, each of them compiles all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup up demo test test-long test-clients test-k8s check compiled format generate bench bench-secure bench-recovery bench-footprint bench-ledger bench-streams bench-gateway bench-models bench-fleet bench-affinity bench-router bench-group-commit bench-scale bench-overload bench-accountant bench-cache bench-cached fleet-day soak attack chaos simulate lock-artifacts downloads rights compose-secrets clean

help: ## Show this list
	@echo "Headrace: make <target> [ARGS='...']"
	@echo
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18 | sed 's/^/  /'
	@echo
	@echo "  Variables: PYTHON (3.11 or newer), ARGS (options for up, demo, bench and for pytest in the tests),"
	@echo "  WORKERS (processes that run tests, default 4),"
	@echo "  HEADRACE_DATA (default .headrace), HEADRACE_PORT_BASE (default 19080), HEADRACE_CACHE (downloads)"

setup: ## Install uv and all packages below this folder, if anything changed (every other target does it too)
	@command -v $(PYTHON) >/dev/null || { echo "x There is no $(PYTHON) here." >&2; \
		echo "  What to do: install Python 3.11 or newer, or name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) libs/devstack/bootstrap.py

up: setup ## Run the whole platform in the foreground: Kafka, schema registry, Postgres, all services; Ctrl-C stops it
	@exec $(BIN)/headrace up $(ARGS)

demo: setup ## An AI team works through a folder of files, on a running platform or one it starts (ARGS="--folder DIR")
	@exec $(BIN)/headrace demo $(ARGS)

# Many tests wait more than they compute, so more processes than cores are faster.
test: setup downloads ## All checks, and all tests but the long ones, on real Kafka, registry and Postgres (ARGS="-n0 -k name")
	@$(MAKE) --no-print-directory --jobs=2 check compiled
	@PYTHONPATH=tests/clients:tests/support $(BIN)/python -m headrace_clients --install-core
	@# As pytest; what fails is run once more by itself, see there.
	$(BIN)/python -P tests/support/headrace_testing/suite.py --numprocesses $(WORKERS) --dist loadfile $(ARGS)

test-long: setup downloads ## The tests that take minutes: runs of chaos on the real platform, 1,200 simulated schedules
	$(BIN)/python -P tests/support/headrace_testing/suite.py -m long $(ARGS)

test-clients: setup downloads ## Agent frameworks, unmodified, against a platform, beside the table in docs/clients.md (ARGS="--help"); node rows need node
	@PYTHONPATH=tests/clients:tests/support exec $(BIN)/python -m headrace_clients $(ARGS)

test-k8s: setup ## The chart and the discovery of nodes on a real Kubernetes control plane; needs Go, builds the rest once
	PYTHONPATH=tests/support $(BIN)/python -m headrace_testing.k8s.toolchain $(if $(KEDA),--keda)
	$(BIN)/pytest tests/k8s $(ARGS)

simulate: setup ## Run the services through seeded faults under virtual time, on all cores, until Ctrl-C (SEEDS=n SEED=first)
	@PYTHONPATH=tests/support $(BIN)/python -m headrace_testing.simulation \
		$(if $(SEEDS),--seeds=$(SEEDS)) $(if $(SEED),--seed=$(SEED)) $(ARGS)

check: setup ## Lint, formatting, types, import contracts, generated code current, schemas compatible
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@$(UV) lock --check --offline --quiet 2>/dev/null || { echo "uv.lock is not current: run \`make generate\`" >&2; exit 1; }
	$(BIN)/python -m headrace_devstack.workspace --check
	$(BIN)/python -m headrace_contracts.tools.generate --check
	$(BIN)/python -m headrace_devstack.kubernetes --check
	$(BIN)/python -m headrace_contracts.tools.compatibility
	$(BIN)/mypy $(SOURCES)

# A process that collects the tests compiles all modules, and keeps them: once, beside the checks, and not in every process that
# shares the tests. What it finds wrong, the tests find too, and say so.
compiled: setup
	@test -d tests/__pycache__ || $(BIN)/pytest --collect-only --quiet >/dev/null 2>&1 || true

format: setup ## Format the code and fix what lint can fix by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: ## Write anew what follows from schemas/, the topic specs and what the services say of themselves
	@$(PYTHON) libs/devstack/bootstrap.py --lock
	$(BIN)/python -m headrace_devstack.workspace
	@$(PYTHON) libs/devstack/bootstrap.py --lock
	$(BIN)/python -m headrace_contracts.tools.generate
	$(BIN)/python -m headrace_devstack.kubernetes
	PYTHONPATH=tests/support $(BIN)/python -m headrace_testing.provider_faults.page
	@if command -v "$${HELM:-helm}" >/dev/null; then k8s/scripts/render.sh; else \
		echo "  Helm is not here: k8s/keda and k8s/prometheus/servicemonitor.yaml stay as they are"; fi

compose-secrets: setup ## Make the passwords that docker-compose.yml requires, in .env (those that are there stay)
	@$(BIN)/python -m headrace_devstack.compose_secrets

rights: setup downloads ## Try every operation as every Kafka user on a secure broker, and print who may do what
	@PYTHONPATH=tests/support exec $(BIN)/python -m headrace_testing.kafka_rights $(ARGS)

fleet-day: setup ## Simulate a day of 50 unequal machines that come and go: availability and use of the hardware (ARGS="--help")
	@PYTHONPATH=tests/support:tests/bench/overload exec $(BIN)/python -m headrace_testing.fleet_day $(ARGS)

bench: setup ## Measure Headrace's own latency per task (p50/p99, unloaded and at 100 tasks/s), as a table and as JSON
	@exec $(BIN)/python tests/bench/latency.py $(ARGS)

bench-secure: setup ## Measure start and latency of a secure stack beside an open one, in alternating rounds (ARGS="--help")
	@exec $(BIN)/python tests/bench/secure.py $(ARGS)

bench-footprint: setup downloads ## Measure start and memory of the platform, a process for each service beside one for all (ARGS="--help")
	@exec $(BIN)/python tests/bench/footprint.py $(ARGS)

bench-recovery: setup ## Measure how long routers take to take partitions over (1.1 million tasks; ARGS="--finished 100000" is faster)
	@exec $(BIN)/python tests/bench/recovery.py $(ARGS)

bench-ledger: setup ## Measure how many usage events a second the ledger books, on a Postgres of its own (ARGS="--help")
	@exec $(BIN)/python tests/bench/ledger.py $(ARGS)

bench-accountant: setup downloads ## Measure the processor time of a whole cost accountant for each usage event (ARGS="--help")
	@exec $(BIN)/python tests/bench/accountant.py $(ARGS)

bench-streams: setup ## Measure the stream library beside its peers, on one Kafka in alternating rounds (ARGS="--help")
	@PYTHONPATH=tests/bench/streams exec $(BIN)/python -m headrace_bench $(ARGS)

bench-models: setup ## Measure the processor time of a call over each client of models, in alternating rounds (ARGS="--help")
	@exec $(BIN)/python tests/bench/model_calls.py $(ARGS)

bench-fleet: setup ## Measure what share of unequal nodes a worker reaches, and a thousand calls at once in one (ARGS="--help")
	@exec $(BIN)/python tests/bench/fleet.py $(ARGS)

bench-affinity: setup ## Simulate agents with long prompts: what it brings to send them where their beginning was read (ARGS="--help")
	@exec $(BIN)/python tests/bench/affinity.py $(ARGS)

bench-router: setup ## Measure how many routing decisions a core makes, with 200 candidates and 1,000 tenants (ARGS="--help")
	@exec $(BIN)/python tests/bench/router.py $(ARGS)

bench-group-commit: setup downloads ## Measure what appending decisions in groups would save, beside a record each (ARGS="--help")
	@exec $(BIN)/python tests/bench/group_commit.py $(ARGS)

bench-gateway: setup downloads ## Measure Headrace beside LiteLLM's proxy, behind the same upstream in alternating rounds (ARGS="--help")
	@PYTHONPATH=tests/bench/gateway:tests/bench/streams:tests/clients:tests/support exec $(BIN)/python -m headrace_gateway_bench $(ARGS)

bench-scale: setup downloads ## Measure what a task costs as partitions, instances, agents, tenants and history grow (ARGS="--help")
	@PYTHONPATH=tests/bench/scale:tests/bench/gateway:tests/bench/streams:tests/clients:tests/support exec $(BIN)/python -m headrace_scale_bench $(ARGS)

bench-cache: setup ## Simulate two months of a product with 10,000 users: what caches in memory and stored answers save (ARGS="--help")
	$(BIN)/python tests/bench/cache_month.py $(ARGS)

bench-cached: setup downloads ## Measure how fast a cached answer comes over HTTP: from memory, and from Postgres (ARGS="--help")
	$(BIN)/python tests/bench/cached.py $(ARGS)

bench-overload: setup downloads ## Measure answers in time, latency and refusals when more is asked than models can do (ARGS="--help")
	@PYTHONPATH=$(OVERLOAD) exec $(BIN)/python -m headrace_overload_bench $(ARGS)

soak: MINUTES = 30
soak: setup downloads ## Put half of what models can do on the platform for long: does any process grow? (MINUTES=30 ARGS="--help")
	@PYTHONPATH=$(OVERLOAD) exec $(BIN)/python -m headrace_overload_bench.soak --minutes $(MINUTES) $(ARGS)

chaos: setup downloads ## Kill parts of the real platform under load, then check every topic and the ledger (MINUTES=5 SEED=... ARGS="--brokers 3", "--secure")
	@PYTHONPATH=tests/chaos:tests/support exec $(BIN)/python -m headrace_chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

attack: setup downloads ## Attack a running platform in every known way, and show what came of it (SEED=... ARGS="--short --only NAME")
	@PYTHONPATH=tests/attack:tests/support exec $(BIN)/python -m headrace_attack $(if $(SEED),--seed $(SEED)) $(ARGS)

downloads: setup ## Download what the first `make up` would, so that it and the tests can run offline
	@$(BIN)/python -m headrace_devstack.downloads

lock-artifacts: setup ## Resolve Kafka and the registry anew and pin every file by SHA-256 (after changing a version)
	$(BIN)/python -m headrace_devstack.artifact_lock

clean: ## Remove the environments and caches below this folder; data (.headrace) and downloads stay
	rm -rf .venv .venv-tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist bench-results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
