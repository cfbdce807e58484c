# arqd's development commands; `make help` lists them.

PY := .venv/bin/python
PYTEST_ARGS ?=
# Most tests wait for processes and servers of theirs: more workers than processors pay.
PYTEST_WORKERS ?= 4
# Bounds on times are held only where there is room to keep them.
FAULTS_WORKERS ?= 2
FAULTS_STRICT ?= 1
SOAK_SECONDS ?= 600
BENCH_ARGS ?=
# What `make test-servers` puts in Valkey's place, and what it runs there: the engine's tests. Those of the command and of
# the benchmark start programs, and reach the servers through the same code; one database is enough for the outbox; Sentinel's
# server is Valkey again, where the tests of the scripts alone have nothing to add.
SERVERS ?= redis sentinel cluster
ENGINE_TESTS ?= tests/integration --ignore-glob="tests/integration/test_cli*" \
	--ignore=tests/integration/test_bench.py --ignore=tests/integration/test_embedded.py -k "not postgresql"

# Hundreds of tests start a process; compiling arqd's modules anew in each of them takes time.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run test test-servers test-deploy test-faults soak lint format lock bench clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r c t; do printf '%-18s%s\n' "$$c" "$$t"; done

.venv/installed: requirements.lock pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh

run: .venv/installed ## start everything on this machine with a few demonstration jobs; Ctrl-C drains
	@.venv/bin/arqd up --demo

test: .venv/installed ## run the tests; one of them: make test PYTEST_ARGS="tests/unit -k retry"
	@sh scripts/test_tools.sh
	@sh scripts/chain_tools.sh
	@$(PY) -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m "not slow and not deploy" $(PYTEST_ARGS)

test-deploy: .venv/installed ## run the units under a real systemd and the pods under podman (root on Debian)
	@sh scripts/test_tools.sh deploy
	@$(PY) -m pytest tests/deploy -n 2 -m deploy -rP $(PYTEST_ARGS)

test-servers: .venv/installed ## run the engine's tests on Redis, under Sentinel and in a cluster
	@sh scripts/test_tools.sh
	@for server in $(SERVERS); do echo "On $$server:"; \
	    [ $$server = sentinel ] && scripts= || scripts=tests/lua; \
	    $(PY) -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m "not slow" $$scripts $(ENGINE_TESTS) --server $$server \
	        $(PYTEST_ARGS) || exit 1; \
	done

test-faults: .venv/installed ## run every fault test, the slow ones too, and hold all to what docs/reliability.md promises
	@sh scripts/test_tools.sh
	@FAULTS_STRICT=$(FAULTS_STRICT) $(PY) -m pytest tests/faults -n $(FAULTS_WORKERS) --dist worksteal -rP $(PYTEST_ARGS)

soak: .venv/installed ## ten minutes of jobs that fail, hang and kill; shorter: make soak SOAK_SECONDS=60
	@$(PY) -m tests.faults.soak $(SOAK_SECONDS)

lint: .venv/installed ## check style, format and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: .venv/installed ## put the code into its format and fix what can be fixed
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

lock: ## take up changed dependencies; newer versions: make lock LOCK_ARGS=--upgrade
	@sh scripts/lock.sh $(LOCK_ARGS)

bench: .venv/installed ## compare with other systems; its options: make bench BENCH_ARGS="..."
	@.venv/bin/arqd bench $(BENCH_ARGS)

clean: ## remove .venv and caches; data under var/ stay
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
	find benchmarks daemon handlers tests -name __pycache__ -type d -prune -exec rm -rf {} +
