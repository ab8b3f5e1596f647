# Every goal makes the environment that it needs, once; README and CI call the same goals.
#   make run    the main job, with the base install alone (.venv-run)
#   make test   the tests, with everything that they need (.venv)

# The first Python that is of a supported version and can make environments. Name another with PYTHON=…
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
DEV := .venv
BASE := .venv-run
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What the one job or the tests should be given, as in: make test ARGS="-k floors"
ARGS ?=

.PHONY: help run test test-arm check bench docs kernels fuzz install-check clean

help:
	@echo "make run            the shipped model answers a prompt; ARGS="…" for chimera-run"
	@echo "make test           run the tests"
	@echo "make test-arm       the same bytes on emulated 64-bit ARM; needs Debian's apt-get"
	@echo "make check          formatting, lint, types, floors, generated pages"
	@echo "make bench          measure the kernels on this machine"
	@echo "make docs           write the generated pages anew"
	@echo "make kernels        compile the kernels for this machine; ALL=1 for every target"
	@echo "make fuzz           look for files that a loader fails on, for SECONDS=60"
	@echo "make install-check  try the wheel's base install on every Python that is here"
	@echo "make clean          remove what the other goals leave, except the environments"

run: $(BASE)/.ready
	$(call fresh_kernels,$(BASE))
	@$(BASE)/bin/chimera-run $(or $(ARGS),"Write a short story about a kind giraffe." --seed 1)

test: $(DEV)/.ready
	$(call fresh_kernels,$(DEV))
	$(DEV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

# An ARM machine of two kinds, emulated; its kernels are compiled here, ahead of time.
test-arm: $(DEV)/.ready
	$(DEV)/bin/python -m tests.arm.machine
	$(DEV)/bin/python -m quant.ahead.make --level aarch64 --level aarch64-dotprod
	$(DEV)/bin/python -m pytest -m arm tests/arm $(ARGS)

check: $(DEV)/.ready
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/pyright
	$(DEV)/bin/lint-imports --no-logo
	@page=$$(mktemp) && $(DEV)/bin/python -m configs.document $$page && cmp -s $$page docs/config.md; \
		stale=$$?; rm -f $$page; test $$stale = 0 || { echo "docs/config.md is stale. Run: make docs" >&2; exit 1; }

bench: $(DEV)/.ready
	$(DEV)/bin/python -m benchmarks.kernels $(ARGS)

docs: $(DEV)/.ready
	$(DEV)/bin/python -m configs.document
	$(DEV)/bin/python -m tests.house.tree
	$(DEV)/bin/python -m tests.house.transcripts

kernels: $(DEV)/.ready
	$(DEV)/bin/python -m quant.ahead.make $(if $(ALL),--all)

fuzz: $(DEV)/.ready
	$(DEV)/bin/python -m tests.fuzz $(or $(SECONDS),60) $(ARGS)

install-check: $(DEV)/.ready
	$(DEV)/bin/python .ci/install_check.py

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# A stamp is newer than what it was made from, so an edit of either file brings the environment up to date.
$(BASE)/.ready: pyproject.toml constraints.txt
	$(call environment,$(BASE))
	$(BASE)/bin/python $(PIP_INSTALL) --editable .
	@touch $@

$(DEV)/.ready: pyproject.toml constraints.txt
	$(call environment,$(DEV))
	$(DEV)/bin/python $(PIP_INSTALL) --editable '.[dev,export,hf,o200k,oracle,plot,train]'
	@touch $@

# What an install compiled is of the sources of that day; a look at whether it still fits takes a second.
define fresh_kernels
	@$(1)/bin/python -m quant.ahead.make --quiet
endef

define environment
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 with the venv module is on the path." \
		"Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(1)/bin/python || { echo "Making $(1) with $(PYTHON)"; $(PYTHON) -m venv $(1); }
endef
