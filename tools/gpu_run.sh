#!/usr/bin/env bash
# All that a short loan of a GPU can tell about the kernels: one command of at most 560 s. docs/benchmarks/gpu.md
# explains how to read what it leaves.
#
#   MAYA_COMMIT=$(git rev-parse HEAD) tools/gpu_run.sh     on a machine with an NVIDIA GPU
#   tools/gpu_run.sh --dry-run                             every part on a CPU, small, and what it would measure
#
# LIMIT: seconds of the whole; LIMIT_tune, for example, of one part. PARTS: names of the parts to run (default:
# all), as in the list at the end.
#
# Each part has a limit of its own and a file of its own in $OUT (by default exp/gpu), so that a part that is
# killed loses nothing of the others. The parts come in the order of their worth: what the limit cuts off is the
# last. It needs a Python with torch, triton, numpy and pytest, and no network.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

DRY= LIMIT=${LIMIT:-560}
[ "${1:-}" != --dry-run ] || DRY=1
OUT=${OUT:-exp/gpu}
mkdir -p "$OUT" || exit 1
rm -f "$OUT"/*.txt "$OUT"/bench.* "$OUT/forms.json"
OUT=$(cd "$OUT" && pwd)

python_with_torch() {
  local python
  for python in ${PYTHON:-} python python3 python3.12 python3.11; do
    "$python" -c 'import torch, triton, numpy, pytest' 2>/dev/null && command -v "$python" && return
  done
}
PYTHON=$(python_with_torch)
[ -n "$PYTHON" ] || { echo "gpu_run: no Python here has torch, triton, numpy and pytest" >&2; exit 1; }
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
if [ -n "$DRY" ]; then
  export CUDA_VISIBLE_DEVICES= TRITON_INTERPRET=1 OMP_NUM_THREADS=1
elif ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu_run: torch sees no CUDA device, so nothing was run; try --dry-run" >&2
  exit 1
fi

summary="$OUT/environment.txt" # the first part's file; a line is added to it after each part
: >"$summary"
failed=0
part() { # NAME SECONDS WHAT [FILE]: runs the function NAME; its output goes to FILE.txt, by default NAME.txt
  local name=$1 limit=$2 what=$3 file=$OUT/${4:-$1}.txt rest=$((LIMIT - SECONDS)) began=$SECONDS verdict=done status
  [[ " ${PARTS:-$name} " == *" $name "* ]] || return
  if [ "$rest" -lt 5 ]; then
    echo "$name: not begun, the $LIMIT s were over" | tee -a "$summary"
    failed=1
    return
  fi
  local own="LIMIT_$name"
  limit=${!own:-$limit}
  [ "$limit" -lt "$rest" ] || limit=$rest
  echo "== $name, at most $limit s${DRY:+ (dry run: small, on the CPU)}: $what" | tee -a "$file"
  timeout --kill-after=5 "$limit" bash -c "$name" 2>&1 | tee -a "$file"
  status=${PIPESTATUS[0]}
  case $status in
    0) ;;
    124 | 137) verdict="cut off" failed=1 ;;
    *) verdict="FAILED with status $status" failed=1 ;;
  esac
  echo "$name: $verdict after $((SECONDS - began)) s" | tee -a "$summary"
}

bench() { # SECONDS OPERATOR...: results of all go to bench.json
  local seconds=$1
  shift
  local case=gpu
  [ -z "$DRY" ] || case=quick seconds=0.05
  "$PYTHON" -m maya.kernels.bench "$@" --case "$case" --seconds "$seconds" --out "$OUT" --name bench --no-plot
}
environment() {
  nvidia-smi 2>/dev/null || echo "no nvidia-smi"
  "$PYTHON" -c 'import json; from maya.kernels.bench.machine import machine; print(json.dumps(machine(), indent=1))'
}
losses() { bench 4 rnnt tdt --forms fused --forms Triton; }
lattices() { bench 3 lattice ctc lact; }
correctness() {
  local workers=() some=(-m gpu)
  "$PYTHON" -c 'import xdist' 2>/dev/null && workers=(-n 8)
  [ -z "$DRY" ] || workers=() some=(-k "zero_posteriors or near_one")
  "$PYTHON" -m pytest -q -p no:cacheprovider "${workers[@]}" "${some[@]}" tests/kernels
}
tune() {
  "$PYTHON" -m maya.kernels.joint.tune_forms --out "$OUT/forms.json" ${DRY:+--dry-run}
  "$PYTHON" -m maya.kernels.joint.tune ${DRY:+--dry-run}
}
profile() { "$PYTHON" -m tools.gpu_profile ${DRY:+--dry-run}; }
races() { # after the tests, in their file
  local tool
  tool=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  [ -x "$tool" ] || { echo "compute-sanitizer is not here, so no race was looked for"; return 0; }
  "$tool" --tool racecheck "$PYTHON" -m pytest -q -p no:cacheprovider -k "sum_to_labels" tests/kernels/test_triton_lattice.py
}
export -f bench environment losses lattices correctness tune profile races
export PYTHON DRY OUT

part environment 30 "the GPU, its driver, versions, commit"
part losses 150 "fused RNN-T and TDT at V 32768 and 32769, bf16, on sharp, uniform and real lattices: ms, GB, bars, peers"
part lattices 80 "both lattices from given log probabilities, CTC, and LaCT: ms, share of the peak, bars"
part correctness 130 "the tests of all Triton forms, compiled and on production shapes"
part profile 80 "milliseconds by kernel of both losses and of a FastConformer step, with and without torch.compile"
part tune 90 "the forms of the joint by shape, for forms.json; every tile of its products beside cuBLAS, TFLOP/s"
part races 30 "racecheck of the lattices, where compute-sanitizer is" correctness
rm -f "$OUT/bench.md" # python -m tools.gpu_results makes it again where it is kept
grep -E '^[a-z]+: ' "$summary"
echo "gpu_run: $SECONDS s; results in $OUT"
exit "$failed"
