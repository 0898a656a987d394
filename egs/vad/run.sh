#!/usr/bin/env bash
# A small streaming voice detector, trained on the alignments of a recogniser. A CPU is enough.
#
#   ./egs/vad/run.sh --init exp/digits/digits/digits     the recogniser that aligns; its data is beside it
#   ./egs/vad/run.sh --init RUN --source DATA            the prepared data whose utterances are used
#
# Options: --init RUN --source DATA --rows N --heldout N --stage N --stop-stage N --experiment NAME|FILE --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus  1 manifests and validation  2 tokenizer  3 train  4 average  5 measure beside Silero, WebRTC and energy
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

init=
source=
rows=400
heldout=40
experiment=vad
. egs/stages.sh

[ -n "$init" ] || { echo "$0: --init RUN names the recogniser that aligns; see $0 --help" >&2; exit 1; }
init=$(absolute "$init")
if [ -z "$source" ]; then source=$(dirname "$init")/data; else source=$(absolute "$source"); fi
work=${work:-exp/vad}
begin vad

if due 0; then
  python -m egs.vad.data --data "$source" --init "$init" --out "$work/corpus" --rows "$rows" --heldout "$heldout"
fi
prepare "$work/corpus"
train
average
if due 5; then python -m tools.bench.vad --vad "$run" --data "$data" --out "$run/vad"; fi
