"""Import an experiment by the name a person types: a module, a file anywhere, or a bare name under egs/.

Training records a user's own file in its run folder (`record_file`). Commands that get only the run folder
import it again (`import_recorded`), because it may register encoders and heads.
"""

import ast
import importlib
import importlib.util
import json
import logging
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import maya
from maya.config import nearest
from maya.errors import MayaError
from maya.files import file_sha256, json_sha256, sha256, write_json

# Mistakes in an experiment's own lines. Anything else keeps its traceback, which names the file by itself.
_MISTAKES = (SyntaxError, ImportError, NameError, AttributeError, TypeError, ValueError, LookupError)

# The folders of experiment files that were imported so far, and the module names that came from each.
_folders: dict[Path, set[str]] = {}


RECORD = Path("code") / "source.json"  # in a run folder: the experiment file's path and digest


def make_experiment(name: str) -> Any:
    """Call a function of a file or module. `name` is FILE_OR_MODULE, for its `experiment()`, or
    FILE_OR_MODULE:FUNCTION.

    The file or module is a file (mine.py, ./mine.py, ../a/mine, /home/me/mine.py; relative to the current
    folder), a module (egs.indic12.mini), or the bare name of a file in the current folder or under egs/
    (mini). A file may import others beside it. Raises MayaError, which names the file and where possible the
    line.
    """
    name, function = _split(name)
    module = import_file(name)
    label = str(find_file(name) or name)
    make = getattr(module, function, None)
    if not callable(make):
        hint = "add one that returns an Experiment" if function == "experiment" else ""
        functions = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        hint = hint or (nearest(function, functions) or "; name another").removeprefix("; ")
        raise MayaError(f"{label} has no function {function}(); {hint}")
    try:
        return make()
    except (MayaError, *_MISTAKES) as error:
        raise MayaError(_sentence(label, error)) from error


def import_file(name: str) -> ModuleType:
    """Import the file or module that `name` stands for, see `make_experiment`."""
    name, _ = _split(name)
    file = find_file(name)
    label = str(file) if file else name
    elsewhere = [Path.cwd(), *_checkout()]
    if file is not None and _in_egs(file) is None:
        folder = _package_root(file)
        with _imports_from(folder, *elsewhere):
            return _load(label, lambda: _import_file(file, folder))
    module = name if file is None else str(_in_egs(file))
    if module.startswith("egs.") and not _checkout() and not _here(module):
        module = f"maya.{module}"  # Maya is installed as a package
    with _imports_from(*elsewhere):
        return _load(label, lambda: importlib.import_module(module), module=module)


