#!/usr/bin/env bash
# Tune a model of one language to 10, 30 and 60 minutes of another, in several ways; compare each with the start.
#
#   ./egs/finetune/run.sh --base RUN --corpus CORPUS
#   ./egs/finetune/run.sh --base RUN --corpus CORPUS --ways "lora norms" --minutes "10" --options "--replay 0.3"
set -euo pipefail
base= corpus= minutes="10 30 60" ways="all lora norms" languages="bn kn" options= work=exp/finetune
while [ $# -gt 0 ]; do
  case $1 in
    --base | --corpus | --minutes | --ways | --languages | --options | --work) printf -v "${1#--}" '%s' "$2" ;;
    *) echo "$0: unknown option $1; see the comment at its top" >&2; exit 1 ;;
  esac
  shift 2
done
[ -n "$base" ] && [ -n "$corpus" ] || { echo "$0: name a trained run with --base and a corpus with --corpus" >&2; exit 1; }
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tools/env.sh
maya_env
# shellcheck disable=SC2086  # a word for each
python -m egs.finetune.data --source "$corpus" --languages $languages --minutes $minutes --out "$work/corpora"
for m in $minutes; do
  for way in $ways; do
    # shellcheck disable=SC2086
    maya finetune --from "$base" --data "$work/corpora/${languages%% *}-$m" --tune "$way" --run-dir "$work/$way-$m" $options
  done
done
