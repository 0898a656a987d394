# An environment in which this checkout of Maya runs. Source this file in bash, then call
#
#   maya_env [EXTRA]      EXTRA of setup.py names what else is needed: mini (the default, what run.sh needs) or dev
#
# Which Python it takes:
#
#   the active one (a virtual environment, conda, a container)
#       has what is needed             it runs this checkout; nothing is installed
#       is a virtual environment that  what it lacks is installed into it, in the versions of constraints.txt;
#       no other checkout uses         a torch that it has is kept
#   otherwise                          .venv at the top of the checkout, made when it is missing or outdated
#
# Afterwards `python`, `maya` and `torchrun` are those of the environment, and `maya` is this checkout also where the
# environment belongs to another. Messages go to stderr. An installation that was interrupted is begun again
# by the next call.

_maya_top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
_maya_venv=$_maya_top/.venv
_maya_kind=tested # the versions of constraints.txt; oldest or newest in an environment of their own

maya_env() {
  local extra=${1:-mini} status=0
  # Only without another environment: a .venv that is there was made for this checkout.
  if { [ -n "${VIRTUAL_ENV:-}" ] && [ "$VIRTUAL_ENV" != "$_maya_venv" ]; } ||
    { [ -z "${VIRTUAL_ENV:-}" ] && [ ! -e "$_maya_venv" ]; }; then
    _maya_active "$extra" || status=$?
    [ "$status" = 2 ] || return "$status"
  fi
  _maya_own "$extra"
}

# The tests' environment with the oldest versions (torch 2.11.0 and torchaudio 2.11.0, the rest as in constraints.txt) or
# the newest of everything, .venv-oldest or .venv-newest. The active environment plays no part.
maya_env_of() { # oldest|newest
  _maya_kind=$1 _maya_venv=$_maya_top/.venv-$1
  [ "$1" != newest ] || rm -f "$_maya_venv/.maya-complete" # there may be newer ones today
  _maya_own dev
}

# .venv, made or brought up to date where it must be.
_maya_own() { # EXTRA
  _maya_complete "$1" || _maya_locked _maya_make "$1" || return 1
  export VIRTUAL_ENV=$_maya_venv PATH="$_maya_venv/bin:$PATH"
  unset PYTHONHOME
  hash -r
  [ -z "${PYTHONPATH:-}" ] || _maya_first_on_path # it may name another checkout
}

_maya_say() { echo "maya: $*" >&2; }

# The Python that is active: status 0 if it runs this checkout now, 1 if it should and cannot, 2 if .venv is needed.
_maya_active() {
  local lacking place name=${VIRTUAL_ENV:-$(type -P python)}
  command -v python >/dev/null || return 2
  place=$(_maya_place)
  if lacking=$(python "$_maya_top/tools/requirements.py" missing "$1" 2>/dev/null); then
    # PYTHONPATH may name this checkout where it is not installed; then there is no command `maya`.
    if [ "$place" != "$_maya_top" ]; then
      _maya_run_from "$name" "$place"
    elif ! command -v maya >/dev/null; then
      _maya_first_on_path
    fi
    return 0
  fi
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ "$place" = "$_maya_top" ] || return 2
    _maya_say "$name has this checkout installed and lacks ${lacking:-pip}; it is used as it is"
    return 0
  fi
  if [ -n "$place" ] && [ "$place" != "$_maya_top" ]; then
    _maya_say "the active environment $name holds the maya of $place and lacks ${lacking:-pip}:" \
      "it is left alone, and $_maya_venv is used"
    return 2
  fi
  _maya_say "installing this checkout into the active environment $name (pip install -e '.[$1]')"
  _maya_pip python "$1" || { _maya_say "pip failed; see its message above"; return 1; }
  [ "$(_maya_place)" = "$_maya_top" ] || _maya_run_from "$name" ""
}

# Which `maya` this Python imports by itself: the top of its checkout or its site-packages; nothing if there is none.
# From another folder, because Python looks in the current one first.
_maya_place() {
  (cd / && python - 2>/dev/null) <<'PYTHON'
import importlib.util, os
spec = importlib.util.find_spec("maya")
if spec and spec.origin:
    print(os.path.dirname(os.path.dirname(os.path.realpath(spec.origin))))
PYTHON
}

# This checkout comes first in whatever Python is started from here, and `maya` is a command of it.
_maya_first_on_path() {
  export PYTHONPATH="$_maya_top${PYTHONPATH:+:$PYTHONPATH}"
  declare -F maya >/dev/null || maya() { python -m maya.recipes.cli "$@"; } # a function of the caller stays
  export -f maya
}

_maya_run_from() { # NAME PLACE
  _maya_first_on_path
  _maya_say "running $_maya_top with the packages of $1; nothing is installed into it" \
    "${2:+(the maya it holds is that of $2)}"
}

