#!/usr/bin/env bash
# Benchmarks of the kernels; `make bench` and `make gpu-check`.
#
#   tools/bench.sh [ARGS]        python -m maya.kernels.bench ARGS
#   tools/bench.sh --gpu [ARGS]  on a machine with an NVIDIA GPU: compile gate, tests that need the GPU, benchmarks
#                                into docs/benchmarks/<gpu>.{json,md,png}; status 1 if one failed or there is no GPU
#
# With --gpu a Python whose torch sees the GPU is used as it is: nothing is installed into it and no network is
# needed. It must have torch, triton, numpy and pytest; torchaudio and matplotlib are used where they are there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sees_gpu() { python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; }

no_gpu() {
  echo "gpu-check: $1: nothing was run." >&2
  echo "gpu-check: what needs no GPU is in make test: the kernels in the interpreter, and compiled for sm_80 and sm_90" >&2
  exit 1
}

if [ "${1:-}" != --gpu ]; then
  exec python -m maya.kernels.bench "$@"
fi
shift

. tools/env.sh
if sees_gpu; then
  [ "$(_maya_place)" = "$_maya_top" ] || _maya_first_on_path
elif nvidia-smi -L >/dev/null 2>&1; then
  maya_env dev
  sees_gpu || no_gpu "nvidia-smi finds a GPU, but torch sees no CUDA device"
else
  no_gpu "no NVIDIA GPU here"
fi

summary= failed=0
step() { # NAME COMMAND...: all are run, even if one fails
  local name=$1 verdict=passed began=$SECONDS
  shift
  echo "== $name: $*"
  "$@" || { verdict=FAILED failed=1; }
  summary+="gpu-check: $name: $verdict ($((SECONDS - began)) s)"$'\n'
}
step "compile gate" python -m maya.kernels.compile_gate
step "tests on the GPU" python -m pytest -m gpu tests/kernels
step "Zipformer's step" python -m tools.bench.zipformer --device cuda --compile --modes eval
step "benchmarks" python -m maya.kernels.bench --out docs/benchmarks "$@"
printf '%s' "$summary"
exit "$failed"
