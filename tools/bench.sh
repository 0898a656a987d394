#!/usr/bin/env bash
# Time every kernel that has a bench.py, one after another; `make bench`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for file in kernels/*/bench.py; do
  [ -e "$file" ] || { echo "bench: no kernel has a bench.py"; exit 0; }
  name=$(basename "$(dirname "$file")")
  echo "== $name"
  python -m "maya.kernels.$name.bench"
done
