#!/usr/bin/env bash
# Pre-training without texts by masked prediction, and probes of the frozen encoder before and after. A CPU is enough.
#
#   ./egs/pretrain/run.sh --targets best_rq               codes of randomly projected features
#   ./egs/pretrain/run.sh --targets mfcc                  k-means clusters of MFCC, as HuBERT begins
#   ./egs/pretrain/run.sh --targets speaker               clusters of Resemblyzer's frames, in the manner of DELULU
#   ./egs/pretrain/run.sh --targets RUN --layer 2 --work exp/pretrain/second    clusters of a layer of an earlier run
#   ./egs/pretrain/run.sh --encoder zipformer             or lact; default: fastconformer
#
# Options: --targets NAME|RUN --encoder NAME --layer N --weights FILE --source DIR --passes N --seed N --stage N --stop-stage N --experiment NAME|FILE --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus and targets  1 manifests and validation  2 tokenizer  3 pre-train  4 probes of the encoder, and of a random one
# --seed is that of the training and of the random encoder. --weights FILE: Resemblyzer's pretrained.pt, without its package.
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

targets=best_rq
encoder=fastconformer
layer=0
weights=
source=
experiment=
passes=20 # of the probes over the training set
seed=1
. egs/stages.sh

case $targets in
  best_rq | mfcc | speaker) work=${work:-exp/pretrain/$targets} ;;
  *)
    targets=$(absolute "$targets")
    [ -d "$targets" ] || { echo "$0: --targets must be best_rq, mfcc, speaker or the folder of a run, not '$targets'" >&2; exit 1; }
    [ -n "$work" ] || { echo "$0: --targets RUN needs --work DIR, the folder of the new corpus" >&2; exit 1; }
    ;;
esac
case $encoder in
  fastconformer) suffix= ;;
  zipformer | lact) suffix=_$encoder ;;
  *) echo "$0: --encoder must be fastconformer, zipformer or lact, not '$encoder'" >&2; exit 1 ;;
esac
kind=clusters
[ "$targets" != best_rq ] || kind=best_rq
if [ -z "$source" ]; then source=../shared/corpora; else source=$(absolute "$source"); fi
[ -z "$weights" ] || weights=$(absolute "$weights")
overrides+=(--set "train.seed=$seed")
experiment=${experiment:-pretrain:$kind$suffix}
name=${name:-$kind$suffix-$seed}
begin pretrain

if due 0 && { [ ! -f "$work/corpus/done" ] || $stage_given; }; then
  python -m egs.pretrain.data --source "$source" --out "$work/corpus"
  if [ "$targets" != best_rq ]; then
    python -m egs.pretrain.targets "$targets" --corpus "$work/corpus" --layer "$layer" --weights "$weights"
  fi
  touch "$work/corpus/done"
fi
prepare "$work/corpus"
train

if due 4; then
  python -m egs.pretrain.probe "$run" --random "$seed" --data "$data" --corpus "$work/corpus" --passes "$passes" --out "$run/probes.json"
fi
