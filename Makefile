# Two commands on a fresh machine, `make demo` and `make test`; each makes .venv first when that is needed.

VENV := .venv
RUN := $(VENV)/bin/python
UV := $(VENV)/bin/uv
LOCK := requirements/cpu.lock
INSTALLED := $(VENV)/.installed

SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c "$(SUPPORTED)" 2>/dev/null && echo $$python && break; done)

# Some ten processes import verl and vLLM in every run: without cached byte code each of them takes three times as long.
export PYTHONDONTWRITEBYTECODE :=
# uv reads no setting of pip: hand over a package index that is set for pip in the environment.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test lint lock clean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

install: $(INSTALLED) ## make .venv with everything that the other commands need

demo: $(INSTALLED) ## train a tiny judge in three stages on this machine's CPU, and show what each is worth
	PROFILE=tiny OUT=outputs/demo PYTHON=$(RUN) bash recipes/pipeline.sh

test: lint ## check the style, run every test and doctest
	$(RUN) -m pytest

lint: $(INSTALLED) ## check the style only
	$(VENV)/bin/ruff check

lock: $(INSTALLED) ## choose all versions again and write requirements/cpu.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile setup.py --extra cpu --extra judge --extra demo --extra plots --extra dev --upgrade --quiet \
	  --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --override requirements/overrides.txt --excludes requirements/excludes.txt --output-file $(LOCK)

clean: ## remove .venv, outputs and caches
	rm -rf $(VENV) outputs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): setup.py $(LOCK)
	@$(or $(PYTHON),python3) -c "$(SUPPORTED)" 2>/dev/null || { \
	  echo "verl-videosearch needs Python 3.10, 3.11 or 3.12 with venv and ensurepip (Debian: apt install python3-venv);"; \
	  echo "got $$($(or $(PYTHON),python3) --version 2>&1). Choose another one: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@echo "[1/3] creating $(VENV) with $$($(PYTHON) --version)"
	@$(RUN) -c "$(SUPPORTED)" 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet $$(grep -o '^uv==[^ ]*' $(LOCK))
	@echo "[2/3] installing the packages of $(LOCK) (2.7 GB to download the first time, 5.2 GB on disk)"
	$(UV) pip install --python $(RUN) --no-deps --require-hashes -r $(LOCK)
	@echo "[3/3] installing this checkout"
	$(UV) pip install --python $(RUN) --no-deps --no-build-isolation --editable .
	@touch $@
