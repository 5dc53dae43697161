# Every target sets itself up: a fresh machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
SERVE ?= 0
DEMO := .venv/.installed-demo
ALL := .venv/.installed-all

# Threads that spin while they wait are up to 20 times slower where another process is busy.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check lint clean

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(if $(wildcard $(ALL)),$(ALL),$(DEMO))  ## run the whole line on a simulated log (SERVE=1: then serve)
	.venv/bin/crossfeed demo $(if $(filter 1,$(SERVE)),--serve)

test: $(ALL)  ## run the tests
	scripts/test

test-all: $(ALL)  ## run the tests, slow ones too
	scripts/test -m "slow or not slow"

check: $(ALL)  ## run what CI runs besides the tests
	scripts/check

lint: $(ALL)  ## fix what can be fixed by machine
	scripts/lint

clean:  ## remove everything that was made here, .venv too
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO) $(ALL): pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" scripts/install $(@:.venv/.installed-%=%)
	@touch $@
