"""What of a run folder is uploaded: checkpoints, each a file or a folder, and the other files."""

import os
from dataclasses import dataclass
from pathlib import Path

from maya.files import read_json
from maya.storage.layout import UNFINISHED, step_of

CHECKPOINTS = "checkpoints"
OWN = ("watch.json", "watch.lock", "storage.json")  # written by the watcher itself
# Rebuilt from the data in seconds, or the locks of processes.
_LEFT_OUT = (*UNFINISHED, ".arrow", ".lock")


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """A checkpoint of a run folder. name: its path there; files: the paths of all its files there. A file
    beside it whose name begins with its name and a dot (a checksum) belongs to it."""

    name: str
    files: tuple[str, ...]

    @property
    def step(self) -> int | None:
        """The step of a training checkpoint; None of others, such as best.pt."""
        return step_of(self.name)

    def stamp(self, run: Path) -> tuple[tuple[str, int, int, int], ...]:
        """What changes when one of its files is written again. Raises OSError if one is gone."""
        stats = ((path, (run / path).stat()) for path in self.files)
        return tuple((path, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats)


def checkpoints(run: Path) -> list[LocalCheckpoint]:
    """The finished checkpoints: of several the most precious first. That is the newest training checkpoint,
    then best.pt and its like, then the older ones from new to old."""
    names = [f"{CHECKPOINTS}/{name}" for name in _names(run / CHECKPOINTS)]
    names += [name for name in _names(run) if name.endswith(".pt")]
    grouped: dict[str, list[str]] = {}
    for name in sorted(names, key=len):
        owner = next((o for o in grouped if name.startswith(f"{o}.")), name)
        grouped.setdefault(owner, []).extend(_files(run, name))
    items = [LocalCheckpoint(name, tuple(sorted(files))) for name, files in grouped.items() if files]
    newest = max((item.step for item in items if item.step is not None), default=None)

    def rank(item: LocalCheckpoint) -> tuple[int, int, str]:
        if item.step is None:
            return 1, 0, item.name
        return (0 if item.step == newest else 2), -item.step, item.name

    return sorted(items, key=rank)


def other_files(run: Path) -> list[str]:
    """The paths of all other files worth keeping: logs, options, tokenizer, results."""
    paths = []
    for folder, folders, names in os.walk(run):
        here = Path(folder).relative_to(run)
        if here == Path("."):
            folders[:] = [name for name in folders if name != CHECKPOINTS]
            names = [n for n in names if n not in OWN and not n.endswith(".pt")]
        paths += [str(here / name) for name in names if not name.endswith(_LEFT_OUT)]
    return sorted(paths)


def best_step(run: Path) -> int | None:
    """The step whose validation had the lowest error, where the run records it."""
    rows = read_json(run / "validations.json").items()
    errors = {int(step): row["error"] for step, row in rows if step.isdigit() and isinstance(row, dict)}
    return min(errors, key=lambda step: (errors[step], step)) if errors else None


def _names(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(n for n in names if not n.startswith(".") and not n.endswith(_LEFT_OUT))


def _files(run: Path, name: str) -> list[str]:
    path = run / name
    if path.is_file():
        return [name]
    return sorted(str(p.relative_to(run)) for p in path.rglob("*") if p.is_file())
