#!/usr/bin/env bash
# LibriSpeech (English, read books): 960 h, or its parts, or mini LibriSpeech.
#
#   ./egs/librispeech/run.sh --source DIR              DIR holds LibriSpeech/, or its content: train-clean-100 ...
#   ./egs/librispeech/run.sh --download full|mini      60 GB, or 0.5 GB, into ./download
#   ./egs/librispeech/run.sh --source DIR --parts "train-clean-100 dev-clean dev-other test-clean test-other"
#   ./egs/librispeech/run.sh --source DIR --experiment zipformer:large_cr_ctc --gpus 2
#   ./egs/librispeech/run.sh --source DIR --experiment lact:base_ctc --gpus 1
#   ./egs/librispeech/run.sh --source DIR --stage 4 --epoch 50 --avg 25    the average to decode with, not chosen on dev
#   ./egs/librispeech/run.sh --source DIR --stage 5 --methods "transducer modified_beam"
#   ./egs/librispeech/run.sh --source DIR --musan DIR  noise, music and babble on half of the training utterances
#
# Options: --stage N --stop-stage N --source DIR --download full|mini --parts "PART ..." --experiment NAME[:FUNCTION]|FILE --name RUN
#          --epoch "N ..." --avg "N ..." --methods "all|METHOD ..." --musan DIR --gpus N --cpu true|false --work DIR
# Any field of the experiment: --train.lr 0.03 --name x
# Stages: 0 download  1 manifests and validation  2 tokenizer  3 train  4 average  5 decode  6 score
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source=   # by default download/, where --download puts it
download=
parts=    # by default all that are there
experiment=zipformer:medium
epoch=    # with one of each of these, that average; with several or none, dev chooses
avg=
methods=all # of decode.method
musan=
. egs/stages.sh

[ -z "$source" ] || source=$(absolute "$source")
source=${source:-download}
work=${work:-exp/librispeech/$(basename "$source")}
if [ -n "$musan" ]; then # MUSAN's three kinds in proportion to their hours, together on one utterance in two
  musan=$(absolute "$musan")
  for kind in noise:noise:0.03 music:music:0.19 babble:speech:0.28; do
    IFS=: read -r field folder prob <<<"$kind"
    overrides+=(--set "data.augment.$field.folders=$musan/$folder" --set "data.augment.$field.prob=$prob")
  done
fi
begin librispeech

if due 0 && [ -n "$download" ]; then python -m egs.librispeech.data download --kind "$download" --out "$source"; fi
if due 1; then python -m egs.librispeech.data manifests --source "$source" --out "$work/manifests" --parts $parts; fi
prepare "$work/manifests"
train

select=() # by steps, where the training left no epochs
if compgen -G "$run/checkpoints/epoch-*.pt" >/dev/null && [[ ! "$epoch,$avg" =~ ^[0-9]+,[0-9]+$ ]]; then
  select=(--select)
fi
average "${select[@]}" ${epoch:+--epoch $epoch} ${avg:+--avg $avg}

if due 5 || due 6; then sets=$(python -m egs.librispeech.data sets --data "$data"); fi
if due 5 && [ -n "$sets" ]; then
  maya decode "$run" "${exp[@]}" --data "$data" --split $sets --method $methods "${force[@]}"
fi
if due 6 && [ -n "$sets" ]; then maya score "$run" --data "$data" --split all "${force[@]}"; fi
if { due 5 || due 6; } && [ -z "$sets" ]; then
  echo "$data has no dev or test set: stages 5 and 6 are left out"
fi
