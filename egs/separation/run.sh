#!/usr/bin/env bash
# Separation of speakers: Conv-TasNet, trained on mixtures that are made on the fly. A CPU is enough for the voices at hand.
#
#   ./egs/separation/run.sh --cpu true                    --source DIR, by default the folder of the corpora
#   ./egs/separation/run.sh --task librimix --source .../LibriMix/metadata/Libri2Mix --root .../LibriSpeech --noise .../wham_noise
#
# Options: --task NAME --stage N --stop-stage N --source DIR --root DIR --noise DIR --recogniser RUN --experiment NAME|FILE --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus  1 manifests and validation  2 tokenizer  3 train  4 average  5 evaluate
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

task=voices
source=
root=
noise=
recogniser=
experiment=
. egs/stages.sh

case $task in
  voices) usual=../shared/corpora; experiment=${experiment:-separation:small} ;;
  librimix) usual=../LibriMix/metadata/Libri2Mix; experiment=${experiment:-separation:librimix} ;;
  *) echo "$0: --task must be voices or librimix, not '$task'" >&2; exit 1 ;;
esac
if [ -z "$source" ]; then source=$usual; else source=$(absolute "$source"); fi
work=${work:-exp/separation/$task}
begin separation

if due 0 && { [ ! -f "$work/corpus/manifest.jsonl" ] || $stage_given; }; then
  python -m egs.separation.data "$task" --source "$source" --out "$work/corpus" ${root:+--root "$(absolute "$root")"} ${noise:+--noise "$(absolute "$noise")"}
fi
prepare "$work/corpus"
train
average
if due 5 && has_set "$data" test 5; then
  python -m egs.separation.evaluate "$run" --data "$data" --out "$run" ${recogniser:+--recogniser "$(absolute "$recogniser")"}
fi
