#!/usr/bin/env bash
# Embeddings of voices: ECAPA-TDNN, trained to tell speakers apart. A CPU is enough for the voices at hand.
#
#   ./egs/speakers/run.sh --cpu true                      --source DIR, by default the folder of the corpora
#   ./egs/speakers/run.sh --task voxceleb --source .../voxceleb1/dev/wav --trials .../veri_test2.txt
#
# Options: --task NAME --stage N --stop-stage N --source DIR --trials LIST --experiment NAME|FILE --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus and trials  1 manifests and validation  2 tokenizer  3 train  4 average  5 evaluate
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

task=voices
source=
experiment=
trials=
. egs/stages.sh

case $task in
  voices) usual=../shared/corpora; experiment=${experiment:-speakers:small} ;;
  voxceleb) usual=../voxceleb1/dev/wav; experiment=${experiment:-speakers:voxceleb} ;;
  *) echo "$0: --task must be voices or voxceleb, not '$task'" >&2; exit 1 ;;
esac
if [ -z "$source" ]; then source=$usual; else source=$(absolute "$source"); fi
work=${work:-exp/speakers/$task}
begin speakers

if due 0 && { [ ! -f "$work/corpus/manifest.jsonl" ] || $stage_given; }; then
  python -m egs.speakers.data "$task" --source "$source" --out "$work/corpus"
fi
prepare "$work/corpus"
train
average
if due 5 && [ "$task" = voices ]; then
  python -m egs.speakers.evaluate "$run" "$work/corpus/voices.txt" "$work/corpus/digits.txt" --out "$run/speakers.json"
elif due 5 && [ -n "$trials" ]; then
  python -m egs.speakers.cohort "$run" "$work/corpus/manifest.jsonl" --out "$run/cohort.json"
  maya verify "$run" --trials "$(absolute "$trials")" --root "$source/../../test/wav" --cohort "$run/cohort.json" \
    --json "$run/speakers.json"
fi
