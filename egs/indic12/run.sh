#!/usr/bin/env bash
# Twelve Indic languages, from audio to error rates per language.
#
#   ./egs/indic12/run.sh                            the built-in spoken corpus; a CPU is enough
#   ./egs/indic12/run.sh --corpus DIR               your own: a folder in any form of README.md's "Your own audio"
#   ./egs/indic12/run.sh --stage 5                  decode again, then score
#   ./egs/indic12/run.sh --train.lr 1e-3 --name x   any field of the experiment, in a run of its own
#   ./egs/indic12/run.sh --experiment large --corpus DIR --gpus 8
#   ./egs/indic12/run.sh --experiment fastconformer_tdt_ctc_1b --corpus DIR --gpus 8 --encoder-lr 1e-5   (README.md)
#
# Options: --stage N --stop-stage N --corpus mini|DIR --experiment NAME|FILE --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus  1 manifests and validation  2 tokenizer  3 train  4 average  5 decode  6 score
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

stage=0
stop_stage=6
corpus=mini      # "mini": made here by a speech synthesizer; else a folder
experiment=      # a file of this folder (mini, real, small, large, fastconformer_tdt_ctc_{110m,600m,1b}, finetune_tiny)
                 # or of your own (./mine.py)
name=            # of the run; by default the experiment's
gpus=auto
cpu=false
work=            # by default exp/indic12/<corpus>
. tools/parse_options.sh
. tools/prepared.sh
. tools/env.sh
maya_env

if [ "$corpus" = mini ]; then
  work=${work:-exp/indic12/mini}
  audio=$work/corpus
else
  case $corpus in
    lhotse:*|nemo:*) audio=$corpus ;; # no folder: the paths in it are those from here, or absolute
    *) audio=$(cd "$start_dir" && realpath -m "$corpus") ;;
  esac
  work=${work:-exp/indic12/$(basename "$audio")}
fi
if [ -z "$experiment" ]; then experiment=$([ "$corpus" = mini ] && echo mini || echo real); fi
[ "$gpus" = auto ] && gpus=$(count_gpus)
$cpu && device=(--cpu) || device=()
data=$work/data
resolve_experiment indic12
run=$work/${name:-$experiment}
exp=(--experiment "$experiment_file" "${overrides[@]}")

if due 0 && [ "$corpus" = mini ]; then
  python -m egs.indic12.data --out "$audio"
fi
if due 1; then
  maya prepare "${exp[@]}" --corpus "$audio" --out "$data" "${force[@]}"
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
