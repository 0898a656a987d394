"""Import an experiment by the name a person types: a module, a file anywhere, or a bare name under egs/."""

import importlib
import importlib.util
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
from maya.files import sha256

# Mistakes in an experiment's own lines. Anything else keeps its traceback, which names the file by itself.
_MISTAKES = (SyntaxError, ImportError, NameError, AttributeError, TypeError, ValueError, LookupError)

# The folders of experiment files that were imported so far, and the module names that came from each.
_folders: dict[Path, set[str]] = {}


def make_experiment(name: str) -> Any:
    """What `experiment()` returns in the file or module that `name` stands for.

    name: a file (mine.py, ./mine.py, ../a/mine, /home/me/mine.py; relative to the current folder), a module
    (egs.indic12.mini), or the bare name of a file in the current folder or under egs/ (mini). A file may
    import others beside it. Raises MayaError, which names the file and where possible the line.
    """
    file = find_file(name)
    label = str(file) if file else name
    elsewhere = [Path.cwd(), *_checkout()]
    if file is not None and _in_egs(file) is None:
        folder = _package_root(file)
        with _imports_from(folder, *elsewhere):
            return _call(label, lambda: _import_file(file, folder))
    module = name if file is None else str(_in_egs(file))
    with _imports_from(*elsewhere):
        return _call(label, lambda: importlib.import_module(module), module=module)


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
    """The only file `name`.py in a folder under `top`, by default egs/ of the current folder or of Maya's
    checkout. Raises MayaError where there is none, or more than one."""
    tops = [top] if top else [Path("egs"), *(folder / "egs" for folder in _checkout())]
    top = next((folder for folder in tops if folder.is_dir()), Path("egs"))
    matches = sorted(top.glob(f"*/{name}.py"))
    if len(matches) == 1:
        return matches[0].resolve()
    if matches:
        files = " or ".join(map(str, matches))
        raise MayaError(f"{name!r} is the name of {len(matches)} experiments; say --experiment {files}")
    names = sorted(p.stem for p in top.glob("*/*.py") if "def experiment(" in p.read_text(encoding="utf-8"))
    hint = nearest(name, names) or f"; {top} has {', '.join(names) or 'none'}"
    raise MayaError(f"there is no experiment {name!r}{hint}")


def _checkout() -> list[Path]:
    """The top of the checkout that Maya runs from, if it runs from one."""
    top = Path(maya.__file__).resolve().parents[1]
    return [top] if (top / "egs").is_dir() else []


def _in_egs(file: Path) -> str | None:
    """The dotted name of a file of egs/, under which its neighbours import it; None for any other file."""
    for top in _checkout():
        if file.is_relative_to(top / "egs"):
            return ".".join(file.relative_to(top).with_suffix("").parts)
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


def _call(label: str, load: Callable[[], ModuleType], module: str = "") -> Any:
    """Import and call `experiment()`; a mistake becomes one sentence that names the file and the line."""
    try:
        loaded = load()
    except ModuleNotFoundError as error:
        if module and error.name and module.startswith(error.name):
            raise MayaError(
                f"there is no experiment {module!r}{_module_hint(module)}; give --experiment a file, or a "
                "module such as egs.indic12.mini"
            ) from error
        raise MayaError(_sentence(label, error)) from error
    except _MISTAKES as error:
        raise MayaError(_sentence(label, error)) from error
    if not callable(make := getattr(loaded, "experiment", None)):
        raise MayaError(f"{label} has no function experiment(); add one that returns an Experiment")
    try:
        return make()
    except (MayaError, *_MISTAKES) as error:
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
    folder = module.split(".")[:-1]
    for base in (Path.cwd(), *_checkout()):
        files = base.joinpath(*folder).glob("*.py")
        if hint := nearest(module, (".".join([*folder, p.stem]) for p in files)):
            return hint
    return ""
