#!/usr/bin/env bash
# Tune a model of one language to 10, 30 and 60 minutes of another, in several ways; compare each with the start.
#
#   ./egs/finetune/run.sh --base RUN --corpus DIR
#   ./egs/finetune/run.sh --base RUN --corpus DIR --ways "lora norms" --minutes 10 --replay 0.3
#   ./egs/finetune/run.sh --base RUN --corpus DIR --train.steps 250      any option of the experiment
#
# Options: --stage N --stop-stage N --base RUN --corpus DIR --ways LIST --minutes LIST --languages LIST --replay SHARE --work DIR
# Stages: 0 corpora  1 tune and compare
# A tuning whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

base= # a trained run folder
corpus= # a folder with a manifest.jsonl
ways="all lora norms"
minutes="10 30 60"
languages="bn kn"
replay=0
. egs/stages.sh

[ -n "$base" ] && [ -n "$corpus" ] || { echo "$0: name a trained run with --base and a corpus with --corpus" >&2; exit 1; }
. tools/env.sh
maya_env
work=${work:-exp/finetune} base=$(absolute "$base") corpus=$(absolute "$corpus")
read -ra language_list <<<"$languages"
read -ra minute_list <<<"$minutes"

if due 0; then
  python -m egs.finetune.data --source "$corpus" --languages "${language_list[@]}" --minutes "${minute_list[@]}" --out "$work/corpora"
fi
if due 1; then
  for m in "${minute_list[@]}"; do
    for way in $ways; do
      maya finetune --from "$base" --data "$work/corpora/${language_list[0]}-$m" --tune "$way" --replay "$replay" \
        --run-dir "$work/$way-$m" "${overrides[@]}"
    done
  done
fi
