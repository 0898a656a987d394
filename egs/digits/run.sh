#!/usr/bin/env bash
# Spoken digits on real voices: single digits and strings of 1 to 7, on speakers not heard in training.
#
#   ./egs/digits/run.sh --source DIR      DIR holds manifest.jsonl with one spoken digit a row (text, speaker, audio)
#   ./egs/digits/run.sh --stage 5         decode again, then score
#   ./egs/digits/run.sh --train.lr 1e-3 --name x    any field of the experiment, in a run of its own
#
# Options: --stage N --stop-stage N --source DIR --experiment NAME|FILE --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus  1 manifests and validation  2 tokenizer  3 train  4 average  5 decode  6 score
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

stage=0
stop_stage=6
source=../shared/corpora/digits
experiment=digits
name=            # of the run; by default the experiment's
gpus=auto
cpu=false
work=            # by default exp/digits/<source>
. tools/parse_options.sh
. tools/prepared.sh
. tools/env.sh
maya_env

[ "$source" = ../shared/corpora/digits ] || source=$(cd "$start_dir" && realpath -m "$source")
work=${work:-exp/digits/$(basename "$source")}
[ "$gpus" = auto ] && gpus=$(count_gpus)
$cpu && device=(--cpu) || device=()
data=$work/data
resolve_experiment digits
run=$work/${name:-$experiment}
exp=(--experiment "$experiment_file" "${overrides[@]}")

if due 0; then
  python -m egs.digits.data --source "$source" --out "$work/corpus"
fi
if due 1; then
  maya prepare "${exp[@]}" --corpus "$work/corpus" --out "$data" "${force[@]}"
fi
if due 2; then
  maya tokenizer "${exp[@]}" --data "$data" --run-dir "$run" "${force[@]}"
fi
if due 3; then
  launch "$gpus" train "${exp[@]}" --data "$data" --run-dir "$run" "${device[@]}" "${force[@]}"
fi
if due 4; then
  maya average "${exp[@]}" --data "$data" --run-dir "$run" "${force[@]}"
fi
if due 5 && has_set "$data" test 5; then
  maya decode "${exp[@]}" --data "$data" --run-dir "$run" "${force[@]}"
fi
if due 6 && has_set "$data" test 6; then
  maya score --data "$data" --run-dir "$run" "${force[@]}"
fi
