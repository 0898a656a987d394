#!/usr/bin/env bash
# Spoken digits on real voices: single digits and strings of 1 to 7, on speakers not heard in training.
#
#   ./egs/digits/run.sh --source DIR      DIR holds manifest.jsonl with one spoken digit a row (text, speaker, audio)
#   ./egs/digits/run.sh --start-voices 0   begin with nothing instead of a model of 240 synthetic speakers a language
#   ./egs/digits/run.sh --stage 5         decode again, then score
#   ./egs/digits/run.sh --train.lr 1e-3 --name x    any field of the experiment, in a run of its own
#
# Options: --start-voices N --stage N --stop-stage N --source DIR --experiment NAME|FILE --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus  1 manifests and validation  2 tokenizer  3 train  4 average  5 decode  6 score
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source=../shared/corpora/digits
experiment=digits
start_voices= # 240 for the experiment digits on its own source, else 0
. egs/stages.sh

[ "$experiment-$source" != digits-../shared/corpora/digits ] || start_voices=${start_voices:-240}
start_voices=${start_voices:-0}
[ "$source" = ../shared/corpora/digits ] || source=$(absolute "$source")
work=${work:-exp/digits/$(basename "$source")}
begin digits

if due 0; then python -m egs.digits.data --source "$source" --out "$work/corpus"; fi
prepare "$work/corpus"
if [ "$start_voices" -gt 0 ]; then # from here on all stages are of a training that begins with it
  start=$(realpath -m "$work/start-$experiment-$start_voices")
  if due 2; then python -m egs.digits.start "${exp[@]}" --out "$start" --voices "$start_voices"; fi
  exp+=(--set "train.init_from=$start/run" --set train.init_modules=encoder,ctc,language_embedding)
  exp+=(--set train.encoder_hold=0 --set "tokenizer.file=$start/run/tokenizer.model")
fi
train
average
decode_and_score
