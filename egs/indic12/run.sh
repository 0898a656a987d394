#!/usr/bin/env bash
# Twelve Indic languages, from audio to error rates per language.
#
#   ./egs/indic12/run.sh                            the built-in spoken corpus; a CPU is enough
#   ./egs/indic12/run.sh --corpus DIR               your own: a folder in any form that docs/data.md lists
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

corpus=mini # "mini": made here by a speech synthesizer; else a folder
experiment= # by default mini for the corpus mini, else real
. egs/stages.sh

case $corpus in
  mini) audio=${work:-exp/indic12/mini}/corpus work=${work:-exp/indic12/mini} ;;
  lhotse:* | nemo:*) audio=$corpus ;; # no folder: the paths in it are those from here, or absolute
  *) audio=$(absolute "$corpus") ;;
esac
work=${work:-exp/indic12/$(basename "$audio")}
if [ -z "$experiment" ]; then experiment=$([ "$corpus" = mini ] && echo mini || echo real); fi
begin indic12

if due 0 && [ "$corpus" = mini ]; then python -m egs.indic12.data --out "$audio"; fi
prepare "$audio"
train
average
decode_and_score
