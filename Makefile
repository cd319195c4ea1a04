# Two commands on a fresh machine, `make demo` and `make test`; each makes .venv first when that is needed.
# `make gpu` makes a .venv for training on GPUs instead.

VENV := .venv
RUN := $(VENV)/bin/python
UV := $(if $(PIP_CERT),SSL_CERT_FILE=$(or $(SSL_CERT_FILE),$(PIP_CERT)) )$(VENV)/bin/uv
LOCK := requirements/cpu.lock
INSTALLED := $(VENV)/.installed

GPU_LOCK := requirements/gpu.lock
GPU_SOURCES := requirements/gpu_sources.lock
GPU_INSTALLED := $(VENV)/.installed-gpu
# URL or file of a flash-attn wheel for the torch and the Python of the lock; `no` leaves flash-attn out
FLASH_ATTN_WHEEL ?=
# The stamp holds what was chosen before: another wheel is installed into a finished $(VENV), too
FLASH_CHOSEN := $(shell cat $(GPU_INSTALLED) 2>/dev/null)

SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c "$(SUPPORTED)" 2>/dev/null && echo $$python && break; done)
GPU_SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
GPU_PYTHON := $(if $(filter command environment,$(firstword $(origin PYTHON))),$(PYTHON),$(or $(shell \
	for python in python3 python3.12 python3.11; do \
	$$python -c "$(GPU_SUPPORTED)" 2>/dev/null && echo $$python && break; done),python3))

# Some ten processes import verl and vLLM in every run: without cached byte code each of them takes three times as long.
export PYTHONDONTWRITEBYTECODE :=
# uv reads no setting of pip: hand over a package index that is set for pip in the environment (UV has its certificate).
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
endif

.DEFAULT_GOAL := help
.PHONY: help install gpu demo test bench fuzz lint lock gpulock clean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

install: $(INSTALLED) ## make .venv with everything that the other commands need

gpu: $(GPU_INSTALLED) ## make .venv for training on NVIDIA GPUs (driver >= 580, Linux x86_64, Python 3.11 or 3.12)

demo: $(INSTALLED) ## train a tiny judge in three stages on this machine's CPU, and show what each is worth
	PROFILE=tiny OUT=outputs/demo PYTHON=$(RUN) bash recipes/pipeline.sh

test: lint ## check the style, run every test and doctest
	$(RUN) -m pytest

fuzz: $(INSTALLED) ## attack replies, films, servers and label files for some minutes (docs/reliability.md)
	$(RUN) -m benchmarks.faults all --short --seed $$(date +%Y%m%d) --out outputs/fuzz/$$(date +%Y%m%d)

bench: $(INSTALLED) ## run the benchmarks that need no GPU and write benchmarks/RESULTS.md
	$(RUN) -m benchmarks.run_all

lint: $(INSTALLED) ## check the style and the types only
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

lock: $(INSTALLED) ## choose all versions again and write requirements/cpu.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile setup.py --extra cpu --extra judge --extra demo --extra plots --extra dev --upgrade --quiet \
	  --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --override requirements/overrides.txt --excludes requirements/excludes.txt --output-file $(LOCK)

gpulock: $(INSTALLED) ## choose the versions for GPUs again and write requirements/gpu.lock, with the wheels that it stands for
	UV_CUSTOM_COMPILE_COMMAND="make gpulock" $(UV) pip compile setup.py --extra gpu --extra judge --extra plots --upgrade --quiet \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --excludes requirements/gpu_excludes.txt --output-file $(GPU_LOCK)
	$(UV) pip compile $(GPU_LOCK) --no-deps --quiet --universal --python-version 3.11 --only-binary :all: \
	  --format pylock.toml --output-file requirements/pylock.gpu.toml
	$(RUN) -m benchmarks.locked_wheels requirements/pylock.gpu.toml requirements/gpu.wheels
	rm requirements/pylock.gpu.toml

clean: ## remove .venv, outputs and caches
	rm -rf $(VENV) outputs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

ifneq ($(or $(FLASH_ATTN_WHEEL),$(FLASH_CHOSEN)),$(FLASH_CHOSEN))
.PHONY: $(GPU_INSTALLED)
endif

# The steps in order of what they cost: nothing is downloaded for a machine that cannot use it.
$(GPU_INSTALLED): setup.py $(GPU_LOCK) $(GPU_SOURCES)
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "make gpu is for Linux x86_64, this is $$(uname -sm)"; exit 1; }
	@[ ! -e $(INSTALLED) ] || { \
	  echo "$(VENV) holds the packages for a CPU, which exclude those for a GPU: make gpu VENV=.venv-gpu, or make clean first"; exit 1; }
	@$(GPU_PYTHON) -c "$(GPU_SUPPORTED)" 2>/dev/null || { \
	  echo "make gpu needs Python 3.11 or 3.12 with venv and ensurepip (Debian: apt install python3-venv);"; \
	  echo "got $$($(GPU_PYTHON) --version 2>&1). Choose another one: make gpu PYTHON=/path/to/python3.12"; exit 1; }
	@echo "[1/5] looking for GPUs and their driver"
	@$(GPU_PYTHON) -I verl_videosearch/machine/driver.py
	@echo "[2/5] creating $(VENV) with $$($(GPU_PYTHON) --version)"
	@$(RUN) -c "$(GPU_SUPPORTED)" 2>/dev/null || $(GPU_PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet $$(grep -o '^uv==[^ ]*' $(LOCK))
	@echo "[3/5] installing the packages of $(GPU_LOCK) (docs/seven_b.md has the size)"
	$(UV) pip install --python $(RUN) --no-deps --require-hashes --only-binary :all: -r $(GPU_LOCK)
	$(UV) pip install --python $(RUN) --no-deps --require-hashes -r $(GPU_SOURCES)
	@echo "[4/5] flash-attn: FLASH_ATTN_WHEEL=$(or $(FLASH_ATTN_WHEEL),, so it is built here)"
ifeq ($(FLASH_ATTN_WHEEL),no)
	$(UV) pip uninstall --python $(RUN) --quiet flash-attn
	@echo "left out: every command needs the overrides of docs/seven_b.md, 'Without flash-attn'"
else ifneq ($(FLASH_ATTN_WHEEL),)
	$(UV) pip install --python $(RUN) --no-deps --reinstall $(FLASH_ATTN_WHEEL)
else
	@command -v nvcc >/dev/null || { \
	  echo "there is no nvcc to build flash-attn with (about an hour). Give a wheel built for torch 2.11, CUDA 13 and this Python,"; \
	  echo "make gpu FLASH_ATTN_WHEEL=URL, or go without: make gpu FLASH_ATTN_WHEEL=no (docs/seven_b.md says what both mean)"; exit 1; }
	$(UV) pip install --python $(RUN) --no-deps --no-build-isolation "$$(sed -n 's/.*"flash": \["\(.*\)"\].*/\1/p' setup.py)"
endif
	@echo "[5/5] installing this checkout"
	$(UV) pip install --python $(RUN) --no-deps --no-build-isolation --editable .
	@echo "$(FLASH_ATTN_WHEEL)" >$@
	@echo "done: source $(VENV)/bin/activate; videosearch doctor"

$(INSTALLED): setup.py $(LOCK)
	@[ ! -e $(GPU_INSTALLED) ] || { \
	  echo "$(VENV) holds the packages for GPUs: make VENV=.venv-cpu, or make clean first"; exit 1; }
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
