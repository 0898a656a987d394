# Options and stages of every run.sh: source it at the top of the tree, after the defaults of the script's own
# options. Sourcing reads the options; the functions below do the stages.
#
#   begin CORPUS          sets gpus, data, run and exp, for the other functions; needs `work`, the folder of the corpus
#   prepare AUDIO         stage 1
#   train                 stages 2 (tokenizer) and 3
#   average OPTION...     stage 4
#   decode_and_score      stages 5 and 6, on the test set
#   due N                 whether stage N is to be run, for stages that a script has to itself
#
# Options:
#
#   --some-name VALUE     (or --some-name=VALUE) sets the shell variable some_name, which must have a default
#   --group.field VALUE   a typed override of the experiment, collected in the array `overrides`
#   --set NAME=VALUE      the same, for a field of the experiment itself, such as languages=hi,ta
#   --encoder-lr VALUE    and the others in recipes/aliases.py: the earlier system's names for such overrides
#   --help                prints the comment block at the top of the script
#
# An unknown option is answered with the nearest name of the options in that comment block. DIR of --work is
# relative to where the script was called.
#
# `stage_given` tells whether --stage was on the command line: a stage asked for by name runs even if
# nothing changed since it was last done.

_aliases=$(dirname "${BASH_SOURCE[0]}")/../recipes/aliases.py

# The options of every recipe.
stage=0
stop_stage=6
name= # of the run; by default the experiment's
gpus=auto # number of GPUs; auto: all of this machine
cpu=false # true: train on the CPU, even if there is a GPU
work= # folder of the corpus, its data and its runs

# nearest WORD NAME...: ", did you mean NAME?" for the NAME that takes the fewest edits, if these are few.
nearest() {
  local word=$1
  shift
  printf '%s\n' "$@" | awk -v word="$word" '
    function edits(a, b,    i, j, n, m, row, above, diagonal) {
      n = length(a); m = length(b)
      for (j = 0; j <= m; j++) row[j] = j
      for (i = 1; i <= n; i++) {
        diagonal = row[0]; row[0] = i
        for (j = 1; j <= m; j++) {
          above = row[j]
          row[j] = diagonal + (substr(a, i, 1) != substr(b, j, 1))
          if (above + 1 < row[j]) row[j] = above + 1
          if (row[j - 1] + 1 < row[j]) row[j] = row[j - 1] + 1
          diagonal = above
        }
      }
      return row[m]
    }
    { cost = edits(word, $0); if (index($0, word) == 1) cost = 1
      if (!best || cost < least) { best = $0; least = cost } }
    END { if (best && 3 * least <= length(word)) printf "; did you mean %s?", best }'
}

_unknown_option() {
  local names
  names=$(sed -n '2,/^[^#]/{/^#/p;}' "$0" | grep -oE -- '--[a-z][a-z-]*' | sort -u)
  names+=" $(sed -n 's/^    "\(--[a-z-]*\)": .*/\1/p' "$_aliases") --help --set"
  # shellcheck disable=SC2086  # a word for each name
  echo "$0: unknown option $1$(nearest "$1" $names); see $0 --help" >&2
  exit 1
}