# What a complete .venv was made from: the place of the checkout (scripts carry it), the requirements, the extra.
_maya_wanted() { # EXTRA
  echo "$_maya_top"
  cat "$_maya_top/setup.py" "$_maya_top/constraints.txt" | cksum
  echo "$1"
}

_maya_complete() { # EXTRA; dev holds all of mini
  [ -x "$_maya_venv/bin/python" ] && [ -f "$_maya_venv/pyvenv.cfg" ] && {
    [ "$(_maya_wanted "$1")" = "$(cat "$_maya_venv/.maya-complete" 2>/dev/null)" ] ||
      [ "$(_maya_wanted dev)" = "$(cat "$_maya_venv/.maya-complete" 2>/dev/null)" ]
  }
}

# Only one shell installs at a time, where the system has flock; the others wait.
_maya_locked() {
  if command -v flock >/dev/null; then
    (
      flock -n 9 || { _maya_say "waiting for another installation of this checkout" && flock 9; }
      "$@"
    ) 9<"$_maya_top/setup.py"
  else
    "$@"
  fi
}

_maya_make() { # EXTRA
  _maya_complete "$1" && return # another shell was faster
  # A half-made environment, one from another place, or one whose Python is gone is made anew.
  local made_in extra=$1 unfinished=$_maya_venv/.maya-unfinished
  made_in=$(head -n 1 "$_maya_venv/.maya-complete" 2>/dev/null)
  if [ -e "$unfinished" ] || [ "${made_in:-$_maya_top}" != "$_maya_top" ] || ! _maya_sound; then
    _maya_new "$unfinished" || return 1
    _maya_say "installing what '.[$extra]' of setup.py needs. This happens once and takes about a minute on a fast" \
      "connection; 1 to 3 GB of disk with a CPU build of PyTorch, 5 GB more with a CUDA build."
  else
    [ "$(tail -n 1 "$_maya_venv/.maya-complete" 2>/dev/null)" != dev ] || extra=dev # what it has stays up to date
    _maya_say "bringing $(basename "$_maya_venv") up to date with '.[$extra]' of setup.py"
  fi
  _maya_pip "$_maya_venv/bin/python" "$extra" || {
    _maya_say "the installation into $_maya_venv did not finish; run the same command again to continue"
    return 1
  }
  _maya_wanted "$extra" >"$_maya_venv/.maya-complete"
  rm -f "$unfinished"
}

# Whether .venv is an environment of its own. One that lost its pyvenv.cfg runs, but as the Python beneath it.
_maya_sound() {
  "$_maya_venv/bin/python" - "$_maya_venv" 2>/dev/null <<'PYTHON'
import os, sys
import pip
sys.exit(os.path.realpath(sys.prefix) != os.path.realpath(sys.argv[1]))
PYTHON
}

_maya_new() {
  local python
  python=$(_maya_python) || return 1
  _maya_say "making $(basename "$_maya_venv") with $("$python" --version)"
  # The mark comes first and the stamp goes first, so that this, too, may be interrupted anywhere.
  mkdir -p "$_maya_venv" && touch "$1" && rm -f "$_maya_venv/.maya-complete" || return 1
  find "$_maya_venv" -mindepth 1 ! -path "$1" -delete
  # Debian keeps ensurepip in a package of its own; a pip from elsewhere can stand in for it.
  "$python" -m venv "$_maya_venv" >/dev/null 2>&1 ||
    { "$python" -m venv --without-pip "$_maya_venv" && "$python" -m pip --python "$_maya_venv/bin/python" install -q pip; } || {
    _maya_say "$python cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv"
    return 1
  }
}

# The first Python that is new enough. It is run, not only looked up: a pyenv shim may stand for nothing.
_maya_python() {
  local name
  for name in python3.11 python3 python python3.12 python3.13; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  _maya_say "Maya needs Python 3.11 or newer and found none; install it (apt install python3.11) and try again"
  return 1
}

# This checkout with one extra, in the versions of constraints.txt; a torch that is there stays. setuptools comes first,
# in its pinned version, so that what builds the package is no newer than what was tested.
# Never into a Python outside a virtual environment. Quiet, unless someone watches: then the progress shows.
_maya_pip() { # PYTHON EXTRA
  local status=0 pip=("$1" -m pip --require-virtualenv install --disable-pip-version-check --no-compile)
  [ -t 2 ] || pip+=(-qq)
  local constraints more=()
  constraints=$(mktemp) || return 1
  [ "$_maya_kind" != oldest ] || more=(torchaudio) # an oracle, where it loads
  [ "$_maya_kind" != newest ] || more=(--upgrade --upgrade-strategy eager)
  "$1" "$_maya_top/tools/requirements.py" constraints "$_maya_kind" >"$constraints" &&
    "${pip[@]}" -c "$constraints" 'setuptools>=77' >&2 &&
    "${pip[@]}" -c "$constraints" --no-build-isolation -e "$_maya_top[$2]" "${more[@]}" >&2 || status=1
  rm -f "$constraints"
  return "$status"
}
