#!/usr/bin/env bash
# Tune Whisper to a folder of recordings in several ways, and measure what it forgets on general speech.
#
#   ./egs/whisper/run.sh --model DIR --corpus DIR --general DIR      your recordings, and general speech: any form in docs/data.md
#   ./egs/whisper/run.sh --model DIR                                 digits, and English sentences as general speech
#   ./egs/whisper/run.sh --model DIR --ways "lora decoder" --train.steps 200
#
# Options: --model DIR --corpus DIR --general DIR --language CODE --ways LIST --replay SHARE --stage N --stop-stage N --cpu true|false --work DIR
# Stages: 0 corpora  1 general data  2 tune and compare
# Ways: all (all weights), decoder (the encoder stays), lora. Each is a run folder, with finetune.md.
# A tuning whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

model= # a Whisper folder of Hugging Face or CTranslate2, or a run folder
corpus= # by default, utterances of ../shared/corpora/digits
general= # other speech in that language; by default, of ../shared/corpora/indic12
language=en
ways="all decoder lora"
replay=0 # share of general speech in training
. egs/stages.sh

[ -n "$model" ] || { echo "$0: name a Whisper model with --model; see $0 --help" >&2; exit 1; }
for way in $ways; do
  case $way in
    all | decoder | lora) ;;
    *) echo "$0: --ways holds all, decoder or lora, not '$way'" >&2; exit 1 ;;
  esac
done
. tools/env.sh
maya_env
work=${work:-exp/whisper} model=$(absolute "$model")
device=()
! $cpu || device=(--cpu)

if [ -n "$corpus" ]; then
  corpus=$(absolute "$corpus")
else
  corpus=$work/own
  if due 0; then
    python -m egs.whisper.data --source ../shared/corpora/digits --language "$language" --per-speaker 200 --per-tested 60 --out "$corpus"
  fi
fi
if [ -n "$general" ]; then
  general=$(absolute "$general")
else
  general=$work/general
  if due 0; then
    python -m egs.whisper.data --source ../shared/corpora/indic12 --language "$language" --dev 0.01 --test 0.8 --out "$general"
  fi
fi
if due 1; then
  maya prepare --experiment egs.whisper.whisper --set languages="$language" --corpus "$general" --out "$work/general-data"
fi
if due 2; then
  for way in $ways; do
    case $way in
      all) options=(--set train.lr=3e-5 --set train.encoder_lr=1e-5) ;;
      decoder) options=(--set train.lr=3e-5 --set train.freeze=encoder) ;;
      lora) options=(--tune lora --set train.lr=1e-3) ;;
    esac
    maya finetune --from "$model" --data "$corpus" --general "$work/general-data" --language "$language" --replay "$replay" \
      --run-dir "$work/$way" --set model.encoder.whole=false "${options[@]}" "${device[@]}" "${overrides[@]}"
  done
fi
