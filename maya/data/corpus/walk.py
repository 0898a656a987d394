"""The files of a folder at any depth: links are followed, and every folder is read once."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_NOT_A_CORPUS = ("__MACOSX", "@eaDir", "lost+found")  # folders that archives and storage devices make
_NAMED = 3  # names that a note lists


@dataclass(kw_only=True, slots=True)
class Walk:
    """The contents of a folder.

    files: every file, sorted by path; hidden: files and folders whose names begin with a dot, and those of
    archives and devices; again: (folder, the same folder) for links to what is read anyway, loops among them;
    broken: links that lead nowhere; closed: folders that cannot be opened.
    """

    files: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    again: list[tuple[Path, Path]] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)

    def notes(self, folder: Path) -> list[str]:
        """What was passed over, for a person; `folder` is where the walk began."""
        notes = []
        if self.hidden:
            notes.append(
                f"passed over {len(self.hidden)} hidden files or folders: {_names(self.hidden, folder)}"
            )
        if self.again:
            named = "; ".join(
                f"{path.relative_to(folder)} is {other.relative_to(folder)}"
                for path, other in self.again[:_NAMED]
            )
            notes.append(f"passed over {len(self.again)} links to folders that are read already: {named}")
        if self.broken:
            notes.append(
                f"passed over {len(self.broken)} links that lead nowhere: {_names(self.broken, folder)}"
            )
        if self.closed:
            notes.append(f"could not open {len(self.closed)} folders: {_names(self.closed, folder)}")
        return notes


def walk(folder: Path, each: Callable[[Path], None] | None = None) -> Walk:
    """Look through a folder. A folder that several paths lead to is read under the one without links, or the
    first of them. each: gets every file, in no special order; the result then lists none."""
    result = Walk()
    keep = each or result.files.append
    read: dict[tuple[int, int], Path] = {}
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        path = folders.popleft() if folders else links.popleft()
        try:
            status = path.stat()
            if (first := read.setdefault((status.st_dev, status.st_ino), path)) != path:
                result.again.append((path, first))
                continue
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError:
            result.closed.append(path)
            continue
        for entry in entries:
            inner = path / entry.name
            if entry.name.startswith(".") or entry.name in _NOT_A_CORPUS:
                result.hidden.append(inner)
                continue
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(inner)
                elif entry.is_file():
                    keep(inner)
                elif entry.is_symlink():
                    result.broken.append(inner)
            except OSError:  # a link to itself
                result.broken.append(inner)
    result.files.sort()
    return result


def _names(paths: Sequence[Path], folder: Path) -> str:
    named = ", ".join(str(path.relative_to(folder)) for path in paths[:_NAMED])
    return named + (" ..." if len(paths) > _NAMED else "")
