# Commands for developers; `make` alone lists them. Each makes its environment first (tools/env.sh).
SHELL := bash
.DEFAULT_GOAL := help

JOBS ?= 2# pytest processes; one torch thread each
ARGS ?=# more arguments for pytest, such as ARGS="-k tdt -x"
# For the prod targets: the experiment, the prepared data, the run folder, and the number of GPUs of this machine.
EXPERIMENT ?= egs.indic12.fastconformer_tdt_ctc_1b
DATA ?= exp/indic12/corpus/data
RUN ?= $(patsubst %/data,%,$(DATA))/$(subst :,_,$(lastword $(subst ., ,$(notdir $(subst .py,,$(EXPERIMENT))))))
GPUS ?= 8
STORAGE ?=# s3://bucket/runs/NAME, where this run's checkpoints go; keys and endpoint as boto3 reads them
AUDIO ?=# s3://bucket/key: an object to test the storage of the audio with
PROD = --experiment $(EXPERIMENT) --data "$(DATA)" --run-dir "$(RUN)"
ENV := . tools/env.sh && maya_env dev &&
PYTEST := python -m pytest -n $(JOBS) --dist loadgroup

.PHONY: help setup constraints test test-all test-oldest test-newest lint format types smoke bench bench-plan gate gpu-check release validate-r2 prod-artifacts prod-readiness prod-launch clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 18

setup:  ## make .venv with everything in it (only when no environment that has it all is active)
	@$(ENV) python -c 'import maya, sys; print("maya", maya.__version__, "in", sys.prefix)'

constraints:  ## write constraints.txt again from .venv-newest; run the tests with it before you commit it
	@. tools/env.sh && maya_env_of newest && python tools/requirements.py refresh

test:  ## the tests that take seconds, on the CPU
	@$(ENV) $(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all:  ## all tests that need no GPU
	@$(ENV) $(PYTEST) -m "not gpu" $(ARGS)

test-oldest:  ## make test in .venv-oldest: torch 2.11.0 and torchaudio 2.11.0, the rest as in constraints.txt
	@. tools/env.sh && maya_env_of oldest && $(PYTEST) -m "not slow and not gpu" $(ARGS)

test-newest:  ## make test in .venv-newest: the newest version of everything, without constraints.txt
	@. tools/env.sh && maya_env_of newest && $(PYTEST) -m "not slow and not gpu" $(ARGS)

lint:  ## ruff: rules and layout (make format corrects most of it)
	@$(ENV) ruff check . && ruff format --check .

format:  ## format the code and apply ruff's fixes
	@$(ENV) ruff check --fix . && ruff format .

types:  ## mypy
	@$(ENV) python tools/typecheck.py

smoke:  ## the whole pipeline in one or two minutes, on a tiny corpus and one GPU if there is one
	@$(ENV) tools/smoke.sh

bench:  ## check and time every kernel on this machine, an hour on two cores (ARGS=--quick: a minute)
	@$(ENV) python -m maya.kernels.bench $(ARGS)

bench-plan:  ## measure the batch plan at 10 million utterances and beside lhotse, into docs/benchmarks/plan.*
	@$(ENV) python -m tools.bench.plan $(ARGS)

gate:  ## compile every kernel for sm_80, sm_90 and sm_100 and write the figures into docs/benchmarks/gate.md
	@$(ENV) python -m maya.kernels.compile_gate --before docs/benchmarks/gate-before.json --page docs/benchmarks/gate.md $(ARGS)

gpu-check:  ## on a machine with an NVIDIA GPU, in 10 minutes: bars, GPU tests, profile (ARGS=--dry-run: on a CPU)
	@MAYA_COMMIT=$$(git rev-parse HEAD 2>/dev/null) tools/gpu_run.sh $(ARGS)

release: lint types test-all smoke  ## all checks before a release
	@git diff --quiet HEAD -- || { echo "release: uncommitted changes; a run could not name its code"; exit 1; }
	@if nvidia-smi -L >/dev/null 2>&1; then $(MAKE) --no-print-directory gpu-check; else echo "release: no GPU here, gpu-check left out"; fi

validate-r2:  ## check object storage (R2, S3), operation by operation: STORAGE=s3://bucket/runs/NAME
	@[ -n "$(STORAGE)" ] || { echo "validate-r2: give STORAGE=s3://bucket/runs/NAME"; exit 1; }
	@$(ENV) maya check-storage "$(STORAGE)"

prod-artifacts:  ## prepare the data, train the tokenizer, check the plan, upload them: CORPUS=DIR (STORAGE= as above)
	@[ -n "$(CORPUS)" ] || { echo "prod-artifacts: give CORPUS=DIR, the folder of the corpus"; exit 1; }
	@$(ENV) maya prepare --experiment $(EXPERIMENT) --corpus "$(CORPUS)" --out "$(DATA)" $(ARGS) && \
	maya tokenizer $(PROD) $(ARGS) && maya plan --experiment $(EXPERIMENT) --data "$(DATA)" $(ARGS) && \
	{ [ -z "$(STORAGE)" ] || { maya watch "$(DATA)" --to "$(STORAGE)-data" --once && \
	maya watch "$(RUN)" --to "$(STORAGE)" --once; }; }

prod-readiness:  ## check whether a long run can start: DATA=exp/indic12/DIR/data (EXPERIMENT= RUN= GPUS=8 STORAGE= AUDIO= ARGS=)
	@$(ENV) maya ready $(PROD) --gpus $(GPUS) --storage "$(AUDIO)" --to "$(STORAGE)" $(ARGS)

prod-launch:  ## check, continue from the storage if it has the run, train and upload: STORAGE=s3://bucket/runs/NAME
	@[ -n "$(STORAGE)" ] || { echo "prod-launch: give STORAGE=s3://bucket/runs/NAME, where checkpoints go"; exit 1; }
	@$(ENV) maya supervise $(PROD) --gpus $(GPUS) --to "$(STORAGE)" $(ARGS)

clean:  ## remove build products and caches; .venv* and exp/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