def _here(module: str) -> bool:
    """Whether the current folder has this module; icefall has a folder egs/ too."""
    place = Path(*module.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def own_file(name: str) -> Path | None:
    """The user's own file that was imported as `name`; None for one of Maya's egs/."""
    name, _ = _split(name)
    file = find_file(name)
    if file is None:
        file = Path(getattr(sys.modules.get(name), "__file__", None) or "egs").resolve()
    return file if file.is_file() and _in_egs(file) is None else None


def record_file(run: Path, file: Path | None) -> None:
    """Copy an experiment file, and the files beside it that it imports, to `run`/code, and record its path
    and digest. Nothing is done without a file, and for one that lies in `run`, such as the copy itself."""
    if file is None or file.is_relative_to(run.resolve()):
        return
    (run / RECORD).parent.mkdir(parents=True, exist_ok=True)
    files = _with_neighbours(file)
    for path in files:
        shutil.copyfile(path, (run / RECORD).with_name(path.name))
    write_json(run / RECORD, {"file": str(file), "digest": _digest(files)})


def import_recorded(path: Path, experiment: str | None = None) -> None:
    """Import the user's own experiment file that the training of a model recorded, so that its encoders and
    heads are registered. Call it before a checkpoint is loaded.

    path: the run folder, or a checkpoint in it. experiment: another file to import in place of the recorded
    one. The file is imported from where it lay in training and never from inside the run folder: a folder
    that was downloaded must not run code by itself. Where it is missing or has changed, a warning is logged.
    """
    if experiment is not None:
        import_file(experiment)
        return
    run = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else path.parent
    try:
        record = json.loads((run / RECORD).read_text())
        file, digest = Path(record["file"]), record["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    log = logging.getLogger(__name__)
    if not (file.is_absolute() and file.is_file()) or file.resolve().is_relative_to(run.resolve()):
        copy = (run / RECORD).with_name(file.name)
        log.warning("%s, the experiment file of this run, is missing; if the model needs its code, read the "
                    "copy and add --experiment %s", file, copy)  # fmt: skip
        return
    if _digest(_with_neighbours(file)) != digest:
        log.warning("%s has changed since %s was trained with it; a copy of that time is in %s",
                    file, run, (run / RECORD).parent)  # fmt: skip
    import_file(str(file))


def _split(name: str) -> tuple[str, str]:
    """(file or module, function) of FILE_OR_MODULE[:FUNCTION]."""
    before, colon, function = name.rpartition(":")
    return (before, function) if colon and function.isidentifier() else (name, "experiment")


def _with_neighbours(file: Path) -> list[Path]:
    """A file and the files in its folder that it imports, directly or through one another."""
    files, queue = [file], [file]
    while queue:
        for node in _statements(queue.pop()):
            names = (
                [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            )
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            beside = [file.parent / f"{name.partition('.')[0]}.py" for name in names]
            new = [path for path in beside if path.is_file() and path not in files]
            files += new
            queue += new
    return files


def _statements(file: Path) -> list[ast.AST]:
    """The nodes of a Python file; none for a file with a mistake, which its import reports."""
    try:
        return list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return []


def _digest(files: list[Path]) -> str:
    """SHA-256 of the bytes of all files."""
    return json_sha256({path.name: file_sha256(path) for path in files})


def load_function(name: str) -> Callable[..., Any]:
    """The function that ./mine.py:train_cuts or package.module:train_cuts stands for. Raises MayaError, which
    names the file and where possible the line, where there is none."""
    place, _, function = name.rpartition(":")
    file = find_file(place) if "/" in place or place.endswith(".py") else None
    elsewhere = [Path.cwd(), *_checkout()]
    try:
        if file is not None and _in_egs(file) is None:
            folder = _package_root(file)
            with _imports_from(folder, *elsewhere):
                module = _import_file(file, folder)
        else:
            with _imports_from(*elsewhere):
                module = importlib.import_module(place if file is None else str(_in_egs(file)))
    except _MISTAKES as error:
        raise MayaError(_sentence(name, error)) from error
    made = getattr(module, function, None)
    if not callable(made):
        raise MayaError(f"{place} has no function {function}{nearest(function, vars(module))}")
    return made


def find_file(name: str) -> Path | None:
    """The file that `name` stands for, absolute; None where it is the name of a module."""
    looks_like_file = "/" in name or name.endswith(".py")
    for candidate in (Path(name), Path(name + ".py")):
        if candidate.suffix == ".py" and candidate.is_file():
            return candidate.resolve()
    if looks_like_file:
        raise MayaError(f"there is no experiment file {_absolute(name)}" + _suggestion(name))
    if "." in name:
        return None
    return experiment_named(name)


def experiment_named(name: str, top: Path | None = None) -> Path:
    """The only file `name`.py in a folder under `top`, by default egs/ of the current folder, of Maya's
    checkout or of the installed package. Raises MayaError where there is none, or more than one."""
    tops = [top] if top else [Path("egs"), *(folder for folder, _ in _egs())]
    tops = [folder for folder in tops if folder.is_dir()] or [Path("egs")]
    top = next((folder for folder in tops if any(folder.glob(f"*/{name}.py"))), tops[0])
    matches = sorted(top.glob(f"*/{name}.py"))
    if len(matches) == 1:
        return matches[0].resolve()
    if matches:
        files = " or ".join(map(str, matches))
        raise MayaError(f"{name!r} is the name of {len(matches)} experiments; say --experiment {files}")
    names = sorted({p.stem for p in top.glob("*/*.py") if "def experiment(" in p.read_text(encoding="utf-8")})
    hint = nearest(name, names) or f"; {top} has {', '.join(names) or 'none'}"
    raise MayaError(f"there is no experiment {name!r}{hint}")


def _checkout() -> list[Path]:
    """The top of the checkout that Maya runs from, if it runs from one."""
    top = Path(maya.__file__).resolve().parents[1]
    return [top] if (top / "egs").is_dir() and (top / "setup.py").is_file() else []


def _egs() -> list[tuple[Path, str]]:
    """(folder, package) of egs/: that of the checkout, else that of the installed package."""
    if checkout := _checkout():
        return [(checkout[0] / "egs", "egs")]
    return [(Path(maya.__file__).resolve().parent / "egs", "maya.egs")]


def _in_egs(file: Path) -> str | None:
    """The dotted name of a file of egs/, under which its neighbours import it; None for any other file."""
    for folder, package in _egs():
        if file.is_relative_to(folder):
            return ".".join((package, *file.relative_to(folder).with_suffix("").parts))
    return None


def _package_root(file: Path) -> Path:
    """The folder that imports beside `file` start from: its own, or that of the package it lies in."""
    folder = file.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _import_file(file: Path, folder: Path) -> ModuleType:
    """Import a file under a name that no other file has, so that `from .other import x` works as well."""
    inside = file.relative_to(folder).with_suffix("").parts
    if len(inside) > 1:
        return importlib.import_module(".".join(inside))
    package = "_experiment_" + sha256(str(folder))[:12]
    if package not in sys.modules:
        parent = ModuleType(package)
        parent.__path__ = [str(folder)]
        sys.modules[package] = parent
    name = f"{package}.{file.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _imports_from(*folders: Path) -> Iterator[None]:
    """Let imports look into `folders` first, as for a program that lies in them; afterwards they come last,
    where they hide no other module. Modules that an experiment in another folder imported are forgotten
    where a file of the same name lies here."""
    folder = folders[0].resolve()
    for other, names in _folders.items():
        for name in list(names) if other != folder else []:
            if (folder / f"{name}.py").is_file() or (folder / name).is_dir():
                for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                    del sys.modules[loaded]
                names.discard(name)
    importlib.invalidate_caches()
    paths = [str(each.resolve()) for each in folders]
    before = set(sys.modules)
    sys.path[:] = [*paths, *(p for p in sys.path if p not in paths)]
    try:
        yield
    finally:
        sys.path[:] = [*(p for p in sys.path if p not in paths), *paths]
        new = {m.partition(".")[0] for m in set(sys.modules) - before}
        local = {m for m in new if _lies_in(sys.modules.get(m), folder)}
        _folders.setdefault(folder, set()).update(local)


def _lies_in(module: ModuleType | None, folder: Path) -> bool:
    """Whether a module, or a package with or without an __init__.py, was imported from `folder`."""
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
    return any(place and Path(place).parent == folder for place in places)


def _load(label: str, load: Callable[[], ModuleType], module: str = "") -> ModuleType:
    """Import; a mistake becomes one sentence that names the file and the line."""
    try:
        return load()
    except ModuleNotFoundError as error:
        if module and error.name and module.startswith(error.name):
            raise MayaError(
                f"there is no experiment {module!r}{_module_hint(module)}; give --experiment a file, or a "
                "module such as egs.indic12.mini"
            ) from error
        raise MayaError(_sentence(label, error)) from error
    except _MISTAKES as error:
        raise MayaError(_sentence(label, error)) from error


def _sentence(label: str, error: Exception) -> str:
    """Where in the user's own files it went wrong, and what."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or label}, line {error.lineno}: {error.msg}"
    library = str(Path(maya.__file__).resolve().parent)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith(("<", library, sys.prefix, sys.base_prefix)) and f.filename != __file__
    ]  # fmt: skip
    place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else label
    kind = "" if isinstance(error, (MayaError, ImportError)) else f"{type(error).__name__}: "
    return f"{place}: {kind}{error}"


def _absolute(name: str) -> Path:
    return Path(name if name.endswith(".py") else f"{name}.py").absolute()


def _suggestion(name: str) -> str:
    folder = Path(name).parent
    if Path(name).is_dir():
        return f"; {name} is a folder, name a file in it"
    if Path(name).is_file():
        return f"; {name} is not a Python file"
    return nearest(Path(name).stem, (p.stem for p in folder.glob("*.py"))) if folder.is_dir() else ""


def _module_hint(module: str) -> str:
    name = module.removeprefix("maya.")
    folder = name.split(".")[:-1]
    for base in (Path.cwd(), *(egs.parent for egs, _ in _egs())):
        files = base.joinpath(*folder).glob("*.py")
        if hint := nearest(name, (".".join([*folder, p.stem]) for p in files)):
            return hint
    return ""
