#!/usr/bin/env bash
# All stages in small: two languages of the built-in corpus, a few steps, and a check of the files that users
# read. It shows that the stages fit together. It does not show how good a model is.
#
#   tools/smoke.sh        in an environment that has maya; `make smoke` sees to that
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python -m egs.indic12.data --out "$work/corpus" --languages hi en --utterances-per-language 24 \
  --eval-utterances-per-language 4 --words-per-language 12
device=(--gpus 0 --cpu true)
! nvidia-smi -L 2>/dev/null | grep -q '^GPU' || device=(--gpus 1)
egs/indic12/run.sh --corpus "$work/corpus" --work "$work" --experiment mini --name run "${device[@]}" \
  --tokenizer.vocab_size 64 --train.steps 20 --train.warmup_steps 5

for file in config.json metrics.jsonl decode/test/{hyps.jsonl,result.json,errors.txt,report.html}; do
  [ -s "$work/run/$file" ] || { echo "smoke: the run left no $file" >&2; exit 1; }
done
echo "smoke: all stages work"
