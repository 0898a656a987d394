#!/usr/bin/env bash
# Noisy student: a teacher, trained on speech with texts, labels speech without; a student learns from both, with
# more noise; it is the teacher of the next generation.
#
#   ./egs/noisy_student/run.sh                             spoken digits, a fifth of the recordings with texts
#   ./egs/noisy_student/run.sh --labelled CORPUS --unlabelled AUDIO --experiment FILE --student FILE
#   ./egs/noisy_student/run.sh --generations 2 --min-confidence 0.8 --share 0.7
#
# Options: --stage N --stop-stage N --source DIR --labelled DIR --unlabelled FOLDER|MANIFEST --language CODE
#   --experiment FILE --student FILE --generations N --min-confidence P --share S --gpus N --cpu true|false --work DIR
# Stages: 0 corpora of digits  1 manifests  2 teacher: tokenizer  3 train  4 average  5 students  6 decode, score, compare
# A stage whose inputs have not changed is not run again; training continues where it stopped.
set -euo pipefail
start_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source=../shared/corpora/digits
labelled=         # a corpus with texts; by default digits
unlabelled=       # a folder of recordings, or a manifest that also names their languages
language=         # of recordings whose manifest names none
experiment=digits # of the teacher
student=digits:student
generations=1
min_confidence=0.9 # of the words of an utterance on average, after calibration on dev
share=0.7          # of the seconds of a student's training that the teacher labelled
. egs/stages.sh

work=${work:-exp/noisy_student/digits}
begin noisy_student
run=$work/teacher
student_experiment() { # prints the options of the students
  experiment=$student
  resolve_experiment noisy_student
  echo "$experiment_file"
}
student_exp=(--experiment "$(student_experiment)" "${overrides[@]}")
if [ -z "$labelled" ]; then
  if due 0; then python -m egs.noisy_student.data --source "$(absolute "$source")" --out "$work"; fi
  labelled=$work/labelled unlabelled=$work/unlabelled.jsonl
else
  labelled=$(absolute "$labelled") unlabelled=$(absolute "$unlabelled")
fi

prepare "$labelled"
train
average
runs=("$run")
for ((g = 1; g <= generations; g++)); do
  teacher=${runs[-1]} own=$work/generation$g
  runs+=("$own/student")
  due 5 || continue
  if [ ! -f "$own/labels.tsv" ]; then
    maya calibrate "$teacher" --data "$data"
    maya label --from "$teacher" "$unlabelled" --table "$own/labels.tsv" ${language:+--language "$language"}
  fi
  maya label --take "$own/labels.tsv" --out "$own/corpus" --min-confidence "$min_confidence" --balance
  maya prepare "${student_exp[@]}" --corpus "$own/corpus" --out "$own/pseudo"
  python -m egs.noisy_student.mix --labelled "$data" --pseudo "$own/pseudo" --share "$share" --out "$own/data"
  maya tokenizer "${student_exp[@]}" --data "$own/data" --run-dir "$own/student"
  launch "$gpus" train "${student_exp[@]}" --data "$own/data" --run-dir "$own/student" "${device[@]}"
  maya average "$own/student" "${student_exp[@]}" --data "$own/data"
done
if due 6; then
  for run in "${runs[@]}"; do
    maya decode "$run" --data "$data"
    maya score "$run" --data "$data"
  done
  for run in "${runs[@]:1}"; do maya compare "${runs[0]}" --with "$run"; done
fi
