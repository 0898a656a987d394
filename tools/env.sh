# An environment in which `maya` runs. Source this file in bash, then call maya_env:
#
#   a virtual environment is active      it is used; maya is installed into it when it lacks this checkout
#   maya is importable without one       that Python is used as it is (a container, conda)
#   neither                              .venv at the top of the checkout, made when it is missing or outdated
#
# Afterwards `python`, `maya` and `torchrun` are those of the environment. Messages go to stderr.
# An installation that was interrupted is begun again by the next call.

_maya_top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
_maya_venv=$_maya_top/.venv

maya_env() {
  if [ -n "${VIRTUAL_ENV:-}" ] && [ "$VIRTUAL_ENV" != "$_maya_venv" ]; then
    _maya_is_here && return
    _maya_say "installing this checkout into the active environment $VIRTUAL_ENV (pip install -e '.[dev]')"
    _maya_pip python || { _maya_say "pip failed; see its message above"; return 1; }
    _maya_is_here || { _maya_say "the active environment does not find maya in $_maya_top"; return 1; }
  elif [ -z "${VIRTUAL_ENV:-}" ] && [ ! -e "$_maya_venv" ] && _maya_is_here; then
    return
  else
    _maya_complete || _maya_locked _maya_make || return 1
    export VIRTUAL_ENV=$_maya_venv PATH="$_maya_venv/bin:$PATH"
    unset PYTHONHOME
    hash -r
  fi
}

_maya_say() { echo "maya: $*" >&2; }

# Whether `python` imports maya from this checkout. From another folder, because Python looks in the current
# one first; recipes/ too, because it is found only through the installation.
_maya_is_here() {
  command -v python >/dev/null && (cd / && python - "$_maya_top") 2>/dev/null <<'PYTHON'
import importlib.util, os, sys
top = sys.argv[1]
for name, place in (("maya", "maya"), ("maya.recipes", "recipes")):
    spec = importlib.util.find_spec(name)
    assert spec and os.path.realpath(spec.origin) == os.path.join(top, place, "__init__.py")
PYTHON
}

# What a complete .venv was made from: the place of the checkout (scripts carry it) and the requirements.
_maya_wanted() {
  echo "$_maya_top"
  cksum <"$_maya_top/setup.py"
}

_maya_complete() {
  [ -x "$_maya_venv/bin/python" ] && [ -f "$_maya_venv/pyvenv.cfg" ] &&
    [ "$(_maya_wanted)" = "$(cat "$_maya_venv/.maya-complete" 2>/dev/null)" ]
}

# Only one shell installs at a time, where the system has flock; the others wait.
_maya_locked() {
  if command -v flock >/dev/null; then
    (
      flock -n 9 || { _maya_say "waiting for another installation into .venv" && flock 9; }
      "$@"
    ) 9<"$_maya_top/setup.py"
  else
    "$@"
  fi
}

_maya_make() {
  _maya_complete && return # another shell was faster
  # A half-made environment, one from another place, or one whose Python is gone is made anew.
  local made_in unfinished=$_maya_venv/.maya-unfinished
  made_in=$(head -n 1 "$_maya_venv/.maya-complete" 2>/dev/null)
  if [ -e "$unfinished" ] || [ "${made_in:-$_maya_top}" != "$_maya_top" ] || ! _maya_sound; then
    _maya_new "$unfinished" || return 1
  else
    _maya_say "bringing .venv up to date with setup.py"
  fi
  _maya_pip "$_maya_venv/bin/python" || {
    _maya_say "the installation into .venv did not finish; run the same command again to continue"
    return 1
  }
  _maya_wanted >"$_maya_venv/.maya-complete"
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
  _maya_say "making .venv with $("$python" --version) and installing maya, PyTorch 2.11 and the test tools into it."
  _maya_say "This happens once, takes 1-3 minutes on a fast connection and about 6 GB of disk (PyTorch's CUDA build)."
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

# Never into a Python outside a virtual environment. Quiet, unless someone watches: then the progress shows.
_maya_pip() {
  local quiet=(-qq)
  [ -t 2 ] && quiet=()
  "$1" -m pip --require-virtualenv install --disable-pip-version-check "${quiet[@]}" -e "$_maya_top[dev]" >&2
}
