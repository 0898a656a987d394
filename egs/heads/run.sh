#!/usr/bin/env bash
# Heads that hear more than words: the language, digit words and their times, pitch, phonemes, punctuation. A CPU is enough.
#
#   ./egs/heads/run.sh --task language    --source DIR, by default the indic12 corpus
#   ./egs/heads/run.sh --task words       --source DIR, by default the digits corpus
#   ./egs/heads/run.sh --task pitch       needs pip install 'maya-asr[pitch]' for the teachers, in stage 0 only
#   ./egs/heads/run.sh --task phonemes    twelve languages
#   ./egs/heads/run.sh --task punctuation --init exp/heads/phonemes/heads_phonemes    marks and capitals of five languages
#   ./egs/heads/run.sh --task transcripts text and phonemes of these five languages, for the next
#   ./egs/heads/run.sh --task written     --init exp/heads/transcripts/heads_transcripts    marks and capitals beside the text, on recognised words
#   ./egs/heads/run.sh --task check --init exp/digits/digits/digits    phonemes against made-up texts, beside a recogniser's CTC
#   ./egs/heads/run.sh --task language --experiment heads:language_frozen --train.init_from exp/digits/digits/digits
#
# Options: --task NAME --init RUN --strings N --stage N --stop-stage N --source DIR --experiment NAME|FILE --name RUN --gpus N --cpu true|false --work DIR
# Stages: 0 corpus  1 manifests and validation  2 tokenizer  3 train  4 average  5 evaluate
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

task=language
source=
experiment=
strings=1200 # of digits in each language, for --task words and check
init= # the run whose encoder --task check or punctuation reads
. egs/stages.sh

case $task in
  language | pitch | phonemes | punctuation | transcripts | written) usual=../shared/corpora/indic12 ;;
  words | check) usual=../shared/corpora/digits ;;
  *) echo "$0: --task must be language, words, pitch, phonemes, punctuation, transcripts, written or check, not '$task'" >&2; exit 1 ;;
esac
corpus_of=$task measure=$task options=()
case $task in
  check | punctuation | written)
    [ -n "$init" ] || { echo "$0: --task $task needs --init RUN; see $0 --help" >&2; exit 1; }
    init=$(absolute "$init")
    overrides+=(--set "train.init_from=$init")
    ;;
esac
case $task in
  check) corpus_of=words measure=made-up options=(--strings "$strings") overrides+=(--set "tokenizer.file=$init/tokenizer.model") ;;
  words) options=(--strings "$strings") ;;
  written) corpus_of=punctuation measure=punctuation options=(--init "$init") overrides+=(--set "tokenizer.file=$init/tokenizer.model") ;;
  transcripts) measure=phonemes ;;
  punctuation) options=(--init "$init") ;;
esac
if [ -z "$source" ]; then source=$usual; else source=$(absolute "$source"); fi
experiment=${experiment:-heads:$task}
work=${work:-exp/heads/$task}
begin heads

if due 0; then python -m egs.heads.data "$corpus_of" --source "$source" --out "$work/corpus" "${options[@]}"; fi
prepare "$work/corpus"
train
average
if due 5; then python -m egs.heads.evaluate "$measure" "$run" --data "$data" --out "$run/heads.json"; fi
if [ "$task" = written ] && due 5; then
  python -m egs.heads.evaluate recognised "$run" --data "$data" --out "$run/recognised.json"
fi
