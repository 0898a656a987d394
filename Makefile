# The commands people reach for; `make` alone lists them. Each makes its environment first (tools/env.sh).
SHELL := bash
.DEFAULT_GOAL := help

JOBS ?= 2# pytest processes; one torch thread each
ARGS ?=# more arguments for pytest, such as ARGS="-k tdt -x"
# Of prod-readiness: the run that is meant to begin, where its data and its folder are, how many GPUs of this machine.
EXPERIMENT ?= egs.indic12.fastconformer_tdt_ctc_1b
DATA ?= exp/indic12/corpus/data
RUN ?= $(patsubst %/data,%,$(DATA))/$(lastword $(subst ., ,$(EXPERIMENT)))
GPUS ?= 8
ENV := . tools/env.sh && maya_env dev &&
PYTEST := python -m pytest -n $(JOBS) --dist loadgroup

.PHONY: help setup constraints test test-all test-oldest test-newest lint format types smoke bench bench-plan gpu-check release prod-readiness clean

help:  ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup:  ## make .venv with everything in it (only when no environment that has it all is active)
	@$(ENV) python -c 'import maya, sys; print("maya", maya.__version__, "in", sys.prefix)'

constraints:  ## write constraints.txt anew from .venv-newest; run the tests with it before it is committed
	@. tools/env.sh && maya_env_of newest && python tools/requirements.py refresh

test:  ## the tests that take seconds, on the CPU
	@$(ENV) $(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all:  ## all tests that need no GPU
	@$(ENV) $(PYTEST) -m "not gpu" $(ARGS)

test-oldest:  ## make test in .venv-oldest: torch 2.11.0 and torchaudio 2.11.0, the rest as in constraints.txt
	@. tools/env.sh && maya_env_of oldest && $(PYTEST) -m "not slow and not gpu" $(ARGS)

test-newest:  ## make test in .venv-newest: the newest version of everything, without constraints.txt
	@. tools/env.sh && maya_env_of newest && $(PYTEST) -m "not slow and not gpu" $(ARGS)

lint:  ## ruff: rules and layout (make format mends most of it)
	@$(ENV) ruff check . && ruff format --check .

format:  ## let ruff lay the code out and mend what it can
	@$(ENV) ruff check --fix . && ruff format .

types:  ## mypy
	@$(ENV) python tools/typecheck.py

smoke:  ## the whole road in a minute or two: a tiny spoken corpus, a few steps of training, a score
	@$(ENV) tools/smoke.sh

bench:  ## check and time every kernel on this machine, an hour on two cores (ARGS=--quick: a minute)
	@$(ENV) python -m maya.kernels.bench $(ARGS)

bench-plan:  ## measure the batch plan at 10 million utterances and beside lhotse, into docs/benchmarks/plan.*
	@$(ENV) python -m tools.bench.plan $(ARGS)

gpu-check:  ## on a machine with an NVIDIA GPU, in 10 minutes: bars, GPU tests, profile (ARGS=--dry-run: on a CPU)
	@MAYA_COMMIT=$$(git rev-parse HEAD 2>/dev/null) tools/gpu_run.sh $(ARGS)

release: lint types test-all smoke  ## everything that must hold before a release
	@git diff --quiet HEAD -- || { echo "release: uncommitted changes; a run could not name its code"; exit 1; }
	@if nvidia-smi -L >/dev/null 2>&1; then $(MAKE) --no-print-directory gpu-check; else echo "release: no GPU here, gpu-check left out"; fi

prod-readiness:  ## whether a long run may begin: DATA=exp/indic12/DIR/data (EXPERIMENT= RUN= GPUS=8 STORAGE=s3://bucket/key ARGS=)
	@$(ENV) maya ready --experiment $(EXPERIMENT) --data "$(DATA)" --run-dir "$(RUN)" --gpus $(GPUS) --storage "$(STORAGE)" $(ARGS)

clean:  ## remove what can be made again; .venv* and exp/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
