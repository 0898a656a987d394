# Kaldi-style options for run.sh: source it after setting the defaults.
#
#   --some-name VALUE     (or --some-name=VALUE) sets the shell variable some_name, which must have a default
#   --group.field VALUE   a typed override of the experiment, collected in the array `overrides`
#   --set NAME=VALUE      the same, for a field of the experiment itself, such as languages=hi,ta
#   --encoder-lr VALUE    and the others in recipes/aliases.py: the earlier system's names for such overrides
#   --help                prints the comment block at the top of the script
#
# `stage_given` tells whether --stage was on the command line: a stage asked for by name runs even if
# nothing changed since it was last done.

_aliases=$(dirname "${BASH_SOURCE[0]}")/../recipes/aliases.py
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
          echo "$0: unknown option $1; see $0 --help" >&2
          exit 1
        elif [[ $_override = *=* ]]; then # a switch
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
unset _option _override _aliases

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
