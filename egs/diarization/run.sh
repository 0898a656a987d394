#!/usr/bin/env bash
# Who speaks when: an end-to-end head, trained on simulated meetings, beside clusters of voices. A CPU is enough for the voices at hand.
#
#   ./egs/diarization/run.sh --cpu true --experiment diarization:speakers --stop-stage 3     the encoder learns voices first; then:
#   ./egs/diarization/run.sh --cpu true --set train.init_from=exp/diarization/voices/diarization_speakers
#   ./egs/diarization/run.sh --corpus DIR --stage 1       any corpus with speakers; without a label `turns`, all of a recording is speech
#   ./egs/diarization/run.sh --stage 6 --voices RUN       with the encoder of egs/speakers, too
#   ./egs/diarization/run.sh --stage 5 --recogniser RUN --recogniser-data DATA       cpWER, of meetings of DATA that RUN recognises
#
# Options: --stage N --stop-stage N --source DIR --corpus DIR --meetings N --voices RUN --recogniser RUN --recogniser-data DATA --experiment NAME|FILE --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus  1 manifests and validation  2 tokenizer  3 train  4 average  5 simulated meetings  6 evaluate
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source=
corpus=
meetings=24
voices=
recogniser=
recogniser_data=
experiment=diarization:small
. egs/stages.sh

if [ -z "$source" ]; then source=../shared/corpora; else source=$(absolute "$source"); fi
work=${work:-exp/diarization/voices}
begin diarization
if [ -z "$corpus" ]; then corpus=$work/corpus; else corpus=$(absolute "$corpus"); fi

if due 0 && { [ ! -f "$corpus/manifest.jsonl" ] || $stage_given; }; then
  python -m egs.diarization.data voices --source "$source" --out "$corpus"
fi
prepare "$corpus"
train
average
sets=$work/sets
if due 5; then
  for n in 2 3 4; do
    python -m egs.diarization.data meetings --data "$data" --speakers "$n" --count "$meetings" --out "$sets/test$n"
  done
  for n in 2 3; do
    python -m egs.diarization.data meetings --data "$data" --part dev --speakers "$n" --count "$meetings" --out "$sets/dev$n"
  done
  if [ -n "$recogniser_data" ]; then
    python -m egs.diarization.data meetings --data "$(absolute "$recogniser_data")" --speakers 2 --count "$meetings" --set stay=0.5 --out "$sets/words"
  fi
fi
if due 6; then
  options=(--run "$run" --dev "$sets/dev2" "$sets/dev3")
  if [ -n "$voices" ]; then options+=(--voices "$(absolute "$voices")"); fi
  if [ -n "$recogniser" ]; then options+=(--words "$sets/words" --recogniser "$(absolute "$recogniser")"); fi
  python -m egs.diarization.evaluate "$sets"/test[234] "${options[@]}" --out "$run/diarization.json"
fi
