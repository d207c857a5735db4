# The same targets everywhere: on a laptop, on a fresh Debian with python3, in CI.
#   make test PYTHON=python3.12      another interpreter
#   make test TESTS=tests/unit       a part of the tests; ARGS="-x -k name" goes to pytest
#   make bench ONLY=throughput       one of the budgets

PYTHON ?= python3
VENV ?= .venv
TESTS ?=
ARGS ?=
ONLY ?=

BIN := $(VENV)/bin
SOURCES := $(shell find agent client protos -name '*.py' -o -name '*.proto' -o -name 'py.typed')

.PHONY: help demo test lint bench protos baseline clean
.PHONY: lint-ruff lint-format lint-types lint-imports lint-protos
.DELETE_ON_ERROR:

help:
	@echo "make demo | test | lint | bench | protos | baseline | clean   (see CONTRIBUTING.md)"

# A virtual environment of this interpreter; made again if it was another one's.
$(VENV)/.python: FORCE
	@sh tests/helpers/venv.sh "$(PYTHON)" "$(VENV)"

# What a user gets: the package alone. Not over the editable one of `make test`, which is newer.
$(VENV)/.package: $(VENV)/.python pyproject.toml $(SOURCES)
	@test -e $(VENV)/.dev || $(BIN)/python -m pip install --quiet .
	@touch $@

# What a developer needs: the package in place, the groups dev and protos.
$(VENV)/.dev: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev --group protos --editable .
	@touch $@

# Hogs are compiled; the test machine is made of Debian's packages and emulated.
RIG := cc:gcc /usr/include/stdio.h:libc6-dev qemu-system-x86_64:qemu-system-x86 \
	mmdebstrap:mmdebstrap /sbin/mke2fs:e2fsprogs
# A real sshd of ours, with login shells that are none of sh's family, and network namespaces.
SSH_RIG := /usr/sbin/sshd:openssh-server ssh:openssh-client tcsh:tcsh fish:fish /sbin/ip:iproute2

FORCE:

demo: $(VENV)/.package
	@sh examples/demo.sh $(BIN)

# A skipped test is a failed one here: what a test needs is installed, or this target fails.
test: $(VENV)/.dev
	@sh tests/helpers/need.sh mount:mount dbus-daemon:dbus-daemon \
		/usr/lib/systemd/systemd:systemd $(RIG) $(SSH_RIG)
	AGENT_TEST_STRICT=1 $(BIN)/python -m pytest $(ARGS) $(TESTS)

# `make -k lint` goes on after the first complaint.
lint: lint-ruff lint-format lint-types lint-imports lint-protos

lint-ruff: $(VENV)/.dev
	$(BIN)/ruff check .

lint-format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint-types: $(VENV)/.dev
	$(BIN)/mypy

lint-imports: $(VENV)/.dev
	$(BIN)/lint-imports --no-logo

lint-protos: $(VENV)/.dev
	$(BIN)/buf lint protos

bench: $(VENV)/.dev
	@sh tests/helpers/need.sh --try tsp:task-spooler tmux:tmux supervisord:supervisor conmon:conmon \
		earlyoom:earlyoom nohang:nohang autossh:autossh
	@sh tests/helpers/need.sh $(RIG) $(SSH_RIG)
	$(BIN)/python -m tests.bench $(ONLY)

protos: $(VENV)/.dev
	$(BIN)/python protos/generate.py

# At a release: what later versions must not break.
baseline: $(VENV)/.dev
	$(BIN)/buf build protos -o protos/baseline.binpb

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
