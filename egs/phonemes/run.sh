#!/usr/bin/env bash
# Phonemes by CTC, of any encoder: error rate, articulatory distance, and how well a learner said them.
#
#   ./egs/phonemes/run.sh --cpu true                                   a corpus that eSpeak NG speaks, FastConformer
#   ./egs/phonemes/run.sh --experiment phonemes:zipformer              lact, mlp
#   ./egs/phonemes/run.sh --experiment phonemes:whisper --init RUN     of `maya convert whisper`, frozen
#   ./egs/phonemes/run.sh --experiment backbones:wavlm_large --folder DIR    a model as Hugging Face keeps it
#   ./egs/phonemes/run.sh --task speechocean762 --source DIR           also timit, l2arctic
#   ./egs/phonemes/run.sh --stage 5 --runs "RUN RUN"                   several runs, fused and by vote
#
# Options: --task NAME --stage N --stop-stage N --source DIR --experiment NAME|FILE --init RUN --folder DIR --runs "RUN ..." --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus  1 manifests and validation  2 tokenizer  3 train  4 average  5 evaluate
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

task=spoken
source=
experiment=phonemes:fastconformer
init=   # a run whose encoder is taken
folder= # of a model of Hugging Face
runs=   # to be evaluated together, in place of this one
. egs/stages.sh

case $task in
  spoken) from=() ;;
  speechocean762 | timit | l2arctic)
    [ -n "$source" ] || { echo "$0: --task $task needs --source DIR, the folder of the corpus" >&2; exit 1; }
    from=(--source "$(absolute "$source")")
    ;;
  *) echo "$0: --task must be spoken, speechocean762, timit or l2arctic, not '$task'" >&2; exit 1 ;;
esac
work=${work:-exp/phonemes/$task}
[ -z "$init" ] || overrides+=(--set "train.init_from=$(absolute "$init")")
begin phonemes

if due 0 && { [ "$task" = spoken ] || [ ! -f "$work/corpus/manifest.jsonl" ] || $stage_given; }; then
  python -m egs.phonemes.data "$task" "${from[@]}" --out "$work/corpus"
fi
if [ -f "$work/corpus/units.txt" ]; then exp+=(--set "model.heads.phonemes.units=$(cat "$work/corpus/units.txt")"); fi
if [ -n "$folder" ]; then
  options=$(python -m egs.phonemes.backbones "$(absolute "$folder")")
  while IFS= read -r option; do exp+=(--set "$option"); done <<<"$options"
fi
prepare "$work/corpus"
train
average
if due 5; then
  paths=("$run")
  if [ -n "$runs" ]; then
    paths=()
    for path in $runs; do paths+=("$(absolute "$path")"); done
  fi
  fold=()
  [ "$task" != timit ] || fold=(--fold 39)
  python -m egs.phonemes.evaluate "${paths[@]}" --data "$data" "${fold[@]}" --out "${paths[0]}/phonemes.json"
fi