overrides=()
stage_given=false
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"
      exit 0
      ;;
    --set | --set=*)
      if [ "$1" = --set ]; then
        [ $# -ge 2 ] || { echo "$0: --set needs NAME=VALUE" >&2; exit 1; }
        overrides+=(--set "$2")
        shift 2
      else
        overrides+=(--set "${1#--set=}")
        shift
      fi
      ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; # --option=value, read on the next turn
    --*.*)
      [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 1; }
      overrides+=(--set "${1#--}=$2")
      shift 2
      ;;
    --*)
      _option=${1#--} # not a name that a script might want for an option of its own
      _option=${_option//-/_}
      if [[ ! $_option =~ ^[a-z][a-z0-9_]*$ ]] || [ -z "${!_option+x}" ]; then
        _override=
        [[ ! $_option =~ ^[a-z_]+$ ]] || _override=$(sed -n "s/^    \"$1\": \"\(.*\)\",\$/\1/p" "$_aliases")
        if [ -z "$_override" ]; then
          _unknown_option "$1"
        fi
        read -ra _words <<<"$_override" # the last override gets the value
        for _word in "${_words[@]:0:${#_words[@]}-1}"; do overrides+=(--set "$_word"); done
        _override=${_words[-1]}
        if [[ $_override = *=* ]]; then # a switch
          overrides+=(--set "$_override")
          shift
        else
          [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 1; }
          overrides+=(--set "$_override=$2")
          shift 2
        fi
        continue
      fi
      [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 1; }
      printf -v "$_option" '%s' "$2"
      [ "$_option" = stage ] && stage_given=true
      shift 2
      ;;
    *)
      echo "$0: unexpected argument $1; see $0 --help" >&2
      exit 1
      ;;
  esac
done
unset _option _override

_check() { # OPTION VALUE PATTERN DESCRIPTION
  [[ $2 =~ ^($3)$ ]] || { echo "$0: --$1 must be $4, not '$2'; see $0 --help" >&2; exit 1; }
}
_check stage "$stage" '[0-9]+' "the number of a stage"
_check stop-stage "$stop_stage" '[0-9]+' "the number of a stage"
_check gpus "$gpus" 'auto|[0-9]+' "auto or a number"
_check cpu "$cpu" 'true|false' "true or false"
if [ "$stage" -gt "$stop_stage" ]; then
  echo "$0: --stage $stage is after --stop-stage $stop_stage: there is nothing to do; see $0 --help" >&2
  exit 1
fi

# absolute PATH: relative to where the script was called.
absolute() { (cd "${start_dir:-.}" && realpath -m "$1"); }

[ -z "$work" ] || work=$(absolute "$work")

# resolve_experiment CORPUS: `experiment` is the name of a file in egs/CORPUS, a module (egs.indic12.mini), or a
# file from anywhere (./mine.py, relative to where the script was called), each also with :FUNCTION. Sets
# `experiment_file`, which `maya --experiment` takes, and makes `experiment` a name for folders. The order: a path,
# a name, a module.
resolve_experiment() {
  local folder=egs/$1 file function=
  if [[ $experiment =~ ^(.+):([A-Za-z_][A-Za-z_0-9]*)$ ]]; then
    experiment=${BASH_REMATCH[1]} function=${BASH_REMATCH[2]}
  fi
  case $experiment in
    */* | *.py)
      file=${experiment%.py}.py
      [[ $file = /* ]] || file=${start_dir:-$PWD}/$file
      [ -f "$file" ] || { echo "$0: there is no experiment file $file" >&2; exit 1; }
      experiment_file=$file
      experiment=$(basename "$file" .py)
      ;;
    *)
      if [ -f "$folder/$experiment.py" ] && { [ -z "$function" ] || grep -q "^def $function(" "$folder/$experiment.py"; }; then
        experiment_file=egs.$1.$experiment
      elif [[ $experiment = *.* ]]; then
        experiment_file=$experiment
        experiment=${experiment##*.}
      else
        experiment+=${function:+:$function}
        file=$(cd "$folder" && grep -oE '^def [a-z][a-z_0-9]*\(' -- *.py /dev/null | # FILE.py:def FUNCTION(
          sed -E 's/\.py:def (.*)\(/:\1/; s/:experiment$//')
        # shellcheck disable=SC2086  # a word for each name
        echo "$0: there is no experiment $experiment in $folder$(nearest "$experiment" $file); a file of your own" \
          "is ./NAME.py" >&2
        exit 1
      fi
      ;;
  esac
  experiment_file+=${function:+:$function}
  experiment+=${function:+_$function}
}

# due N: whether stage N lies in the range; sets `force` for a stage asked for by name.
due() {
  force=()
  [ "$1" -ge "$stage" ] && [ "$1" -le "$stop_stage" ] || return 1
  if $stage_given && [ "$1" -eq "$stage" ]; then force=(--force); fi
}

# launch N COMMAND...: a maya command on N GPUs. One process needs no launcher; for several machines put
# --nnodes, --node-rank and --rdzv-endpoint here.
launch() {
  local processes=$1
  shift
  if [ "$processes" -le 1 ]; then
    maya "$@"
  else
    # torchrun, but a failure ends in one sentence; one thread a process, as torchrun would choose.
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m maya.recipes.launch --standalone --nproc-per-node "$processes" "$@"
  fi
}

# How many GPUs this machine has.
count_gpus() { nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true; }

# has_set DATA SET STAGE: whether prepared data hold utterances of a set, such as test. If not, it prints that the
# stage is left out. Data without a summary are left to the stage.
has_set() {
  python - "$@" <<'PYTHON'
import json, os, sys
data, name, stage = sys.argv[1:]
try:
    with open(os.path.join(data, "summary.json"), encoding="utf-8") as file:
        splits = json.load(file)["splits"].values()
    empty = not any(facts["parts"][name]["utterances"] for facts in splits)
except (OSError, ValueError, KeyError, TypeError, AttributeError):
    empty = False
if empty:
    print(f"{data} has no {name} set: stage {stage} is left out")
sys.exit(empty)
PYTHON
}

begin() {
  . tools/env.sh
  maya_env
  [ "$gpus" != auto ] || gpus=$(count_gpus)
  device=()
  ! $cpu || device=(--cpu)
  data=$work/data
  resolve_experiment "$1"
  run=$work/${name:-$experiment}
  exp=(--experiment "$experiment_file" "${overrides[@]}")
}

prepare() {
  if due 1; then maya prepare "${exp[@]}" --corpus "$1" --out "$data" "${force[@]}"; fi
}

train() {
  if due 2; then maya tokenizer "${exp[@]}" --data "$data" --run-dir "$run" "${force[@]}"; fi
  if due 3; then
    launch "$gpus" train "${exp[@]}" --data "$data" --run-dir "$run" "${device[@]}" "${force[@]}"
  fi
}

average() {
  if due 4; then maya average "$run" "${exp[@]}" --data "$data" "$@" "${force[@]}"; fi
}

decode_and_score() {
  if due 5 && has_set "$data" test 5; then maya decode "$run" "${exp[@]}" --data "$data" "${force[@]}"; fi
  if due 6 && has_set "$data" test 6; then maya score "$run" --data "$data" "${force[@]}"; fi
}
